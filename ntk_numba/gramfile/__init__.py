"""Gram files: contents, layout, tiles, lease, writer and reader. Nothing here computes a kernel."""
