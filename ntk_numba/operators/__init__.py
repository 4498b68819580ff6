"""Kernel matrices of any size: as arrays, by tiles, and as operators that workers may share."""
