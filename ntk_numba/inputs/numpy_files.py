"""Readers of data in .npy and .npz files, which never load pickled objects."""

import errno
import math
import os
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.arrays import Opened, pick
from ntk_numba.opening import open_ordinary

FEW = 64  # rows; so many, in column order, are read together with those that follow
KEPT_BYTES = 8 << 20  # of rows in column order
PAGE = 4096  # to read so many bytes takes as long as the call
_MAGIC, _ZIPS = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")


def open_npy(path: Path, _: str) -> Opened:
    """Open a .npy file; its rows are read when needed.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, or holds pickled objects.
    """
    file = open_ordinary(path)
    try:
        rows = FileArray(file)
    except Exception as error:  # NumPy raises many classes of errors for damaged files
        file.close()
        raise _refusal(path, error) from None
    return Opened(rows, held=rows.held, close=file.close)


class FileArray:
    """The array of an open .npy file, whose runs of rows, ``rows[start:stop]``, are read.

    The file is read and not mapped: if a mapped file is truncated, that ends the process. The file
    is closed with this object.

    Attributes
    ----------
    shape, dtype : those of the array
    held : int
        The most bytes that are kept from one read to the next.

    Raises
    ------
    ValueError
        If it is no .npy file, is too short for its array, or holds pickled objects.
    """

    def __init__(self, file: BinaryIO) -> None:
        start = file.read(len(_ZIPS[0]))
        file.seek(0)
        if start in _ZIPS:
            raise InvalidValueError("it is an .npz archive")
        if not _MAGIC.startswith(start):
            raise InvalidValueError("or pickled Python objects, which are never loaded")
        version = np.lib.format.read_magic(file)
        # Version 3 has other letters in the names of fields only, and fields are refused.
        known = {(1, 0): np.lib.format.read_array_header_1_0}
        read_header = known.get(version, np.lib.format.read_array_header_2_0)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise InvalidValueError(f"its version is {version}")
        self.shape, self._by_columns, self.dtype = read_header(file)
        if self.dtype.hasobject:
            raise InvalidValueError("Python objects")
        self._offset, size = file.tell(), os.fstat(file.fileno()).st_size
        if min(self.shape, default=0) < 0 or self._offset + self._bytes(self.shape) > size:
            raise InvalidValueError(f"it has {size} bytes, too few for an array of {self.shape}")
        self._kept: tuple[int, NDArray[Any]] = 0, np.empty(0)
        self.held = min(KEPT_BYTES, self._bytes(self.shape)) if self._by_columns else 0
        self._file = file
        weakref.finalize(self, file.close)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Return rows ``[start:stop]``, or all of them for ``[()]``."""
        if isinstance(rows, tuple):
            order: Any = "F" if self._by_columns else "C"
            return self._read(math.prod(self.shape), 0).reshape(self.shape, order=order)
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        if self._by_columns and len(self.shape) > 1:
            return self._of_columns(start, count) if count < FEW else self._kept_rows(start, count)
        width = self.shape[1:]
        return self._read(count * math.prod(width), start * math.prod(width)).reshape(count, *width)

    def _kept_rows(self, start: int, count: int) -> NDArray[Any]:
        """Return rows of an array that is stored column by column; keep those that follow them.

        Each column is read by a call of its own, so that many rows take as long as a few.
        """
        first, rows = self._kept
        if not first <= start <= start + count <= first + len(rows):
            self._kept = 0, rows[:0]  # so that no two runs of rows are in memory
            most = KEPT_BYTES // max(1, self._bytes(self.shape[1:]))
            rows = self._of_columns(start, min(max(count, most), self.shape[0] - start))
            first, self._kept = start, (start, rows)
        return rows[start - first : start - first + count]

    def _of_columns(self, start: int, count: int) -> NDArray[Any]:
        """Return rows of an array that is stored column by column.

        Columns that are shorter than a page are read several at a time.
        """
        length, columns = self.shape[0], math.prod(self.shape[1:])
        step = max(1, PAGE // max(1, self._bytes((length,))))
        out = np.empty((columns, count), self.dtype)
        for first in range(0, columns, step):
            some = out[first : first + step]
            at = first * length + start
            if len(some) == 1:
                self._fill(some[0], at)
                continue
            run = self._read((len(some) - 1) * length + count, at)
            for j, column in enumerate(some):
                column[:] = run[j * length : j * length + count]
        return out.T.reshape(count, *self.shape[1:], order="F")

    def _read(self, count: int, first: int) -> NDArray[Any]:
        """Return `count` entries from entry `first` on, in the order of the file."""
        entries = np.empty(count, self.dtype)
        self._fill(entries, first)
        return entries

    def _fill(self, entries: NDArray[Any], first: int) -> None:
        """Fill a contiguous array with the entries of the file from entry `first` on."""
        if not entries.nbytes:
            return
        view, at = entries.view(np.uint8).data, self._offset + first * entries.itemsize
        while view:
            done = os.preadv(self._file.fileno(), [view], at)
            if done == 0:
                raise OSError(errno.EIO, "the file has become shorter")
            view, at = view[done:], at + done

    def _bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of an array of some shape."""
        return math.prod(shape) * self.dtype.itemsize


def open_npz(path: Path, key: str) -> Opened:
    """Load a whole array of an .npz archive, since it may be compressed.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, holds pickled objects, or lacks the key.
    """
    with open_ordinary(path) as file:
        try:
            archive = np.load(file)
        except Exception as error:
            raise _refusal(path, error) from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InvalidValueError(
                f"{path} is no .npz archive; a single array belongs in a .npy file"
            )
        if not key and {"indices", "indptr", "format"} <= set(archive.files):
            raise InvalidValueError(
                f"{path} is a sparse matrix; load it: X = scipy.sparse.load_npz({str(path)!r})"
            )
        chosen = pick(path, key, list(archive.files))
        try:
            array = archive[chosen]
            if not isinstance(array, np.ndarray):
                raise InvalidValueError(f"{chosen} is no array")
        except Exception as error:
            raise _refusal(path, error) from None
    return Opened(array, chosen, array.nbytes)


def _refusal(path: Path, error: Exception) -> InvalidValueError:
    """Return the error for a .npy or .npz file that NumPy cannot read."""
    reason = str(error)
    if "Object arrays" in reason or "Python objects" in reason:
        return InvalidValueError(
            f"{path} holds pickled Python objects, which are never loaded; save a plain array of "
            f"numbers"
        )
    if "pickle" in reason:  # NumPy's message for any file that does not begin as a .npy file does
        reason = "or pickled Python objects, which are never loaded"
    return InvalidValueError(f"{path} is no valid {path.suffix} file, perhaps truncated ({reason})")
