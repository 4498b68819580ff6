"""Reading X: arrays, memory maps, HDF5 datasets and files, a run of rows at a time."""

import hashlib
import mmap
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.digest import ROWS, Digest, blocks_of
from ntk_numba.errors import (
    FileError,
    FolderError,
    InvalidTypeError,
    InvalidValueError,
    MissingFileError,
    file_error,
)

BLOCK_BYTES = 2 << 20  # rows are read, checked and hashed in blocks of about this size
BLOCK_ROWS = 64  # a multiple of it, so that threads can share a block evenly
# Rows that are evenly spaced: so many at most, of so many bytes, but never only one
EVENLY_ROWS = 256
EVENLY_BYTES = 1 << 20
EVENLY_LEAST = 8
HDF5_ENDINGS = (".h5", ".hdf5", ".hdf")
MISSING = ("", "na", "n/a", "null", "none")  # words of a row of data, not of a header
ENDINGS = (".npy", ".npz", ".csv", *HDF5_ENDINGS)


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
        self.file = _file_of(rows) if file is None else file
        self.dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)
        plain = isinstance(rows, np.memmap) and rows.flags.c_contiguous
        self._rows = _through_its_file(rows) if file and plain else _through_its_map(rows)
        self._digest: tuple[Sequence[range], Digest] | None = None
        self._longest = 0
        # of what is in memory, or open elsewhere, changes are its owner's
        self._path = None if held else file
        self._stamp = _stamp(self._path)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows start to stop, C-contiguous, in the source's dtype."""
        try:
            return np.ascontiguousarray(self._rows(start, stop), self.dtype)
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.name}: rows {start} to {stop - 1} cannot be read; is the file damaged, or "
                f"was it changed? ({error})"
            ) from None

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Runs of rows that are read at a time, from start to stop."""
        end = self.shape[0] if stop is None else stop
        step = max(1, BLOCK_BYTES // (self.shape[1] * 8))
        step = step // BLOCK_ROWS * BLOCK_ROWS or step
        for first in range(start, end, step):
            stopping.check()
            yield first, min(first + step, end)

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.floating]:
        """The given rows, in that order."""
        return np.concatenate([self.read(int(i), int(i) + 1) for i in rows])

    def sample(self, count: int) -> NDArray[np.floating]:
        """At most `count` rows, evenly spaced; NaN and infinity are refused."""
        index = np.linspace(0, self.shape[0] - 1, min(count, self.shape[0])).astype(int)
        rows = self.take(index)
        for k, row in zip(index, rows, strict=True):
            self._refuse_not_finite(k, row[None])
        return rows

    def evenly(self) -> NDArray[np.floating]:
        """The sample that stands for all rows, EVENLY_ROWS of them or what is said there."""
        size = self.shape[1] * 8
        return self.sample(min(EVENLY_ROWS, max(EVENLY_LEAST, EVENLY_BYTES // size)))

    def check(self) -> "Source":
        """Read everything once and refuse NaN and infinity."""
        for start, stop in self.blocks():
            self._refuse_not_finite(start, self.read(start, stop))
        return self

    def digest(self, rows: Sequence[range] | None = None) -> Digest:
        """Read runs of rows, by default all, refuse NaN and infinity, and say what was read."""
        rows = [range(self.shape[0])] if rows is None else rows
        if self._digest is None or self._digest[0] != rows:
            wanted = blocks_of(rows, self.shape[0])
            most, blocks = -1.0, [b""] * -(-self.shape[0] // ROWS)
            for k in sorted(wanted):
                block = hashlib.sha256()
                for start, stop in self.blocks(k * ROWS, min((k + 1) * ROWS, self.shape[0])):
                    values = self._values(start, self.read(start, stop))
                    block.update(values.data)
                    with np.errstate(over="ignore"):
                        squares = np.einsum("ij,ij->i", values, values)
                    row = int(np.argmax(squares))
                    if squares[row] > most:
                        most, self._longest = squares[row], start + row
                blocks[k] = block.digest()
            evenly = hashlib.sha256((self.evenly().astype("<f8") + 0.0).data)
            self._digest = rows, Digest(self.shape, evenly.digest(), tuple(blocks))
        return self._digest[1]

    def _values(self, start: int, block: NDArray[np.floating]) -> NDArray[np.float64]:
        """Rows from `start` on as they are hashed: -0.0 and 0.0 are the same value."""
        self._refuse_not_finite(start, block)
        return block.astype("<f8") + 0.0

    @property
    def longest(self) -> int:
        """The row of the largest norm, of those that the last digest is of."""
        if self._digest is None:
            self.digest()
        return self._longest

    @cached_property
    def largest(self) -> float:
        """The largest norm of all rows; reads them."""
        most = 0.0
        for start, stop in self.blocks():
            rows = self.read(start, stop).astype(float)
            self._refuse_not_finite(start, rows)
            scale = np.abs(rows).max()
            if scale > 0:
                rows /= scale  # no square overflows
                most = max(most, float(scale * np.sqrt(np.einsum("ij,ij->i", rows, rows).max())))
        return most

    def refuse_changed(self) -> None:
        """Make sure that what was read was the file that was opened.

        Raises
        ------
        OSError
            The file has been written to, or is another one.
        """
        if self._stamp != _stamp(self._path):
            raise FileError(f"{self.name} has changed since it was opened")

    def _refuse_not_finite(self, start: int, block: NDArray[np.floating]) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise InvalidValueError(
                f"{self.name}: row {start + row}, column {column} (counted from 0) is "
                f"{block[row, column]}; remove the row or fill in a finite number"
            )


def check_dtype(dtype: Any, *sources: Source) -> np.dtype:
    """The result's dtype; by default float64 unless all data is float32."""
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
    """The source that an argument stands for.

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
        given, rows, held, file = _open_path(os.fspath(x))
        return Source(given, rows, held, file)
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
    """X, and Z if there is one; see `open_source`."""
    return open_source(X, "X"), None if Z is None else open_source(Z, "Z")


def _stamp(path: Path | None) -> tuple[int, ...]:
    """What tells one state of a file from another."""
    if path is None or not path.exists():
        return ()
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _file_of(rows: Any) -> Path | None:
    """The file behind a memory map or an HDF5 dataset."""
    if isinstance(rows, h5py.Dataset):
        return Path(rows.file.filename)
    if isinstance(rows, np.memmap) and isinstance(rows.filename, str | os.PathLike):
        return Path(rows.filename)
    return None


def _through_its_file(rows: np.memmap) -> Callable[[int, int], Any]:
    """Read a .npy file, mapped in row order, without the map: were the file cut short meanwhile, a
    map would end the process; a read only fails.
    """
    path, dtype, width, offset = str(rows.filename), rows.dtype, rows.shape[1:], rows.offset
    values = int(np.prod(width))

    def read(start: int, stop: int) -> Any:
        count, at = (stop - start) * values, offset + start * values * dtype.itemsize
        return np.fromfile(path, dtype, count, offset=at).reshape(stop - start, *width)

    return read


def _through_its_map(rows: Any) -> Callable[[int, int], Any]:
    """Read rows of an array; of a memory map, give back the pages, which count as our memory."""
    owner = rows
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    private = getattr(rows, "mode", "c") == "c"  # its changed pages exist nowhere else

    def read(start: int, stop: int) -> Any:
        if not isinstance(owner, mmap.mmap) or private or not hasattr(mmap, "MADV_DONTNEED"):
            return rows[start:stop]
        copy = np.empty((stop - start, *rows.shape[1:]), rows.dtype)
        # each column of a map in column order brings in pages of its own, up to 64 KiB of them
        step = rows.shape[1] if rows.flags.c_contiguous else 64
        for first in range(0, rows.shape[1], step):
            copy[:, first : first + step] = rows[start:stop, first : first + step]
            owner.madvise(mmap.MADV_DONTNEED)
        return copy

    return read


def read_labels(path: str | os.PathLike[str], count: int) -> NDArray[Any]:
    """One label a sample from a file, given as for `open_source`."""
    name, rows, _, _ = _open_path(os.fspath(path))
    labels = np.asarray(rows[()]).ravel()
    if labels.dtype.kind == "O":
        raise InvalidTypeError(f"{name} holds {labels.dtype}; labels are numbers or strings")
    if len(labels) != count:
        raise InvalidValueError(f"{name} holds {len(labels)} labels; the matrix has {count} rows")
    return labels


def _open_path(spec: str) -> tuple[str, Any, int, Path]:
    """The name, the array, the bytes it keeps in memory, and the file."""
    path, key = Path(spec), ""
    if not path.exists() and ":" in spec:
        head, _, tail = spec.rpartition(":")
        if Path(head).suffix.lower() in ENDINGS:
            path, key = Path(head), tail
    if path.is_dir():
        raise FolderError(f"{spec} is a folder; name a file in it ({', '.join(ENDINGS)})")
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if not path.is_file():
        raise InvalidValueError(f"{path} is a device or a pipe; name an ordinary file")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InvalidValueError(
            f"{path}: unknown ending {ending!r}; known are {', '.join(ENDINGS)}"
        )
    if key and ending in (".npy", ".csv"):
        raise InvalidValueError(f"{spec}: a {ending} file holds one array; leave out :{key}")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise file_error(error, f"{path} cannot be read: {error.strerror}") from None
    if ending == ".npy":
        return spec, _open_npy(path), 0, path
    if ending == ".npz":
        return *_open_npz(path, key), path
    if ending == ".csv":
        table = _load_csv(path)
        return spec, table, table.nbytes, path
    return *_open_hdf5(path, key), path


def _open_npy(path: Path) -> Any:
    try:
        try:
            array = np.load(path, mmap_mode="r")
        except ValueError as error:
            if "empty" not in str(error):
                raise
            array = np.load(path)  # an array without entries cannot be mapped
        if not isinstance(array, np.ndarray):
            array.close()
            raise InvalidValueError("it is an .npz archive")
        return array
    except Exception as error:  # NumPy raises nearly anything for a file that is not its own
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> InvalidValueError:
    """NumPy's complaint about a .npy or .npz file in words for its owner."""
    reason = str(error)
    if "Object arrays" in reason or "Python objects" in reason:
        return InvalidValueError(
            f"{path} holds pickled Python objects, which are never loaded; save a plain array of "
            f"numbers"
        )
    if "pickle" in reason:  # NumPy's guess about a file that does not begin like one of its own
        reason = "or pickled Python objects, which are never loaded"
    return InvalidValueError(f"{path} is no valid {path.suffix} file, perhaps truncated ({reason})")


def _pick(path: Path, key: str, keys: list[str]) -> str:
    """The key asked for, or the only one there is."""
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


def _open_npz(path: Path, key: str) -> tuple[str, Any, int]:
    with path.open("rb") as file:
        try:
            archive = np.load(file)
        except Exception as error:
            raise _refusal(path, error) from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InvalidValueError(
                f"{path} is no .npz archive; a single array belongs in a .npy file"
            )
        chosen = _pick(path, key, list(archive.files))
        try:
            array = archive[chosen]
            if not isinstance(array, np.ndarray):
                raise InvalidValueError(f"{chosen} is no array")
        except Exception as error:
            raise _refusal(path, error) from None
    return f"{path}:{chosen}", array, array.nbytes


def _open_hdf5(path: Path, key: str) -> tuple[str, Any, int]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidValueError(
            f"{path} is no valid HDF5 file, perhaps truncated ({error})"
        ) from None
    datasets: list[str] = []
    file.visititems(
        lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None
    )
    chosen = _pick(path, key.strip("/"), datasets)
    return f"{path}:{chosen}", file[chosen], 0


def _load_csv(path: Path) -> NDArray[np.float64]:
    """Numbers separated by commas, one sample a line; a first line of names is passed over."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
    except UnicodeDecodeError:
        raise InvalidValueError(f"{path} is no text file") from None
    if not first.strip():
        raise InvalidValueError(f"{path} is empty: it has no rows")
    try:
        [float(word) for word in first.split(",")]
        skip = 0
    except ValueError:
        words = [word.strip() for word in first.split(",")]
        data = any(_is_number(word) or word.lower() in MISSING for word in words)
        skip = 0 if data else 1
    try:
        with path.open(encoding="utf-8-sig") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no data: refused with the shape
            return np.loadtxt(file, delimiter=",", ndmin=2, skiprows=skip)
    except ValueError as error:
        raise InvalidValueError(f"{path}: {error}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
