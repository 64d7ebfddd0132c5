"""The kernels: compiled without a GPU, their resources, traffic and limits."""
