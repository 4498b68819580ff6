"""The samples X as a matrix that is read in runs of rows, from an array or from a file."""

import hashlib
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
from ntk_numba.errors import FileError, InvalidValueError, NtkNumbaError
from ntk_numba.inputs.arrays import (
    bad_entry,
    file_of,
    map_of,
    matrix_shape,
    reader_of,
    real_dtype,
    refuse_not_real,
    to_floats,
)
from ntk_numba.inputs.containers import open_object
from ntk_numba.inputs.paths import open_path
from ntk_numba.inputs.survey import Depth, Findings, Reading, Survey, largest_entry
from ntk_numba.inputs.unchanged import RowChecksums, Stamp
from ntk_numba.machine import job_memory

MOST_ROWS = 1 << 31  # a file may state any number, and each block of 512 rows takes memory
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
    files : sequence of Stamp
        All files that hold the rows and that this package has looked at, `file` among them.
    call : str
        What a user types for the array, in errors.

    Attributes
    ----------
    name, held, files : as above
    shape : (N, n0)
    dtype : float32 if the data is float32, else float64
    file : Path or None
        The file of the data, whoever has opened it; None if there is none.
    overhead : int
        The bytes that the detection of changes takes.

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
        files: Sequence[Stamp] = (),
        *,
        call: str = "X",
    ) -> None:
        dtype = np.dtype(rows.dtype)
        refuse_not_real(name, dtype, call)
        shape = matrix_shape(name, rows.shape, call)
        if shape[0] > MOST_ROWS:
            raise InvalidValueError(f"{name} has {shape[0]:,} rows, more than {MOST_ROWS:,}")
        self.name, self.shape, self.held = name, shape, held
        self.file = file_of(rows) if file is None else file
        self.dtype = real_dtype(dtype)
        self._columns = getattr(rows, "columns", None)
        self.files = tuple(files)
        self._rows = reader_of(rows)
        self._findings = Findings(shape[0])
        # An array in memory belongs to the caller, or was read as a whole from a file.
        in_memory = isinstance(rows, np.ndarray) and map_of(rows) is None
        self._checksums = None if in_memory else RowChecksums(shape[0])
        self.overhead = 0 if self._checksums is None else 8 * shape[0]
        self._watched = () if in_memory else self.files

    @property
    def paths(self) -> set[Path]:
        """The files that hold the rows."""
        return {file.path for file in self.files} | ({self.file} if self.file else set())

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Return rows `start` to `stop`, C-contiguous, in the source's dtype.

        Raises
        ------
        OSError
            If they cannot be read, or are not those that were read before.
        ValueError
            If an entry is masked, missing, or an integer that float64 does not hold.
        """
        rows = self._read(start, stop)
        self.refuse_changed()
        return rows

    def _read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Return rows as `read` does, without a look at the files."""
        try:
            rows = to_floats(
                self.name, self._rows(start, stop), self.dtype, (start, 0), self._columns
            )
        except (NtkNumbaError, MemoryError):
            raise
        except Exception as error:  # a file, or a library that computes the rows
            cause = "; is the file damaged, or was it changed?" if self.file else ""
            raise FileError(
                f"{self.name}: rows {start} to {stop - 1} cannot be read{cause} ({error})"
            ) from None
        other = None if self._checksums is None else self._checksums.compare(start, rows)
        if other is not None:
            raise FileError(
                f"{self.name} has changed since it was opened: row {other} is not what it was when "
                f"it was first read; keep the data as it is while a job reads it"
            )
        return rows

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
            found[k] = self._read(int(i), int(i) + 1)[0]
        self.refuse_changed()
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
        """Check that the files have not changed since they were opened.

        Raises
        ------
        OSError
            If a file has been written to, replaced or removed.
        """
        for file in self._watched:
            if file.changed:
                what = (
                    self.name if file.path == self.file else f"{file.path}, a part of {self.name},"
                )
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
    return Source(name, opened.rows, opened.held, files=opened.files, call=call)


def open_sources(X: Any, Z: Any, memory: int | str | None = None) -> tuple[Source, Source | None]:
    """Open X, and Z if there is one; see `open_source`.

    memory : the limit of the job's memory, of which both may take what is left for a job
    """
    room = None if memory is None else job_memory(parse_bytes(memory, "memory"))
    x = open_source(X, "X", room)
    if room is not None:
        room = max(room - x.held, 0)
    return x, None if Z is None else open_source(Z, "Z", room)
