"""Gram files: contents, storage, layout, tiles, lease, writer and reader.

Nothing here computes a kernel: `compute` and `cluster` call it with finished tiles.
"""
