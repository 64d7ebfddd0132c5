"""Measured tables of the public package `aiconfigurator-core`, read where it is installed."""
