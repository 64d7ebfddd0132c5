"""What a launch takes: constants fitted to measured kernels, one room a kernel family."""
