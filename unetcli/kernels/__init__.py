"""Numba kernels: pure functions over arrays."""
