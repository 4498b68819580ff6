"""Compilation: its options and cache, intrinsics, and loops that are called by their address."""
