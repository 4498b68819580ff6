"""Read X: a matrix of samples in runs of rows, whatever it comes from."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba import stopping
from ntk_numba.digest import Digest
from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError
from ntk_numba.inputs.arrays import file_of, reader_of
from ntk_numba.inputs.paths import open_path
from ntk_numba.inputs.survey import Depth, Findings, Reading, Survey, largest_entry

BLOCK_BYTES = 2 << 20  # rows are read, checked and hashed in blocks of about this size
BLOCK_ROWS = 64  # a multiple of it, so that threads can share a block evenly
# Rows that are evenly spaced: so many at most, of so many bytes, but never only one
EVENLY_ROWS = 256
EVENLY_BYTES = 1 << 20
EVENLY_LEAST = 8


class Source:
    """A real matrix of samples by features, read in runs of rows as float32 or float64.

    Attributes
    ----------
    name : str
        How errors call it: an argument or a file.
    shape : (N, n0)
    dtype : float32 if that is what the data is, else float64
    file : Path or None
        The file the data is in, if it is in one.
    held : int
        Bytes that stay in memory as long as this source does, because its file cannot be read in
        runs of rows (.npz, .csv).
    """

    def __init__(self, name: str, rows: Any, held: int = 0, file: Path | None = None) -> None:
        dtype = np.dtype(rows.dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise InvalidTypeError(
                f"{name} holds {dtype}; real numbers are wanted: bool, integers, float16, float32 "
                f"or float64"
            )
        shape = tuple(int(n) for n in rows.shape)
        if len(shape) != 2:
            mend = "; one sample is X[None, :], one feature X[:, None]" if len(shape) == 1 else ""
            raise InvalidValueError(
                f"{name} must have two dimensions (samples, features), not {shape}{mend}"
            )
        if shape[0] == 0:
            raise InvalidValueError(f"{name} is empty: it has no rows")
        if shape[1] == 0:
            raise InvalidValueError(
                f"{name} has {shape[0]} rows but no columns; a sample needs a feature"
            )
        self.name, self.shape, self.held = name, shape, held
        self.file = file_of(rows) if file is None else file
        self.dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)
        self._rows = reader_of(rows, file is not None)
        self._findings = Findings(shape[0])
        # of what is in memory, or open elsewhere, changes are its owner's
        self._path = None if held else file
        self._stamp = _stamp(self._path)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Return rows start to stop, C-contiguous, in the source's dtype."""
        try:
            return np.ascontiguousarray(self._rows(start, stop), self.dtype)
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.name}: rows {start} to {stop - 1} cannot be read; is the file damaged, or "
                f"was it changed? ({error})"
            ) from None

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the runs of rows that are read at a time, from start to stop."""
        end = self.shape[0] if stop is None else stop
        step = max(1, BLOCK_BYTES // (self.shape[1] * 8))
        step = step // BLOCK_ROWS * BLOCK_ROWS or step
        for first in range(start, end, step):
            stopping.check()
            yield first, min(first + step, end)

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.floating]:
        """Return the given rows, in that order."""
        return np.concatenate([self.read(int(i), int(i) + 1) for i in rows])

    def sample(self, count: int) -> NDArray[np.floating]:
        """Return at most `count` rows, evenly spaced; NaN and infinity are refused."""
        index = np.linspace(0, self.shape[0] - 1, min(count, self.shape[0])).astype(int)
        rows = self.take(index)
        self._refuse_not_finite(index, rows)
        return rows

    def evenly(self) -> NDArray[np.floating]:
        """Return the rows that stand for all: EVENLY_ROWS of them, fewer where they are long."""
        size = self.shape[1] * 8
        return self.sample(min(EVENLY_ROWS, max(EVENLY_LEAST, EVENLY_BYTES // size)))

    def check(self) -> "Source":
        """Refuse NaN and infinity in any row, and return this source; faster than a survey."""
        self._find_out(None, Depth.FINITE)
        return self

    def survey(self, rows: Sequence[range] | None = None, *, digest: bool = False) -> Survey:
        """Read runs of rows, by default all, refuse NaN and infinity, and return what they hold.

        Rows are read and known by blocks of `digest.ROWS`. A block is read a second time only if
        this call asks for a digest and earlier ones did not.

        Parameters
        ----------
        digest : bool
            Whether to hash the rows too, which takes longer than all the rest.
        """
        self._find_out(rows, Depth.HASHES if digest else Depth.NORMS)
        blocks = self._findings.blocks(rows)
        evenly = self._evenly_hash if digest else b""
        hashes = self._findings.hashes(blocks if digest else [])
        return Survey(*self._findings.largest(blocks), Digest(self.shape, evenly, hashes))

    @cached_property
    def _evenly_hash(self) -> bytes:
        return hashlib.sha256((self.evenly().astype("<f8") + 0.0).data).digest()

    def _find_out(self, rows: Sequence[range] | None, depth: Depth) -> None:
        """Read the blocks of some rows that are not known so deeply yet."""
        for first, last in self._findings.unknown(rows, depth):
            reading = Reading(self._findings, depth)
            for start, stop in self.blocks(first, last):
                block = self.read(start, stop)
                self._refuse_not_finite(range(start, stop), block)
                reading.add(start, block)

    def refuse_changed(self) -> None:
        """Make sure that what was read was the file that was opened.

        Raises
        ------
        OSError
            The file has been written to, or is another one.
        """
        if self._stamp != _stamp(self._path):
            raise FileError(f"{self.name} has changed since it was opened")

    def _refuse_not_finite(
        self, numbers: range | NDArray[np.integer], block: NDArray[np.floating]
    ) -> None:
        """Refuse rows with NaN or infinity, and name the first one by its number."""
        if np.isfinite(largest_entry(block)):
            return
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise InvalidValueError(
            f"{self.name}: row {numbers[row]}, column {column} (counted from 0) is "
            f"{block[row, column]}; remove the row or fill in a finite number"
        )


def result_dtype(dtype: DTypeLike | None, *sources: Source) -> np.dtype:
    """Return the dtype of a result; by default float64 unless all data is float32."""
    if dtype is None:
        return np.dtype(np.result_type(*(s.dtype for s in sources)))
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted not in (np.float32, np.float64):
        raise InvalidValueError(f"dtype must be float64 or float32, not {dtype!r}")
    return np.dtype(wanted.type)


def open_source(x: Any, name: str) -> Source:
    """Open what an argument stands for.

    Parameters
    ----------
    x : array, numpy.memmap, h5py.Dataset, path or Source
        Paths: ``x.npy``, ``x.npz:key``, ``x.h5:dataset``, ``x.csv``; ``:key`` may be left out where
        the file holds one array.
    name : str
        The argument's name, for errors.

    Raises
    ------
    OSError
        A file that is missing, a folder, or cannot be read.
    ValueError, TypeError
        A file of another kind, truncated, pickled, or without the key; data that is not a real
        matrix with at least one row and one column.
    """
    if isinstance(x, Source):
        return x
    if isinstance(x, str | os.PathLike):
        given, path, opened = open_path(os.fspath(x))
        return Source(given, opened.rows, opened.held, path)
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidTypeError(
            f"{name} is a masked array, and a kernel needs every entry; fill it first"
        )
    if isinstance(x, h5py.Dataset) or (hasattr(x, "shape") and hasattr(x, "dtype")):
        return Source(name, x)
    try:
        array = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise InvalidValueError(f"{name} is no matrix: {error}") from None
    return Source(name, array)


def open_sources(X: Any, Z: Any) -> tuple[Source, Source | None]:
    """Open X, and Z if there is one; see `open_source`."""
    return open_source(X, "X"), None if Z is None else open_source(Z, "Z")


def read_labels(path: str | os.PathLike[str], count: int) -> NDArray[Any]:
    """Read one label for each sample from a file, given as for `open_source`."""
    name, _, opened = open_path(os.fspath(path))
    labels = np.asarray(opened.rows[()]).ravel()
    if labels.dtype.kind == "O":
        raise InvalidTypeError(f"{name} holds {labels.dtype}; labels are numbers or strings")
    if len(labels) != count:
        raise InvalidValueError(f"{name} holds {len(labels)} labels; the matrix has {count} rows")
    return labels


def _stamp(path: Path | None) -> tuple[int, ...]:
    """Return what tells one state of a file from another."""
    if path is None or not path.exists():
        return ()
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
