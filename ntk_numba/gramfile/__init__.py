"""Gram files: contents, storage, layout, tiles, lease, writer and reader.

No file here computes a kernel: `compute` and `cluster` pass finished tiles to the writer.
"""
