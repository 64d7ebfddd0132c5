"""Compiled kernels executed without a GPU: PTX interpreted on NumPy, checked at every access, counted."""
