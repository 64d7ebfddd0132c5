"""Replay measurements against the model: kernels from tables and files, whole steps from load tests."""
