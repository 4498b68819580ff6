"""Compilation: its options and cache, intrinsics, and loops that are called by their address."""

from ntk_numba import environment as environment  # checked before Numba is imported
