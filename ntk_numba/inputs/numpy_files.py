"""Readers of data in .npy and .npz files, which never load pickled objects."""

import errno
import io
import math
import os
import weakref
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError, NtkNumbaError
from ntk_numba.inputs.arrays import Opened, pick
from ntk_numba.opening import open_ordinary, read_into

FEW = 64  # rows; so many, in column order, are read together with those that follow
KEPT_BYTES = 8 << 20  # of rows in column order
PIECE = 1 << 20  # bytes of an archive that are unpacked at a time
MOST_HEADER = 1 << 16  # bytes; NumPy reads any number of them before it refuses more than 10,000
PAGE = 4096  # to read so many bytes takes as long as the call
_MAGIC, _ZIPS = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")


class _DamagedError(Exception):
    """A file is not what its name says; the text says why, and `_refusal` names the file."""


def open_npy(path: Path, _: str, most: int) -> Opened:
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
    Exception
        Of many classes, if it is no .npy file, is too short for its array, or holds pickled
        objects; see `_refusal`.
    """

    def __init__(self, file: BinaryIO) -> None:
        start = file.read(len(_ZIPS[0]))
        file.seek(0)
        if start in _ZIPS:
            raise _DamagedError("it is an .npz archive")
        if not _MAGIC.startswith(start):
            raise _DamagedError("or pickled Python objects, which are never loaded")
        self.shape, self._by_columns, self.dtype = _read_header(file)
        self._offset, size = file.tell(), os.fstat(file.fileno()).st_size
        if self._offset + self._bytes(self.shape) > size:
            raise _DamagedError(f"it has {size} bytes, too few for an array of {self.shape}")
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
            self._kept, rows = (0, np.empty(0)), np.empty(0)  # so that no two runs are in memory
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
            done = read_into(self._file.fileno(), view, at)
            if done == 0:
                raise OSError(errno.EIO, "the file has become shorter")
            view, at = view[done:], at + done

    def _bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of an array of some shape."""
        return math.prod(shape) * self.dtype.itemsize


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a .npy file: the shape, whether it is stored by columns, and the dtype.

    Raises
    ------
    Exception
        Of many classes, if there is none, or the array holds Python objects; see `_refusal`.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise _DamagedError(f"its version is {version}")
    # Version 3 has other letters in the names of fields only, and fields are refused.
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    length = file.read(2 if first else 4)
    if (size := int.from_bytes(length, "little")) > MOST_HEADER:
        raise _DamagedError(f"its header has {size} bytes")
    shape, by_columns, dtype = read(io.BytesIO(length + file.read(size)))
    if dtype.hasobject:
        raise _DamagedError("Python objects")
    if min(shape, default=0) < 0:
        raise _DamagedError(f"its shape is {shape}")
    return shape, by_columns, dtype


def open_npz(path: Path, key: str, most: int) -> Opened:
    """Load a whole array of an .npz archive, since it may be compressed, of at most `most` bytes.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, holds pickled objects, lacks the key, or states a size
        that is too large or not that of the array.
    """
    with open_ordinary(path) as file:
        start = file.read(len(_MAGIC))
        file.seek(0)
        if start == _MAGIC:  # NumPy would load all of it
            raise InvalidValueError(
                f"{path} is no .npz archive; a single array belongs in a .npy file"
            )
        if not start.startswith(_ZIPS):
            raise _refusal(path, ValueError("pickle"))
        try:
            archive = np.load(file)
        except Exception as error:
            raise _refusal(path, error) from None
        if not key and {"indices", "indptr", "format"} <= set(archive.files):
            raise InvalidValueError(
                f"{path} is a sparse matrix; load it: X = scipy.sparse.load_npz({str(path)!r})"
            )
        chosen = pick(path, key, list(archive.files))
        members: Any = archive.zip
        try:
            member = chosen if chosen in members.namelist() else f"{chosen}.npy"
            with members.open(member) as stream:
                array = _read_member(stream, f"{path}:{chosen}", most)
        except NtkNumbaError:
            raise
        except Exception as error:  # NumPy and zipfile raise many classes for damaged files
            raise _refusal(path, error) from None
    return Opened(array, chosen, array.nbytes)


def _read_member(stream: IO[bytes], name: str, most: int) -> NDArray[Any]:
    """Return the array of a member of an archive, whose size its header states.

    Raises
    ------
    ValueError
        If it is larger than `most` bytes, or does not have as many bytes as its header states.
    """
    shape, by_columns, dtype = _read_header(stream)
    size = math.prod(shape) * dtype.itemsize
    if size > most:
        raise InvalidValueError(
            f"{name} takes {show_bytes(size)} of memory, more than {show_bytes(most)}, since an "
            f".npz file is read as a whole; save it as .npy, which is read in runs of rows"
        )
    array = np.empty(math.prod(shape), dtype)
    data: Any = array.view(np.uint8) if size else b""
    view = memoryview(data)
    for start in range(0, size, PIECE):
        piece = view[start : start + PIECE]
        while len(piece):
            count = stream.readinto(piece)  # type: ignore[attr-defined]
            if not count:
                raise InvalidValueError(f"{name} is truncated: it has fewer bytes than it states")
            piece = piece[count:]
    if stream.read(1):  # this also checks the checksum of the archive
        raise InvalidValueError(f"{name} has more bytes than it states")
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


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
