"""The samples X as a matrix that is read in runs of rows, from an array or from a file."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba import stopping
from ntk_numba.arguments import parse_bytes
from ntk_numba.digest import Digest
from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError, NtkNumbaError
from ntk_numba.inputs.arrays import (
    bad_entry,
    file_of,
    matrix_shape,
    reader_of,
    real_dtype,
    refuse_not_real,
    to_floats,
)
from ntk_numba.inputs.containers import open_object
from ntk_numba.inputs.paths import open_path
from ntk_numba.inputs.survey import Depth, Findings, Reading, Survey, largest_entry
from ntk_numba.machine import job_memory

BLOCK_BYTES = 2 << 20  # rows are read, checked and hashed in blocks of about this size
BLOCK_ROWS = 64  # blocks have a multiple of so many rows, so that threads share them evenly
# The number of evenly spaced rows that the centre is computed from: at most CENTRE_ROWS, fewer if
# they have more than CENTRE_BYTES, and at least CENTRE_MIN_ROWS.
CENTRE_ROWS = 256
CENTRE_BYTES = 1 << 20
CENTRE_MIN_ROWS = 8


class Source:
    """A real matrix of samples by features, read in runs of rows as float32 or float64.

    Parameters
    ----------
    name : str
        The name of the argument or file, for errors.
    rows, held : see `arrays.Opened`
    file : Path, optional
        The file that this package has opened for the rows; none for arrays of the caller.
    others : sequence of Path
        Other files that hold some of the rows.
    call : str
        What a user types for the array, in errors.

    Attributes
    ----------
    name, held : as above
    shape : (N, n0)
    dtype : float32 if the data is float32, else float64
    file : Path or None
        The file of the data, whoever has opened it; None if there is none.

    Raises
    ------
    ValueError, TypeError
        If the rows are not a matrix of real numbers with at least one row and one column.
    """

    def __init__(
        self,
        name: str,
        rows: Any,
        held: int = 0,
        file: Path | None = None,
        others: Sequence[Path] = (),
        *,
        call: str = "X",
    ) -> None:
        dtype = np.dtype(rows.dtype)
        refuse_not_real(name, dtype, call)
        shape = matrix_shape(name, rows.shape, call)
        self.name, self.shape, self.held = name, shape, held
        self.file = file_of(rows) if file is None else file
        self.dtype = real_dtype(dtype)
        self._columns = getattr(rows, "columns", None)
        self._rows = reader_of(rows, file is not None)
        self._findings = Findings(shape[0])
        # Changes are detected only in files that this package reads; arrays belong to the caller.
        whole = isinstance(rows, np.ndarray) and held > 0  # nothing more is read from the file
        self._paths = [] if whole or file is None else [file, *others]
        self._stamps = [_stamp(path) for path in self._paths]

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Return rows `start` to `stop`, C-contiguous, in the source's dtype.

        Raises
        ------
        OSError
            If they cannot be read.
        ValueError
            If an entry is masked, missing, or an integer that float64 does not hold.
        """
        try:
            rows = self._rows(start, stop)
            return to_floats(self.name, rows, self.dtype, (start, 0), self._columns)
        except (NtkNumbaError, MemoryError):
            raise
        except Exception as error:  # a file, or a library that computes the rows
            cause = "; is the file damaged, or was it changed?" if self.file else ""
            raise FileError(
                f"{self.name}: rows {start} to {stop - 1} cannot be read{cause} ({error})"
            ) from None

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Split rows `start` to `stop` into runs of about BLOCK_BYTES; yield the bounds of each."""
        end = self.shape[0] if stop is None else stop
        step = max(1, BLOCK_BYTES // (self.shape[1] * 8))
        step = step // BLOCK_ROWS * BLOCK_ROWS or step
        for first in range(start, end, step):
            stopping.check()
            yield first, min(first + step, end)

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.floating]:
        """Return the given rows, in that order."""
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for k, i in enumerate(rows):
            found[k] = self.read(int(i), int(i) + 1)[0]
        return found

    def sample(self, count: int) -> NDArray[np.floating]:
        """Return at most `count` evenly spaced rows, which may not hold NaN or infinity."""
        index = np.linspace(0, self.shape[0] - 1, min(count, self.shape[0])).astype(int)
        rows = self.take(index)
        self._refuse_not_finite(index, rows)
        return rows

    def centre_sample(self) -> NDArray[np.floating]:
        """Return the evenly spaced rows that the centre of the unit vectors is computed from."""
        return self.sample(self.centre_rows)

    @property
    def centre_rows(self) -> int:
        """The number of rows of `centre_sample`."""
        most = max(CENTRE_MIN_ROWS, CENTRE_BYTES // (self.shape[1] * 8))
        return min(CENTRE_ROWS, most, self.shape[0])

    def check(self) -> "Source":
        """Raise an error if a row holds NaN or infinity, and return this source.

        This is faster than a survey.
        """
        self._read_unknown(None, Depth.FINITE)
        return self

    def survey(self, rows: Sequence[range] | None = None, *, digest: bool = False) -> Survey:
        """Read runs of rows, by default all, and return their largest norm and their digest.

        Rows are read in blocks of `digest.ROWS`, and the findings are kept. A block is read a
        second time only if this call asks for more than earlier ones did, as for a digest.

        Parameters
        ----------
        digest : bool
            Whether to compute the digest too, which takes longer than everything else.

        Raises
        ------
        ValueError
            If a row holds NaN or infinity.
        """
        self._read_unknown(rows, Depth.HASHES if digest else Depth.NORMS)
        blocks = self._findings.blocks(rows)
        sample_hash = self._sample_hash if digest else b""
        hashes = self._findings.hashes(blocks if digest else [])
        return Survey(*self._findings.largest(blocks), Digest(self.shape, sample_hash, hashes))

    @cached_property
    def _sample_hash(self) -> bytes:
        """The SHA-256 of the rows of `centre_sample`, as float64 with 0 for −0."""
        values = self.centre_sample().astype("<f8")
        values += 0.0
        return hashlib.sha256(values.data).digest()

    def _read_unknown(self, rows: Sequence[range] | None, depth: Depth) -> None:
        """Read the blocks of the given rows about which less than `depth` is known."""
        for first, last in self._findings.unknown(rows, depth):
            reading = Reading(self._findings, depth)
            for start, stop in self.blocks(first, last):
                block = self.read(start, stop)
                self._refuse_not_finite(range(start, stop), block)
                reading.add(start, block)

    def refuse_changed(self) -> None:
        """Check that the file has not changed since it was opened.

        Raises
        ------
        OSError
            If the file has been written to or replaced.
        """
        for path, stamp in zip(self._paths, self._stamps, strict=True):
            if stamp != _stamp(path):
                what = self.name if path == self._paths[0] else f"{path}, a part of {self.name},"
                raise FileError(f"{what} has changed since it was opened")

    def _refuse_not_finite(
        self, numbers: range | NDArray[np.integer], block: NDArray[np.floating]
    ) -> None:
        """Raise an error that names the first row with NaN or infinity, if there is one.

        numbers : the numbers of the rows of the block
        """
        if np.isfinite(largest_entry(block)):
            return
        row, column = np.argwhere(~np.isfinite(block))[0]
        what = f"is {block[row, column]}; remove the row or fill in a finite number"
        raise bad_entry(self.name, (numbers[row], column), what, self._columns)


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


def open_source(x: Any, name: str, memory: int | None = None) -> Source:
    """Open the data that an argument stands for.

    Parameters
    ----------
    x : Source, path, or any object that `inputs.containers` takes
        Paths: ``x.npy``, ``x.npz:key``, ``x.h5:dataset``, ``x.csv``, ``x.parquet``; ``:key`` may
        be omitted if the file holds one array; of tables it chooses columns, see `columns`.
    name : str
        The name of the argument, for errors.
    memory : int, optional
        The bytes that a file's data may take in memory, by default all that this process may still
        use. More is refused before it is read.

    Raises
    ------
    OSError
        If the file is missing, is a folder, or cannot be read.
    ValueError, TypeError
        If the format is unknown, the file is truncated, pickled, or lacks the key, or the data is
        not a matrix of real numbers with at least one row and one column.
    """
    if isinstance(x, Source):
        return x
    if isinstance(x, str | os.PathLike):
        try:
            given, path, opened = open_path(os.fsdecode(x), memory)
        except NtkNumbaError:
            raise
        except (OSError, ValueError) as error:  # such as a name that is too long
            raise InvalidValueError(f"{name} is a text that names no file: {error}") from None
        try:
            return Source(given, opened.rows, opened.held, path, opened.files)
        except NtkNumbaError as error:
            opened.close()
            del opened  # and the frames of the error would keep the rows, and so the file
            raise error.with_traceback(None) from None
    opened = open_object(x, name)
    call = name if isinstance(x, np.ndarray) else f"numpy.asarray({name})"
    return Source(name, opened.rows, opened.held, call=call)


def open_sources(X: Any, Z: Any, memory: int | str | None = None) -> tuple[Source, Source | None]:
    """Open X, and Z if there is one; see `open_source`.

    memory : the limit of the job's memory, of which both may take what is left for a job
    """
    room = None if memory is None else job_memory(parse_bytes(memory, "memory"))
    x = open_source(X, "X", room)
    if room is not None:
        room = max(room - x.held, 0)
    return x, None if Z is None else open_source(Z, "Z", room)


def read_labels(path: str | os.PathLike[str], count: int) -> NDArray[Any]:
    """Read one label per sample from a file whose path is as for `open_source`."""
    name, _, opened = open_path(os.fspath(path))
    if (size := math.prod(opened.rows.shape)) != count:  # before they are read
        raise InvalidValueError(f"{name} holds {size} labels; the matrix has {count} rows")
    labels = np.asarray(opened.rows[()]).ravel()
    if labels.dtype.kind == "O":
        raise InvalidTypeError(f"{name} holds {labels.dtype}; labels are numbers or strings")
    return labels


def _stamp(path: Path) -> tuple[int, ...]:
    """Return numbers that change when a file is written to or replaced; () without a file."""
    if not path.exists():
        return ()
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
