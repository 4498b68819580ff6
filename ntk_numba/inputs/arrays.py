"""Readers of rows of arrays, memory maps and HDF5 datasets, and the contents of an open file."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ntk_numba.errors import InvalidValueError

Reader = Callable[[int, int], Any]  # (start, stop) → these rows, as any array that NumPy takes


class Opened(NamedTuple):
    """The contents of an open data file.

    Attributes
    ----------
    rows : an array, or anything with a shape, a dtype and runs of rows as ``rows[start:stop]``
    key : str
        The name of the array in a file that holds several, else "".
    held : int
        The bytes that stay in memory as long as `rows` does; 0 if runs of rows are read when
        needed.
    files : tuple of Path
        Other files that hold some of the rows, such as the sources of a virtual dataset.
    close : a function that closes the file
    """

    rows: Any
    key: str = ""
    held: int = 0
    files: tuple[Path, ...] = ()
    close: Callable[[], None] = lambda: None


def pick(path: Path, key: str, keys: list[str]) -> str:
    """Return `key` if the file has it or, without a key, the only one of its keys.

    Raises
    ------
    ValueError
        If the file lacks the key, or no key is given and it has several.
    """
    known = ", ".join(keys[:10]) + (", …" if len(keys) > 10 else "")
    if key:
        if key not in keys:
            raise InvalidValueError(f"{path} has no array {key!r}; it has {known or 'none'}")
        return key
    if len(keys) != 1:
        raise InvalidValueError(
            f"{path} holds {len(keys)} arrays ({known or 'none'}); name one: {path}:key"
        )
    return keys[0]


def file_of(rows: Any) -> Path | None:
    """Return the file of a memory map or an HDF5 dataset; None for other arrays."""
    if isinstance(rows, h5py.Dataset):
        return Path(rows.file.filename)
    if isinstance(rows, np.memmap) and isinstance(rows.filename, str | os.PathLike):
        return Path(rows.filename)
    return None


def reader_of(rows: Any, opened_here: bool) -> Reader:
    """Return a function that reads runs of rows.

    Parameters
    ----------
    rows : see `Opened`
    opened_here : bool
        Whether this package has opened the file of the rows, so that nobody else changes its map.
    """
    if opened_here and isinstance(rows, np.memmap) and rows.flags.c_contiguous:
        return _through_its_file(rows)
    return _through_its_map(rows)


def _through_its_file(rows: np.memmap) -> Reader:
    """Return a reader of a .npy file in row order that does not use the map.

    If the file is truncated while it is read, a map ends the process; a read only fails.
    """
    path, dtype, width, offset = str(rows.filename), rows.dtype, rows.shape[1:], rows.offset
    values = int(np.prod(width))

    def read(start: int, stop: int) -> Any:
        count, at = (stop - start) * values, offset + start * values * dtype.itemsize
        return np.fromfile(path, dtype, count, offset=at).reshape(stop - start, *width)

    return read


def _through_its_map(rows: Any) -> Reader:
    """Return a reader of an array that frees the pages of a memory map after each read.

    These pages would count as memory of the process.
    """
    owner = rows
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    private = getattr(rows, "mode", "c") == "c"  # pages changed in such a map exist nowhere else

    def read(start: int, stop: int) -> Any:
        if not isinstance(owner, mmap.mmap) or private or not hasattr(mmap, "MADV_DONTNEED"):
            return rows[start:stop]
        copy = np.empty((stop - start, *rows.shape[1:]), rows.dtype)
        # In column order each column is on pages of its own, and a read maps up to 64 KiB of them,
        # so few columns are read at a time.
        step = rows.shape[1] if rows.flags.c_contiguous else 64
        for first in range(0, rows.shape[1], step):
            copy[:, first : first + step] = rows[start:stop, first : first + step]
            owner.madvise(mmap.MADV_DONTNEED)
        return copy

    return read
