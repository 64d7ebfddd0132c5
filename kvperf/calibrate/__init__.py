"""Fit the constants of a kernel family to measured rows, and score them on rows held out."""
