"""Cholesky factors of kernel matrices, in memory and in files."""
