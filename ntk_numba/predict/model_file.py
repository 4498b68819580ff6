"""The model file: what a fitted model consists of, in one HDF5 file with a checksum of all bytes.

The file begins with a mark and the XXH3 of everything else in it, in HDF5's user block, so that
other programs read the rest as any HDF5 file. HDF5 itself opens it only after the checksum has been
compared. What the file says of its contents is then checked as in Gram files (`gramfile.claims`):
a forged file can have a right checksum.

`saving` makes models of the contents.
"""

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba import stopping, streams
from ntk_numba.errors import (
    FileError,
    InvalidValueError,
    MissingFileError,
    NtkNumbaError,
    file_error,
    folder_error,
)
from ntk_numba.gramfile import claims, disk
from ntk_numba.gramfile.contents import MOST_ROWS
from ntk_numba.gramfile.layout import create_dataset
from ntk_numba.gramfile.whole import reserve, written_whole
from ntk_numba.opening import open_descriptor, path_of

FORMAT = "ntk_numba model"
FORMAT_VERSION = 1
MARK = b"\x89NTKMODL"  # the first bytes of every model file; the checksum follows them
USER_BLOCK = 512  # bytes, the least that HDF5 leaves to programs
PIECE = 1 << 20  # bytes that are hashed at a time
BLOCK_BYTES = 8 << 20  # bytes of a dataset that are read at a time
NOTES = "notes"  # the dataset of the description's texts of any length, as JSON
MOST_NOTES = 64 << 20  # bytes
ATTRIBUTES: dict[str, type] = {
    "format": str, "format_version": int, "package_version": str, "kind": str, "kernel": str,
    "dtype": str, "ridge": float, "relative_ridge": float, "residual": float, "rows": int,
    "features": int, "outputs": int, "notes_bytes": int,
}  # fmt: skip


class Values(NamedTuple):
    """A dataset to write: its shape, its dtype, and blocks of its rows one after another."""

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Values":
        """Return the values of an array."""
        return cls(array.shape, array.dtype, [array])


class Stored(NamedTuple):
    """The contents of a model file.

    Attributes
    ----------
    attributes : dict
        The attributes of `ATTRIBUTES`.
    notes : dict
        Texts of any length, and what is optional.
    arrays : dict of arrays
        The datasets by their names.
    """

    attributes: dict[str, Any]
    notes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def is_model(path: Path) -> bool:
    """Return whether a file begins as a model file does; False if it cannot be read."""
    streams.occupy()
    try:
        fd = open_descriptor(path)
    except (OSError, ValueError):
        return False
    try:
        return os.pread(fd, len(MARK), 0) == MARK
    finally:
        os.close(fd)


def write_model(
    path: str | os.PathLike[str],
    attributes: Mapping[str, Any],
    notes: Mapping[str, Any],
    datasets: Mapping[str, Values],
    *,
    overwrite: bool = False,
) -> None:
    """Write a model file completely, or leave no trace.

    attributes : those of `ATTRIBUTES` that do not describe the file itself

    Raises
    ------
    OSError
        The folder is missing or cannot be written, the file exists, the disk is full, or another
        process writes the file.
    """
    text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    if text.size > MOST_NOTES:  # it could not be read
        raise InvalidValueError(
            f"the names of the model's classes and targets take {text.size:,} bytes, more than "
            f"{MOST_NOTES:,}; shorten them"
        )
    datasets = {NOTES: Values.of(text), **datasets}
    own = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": version("ntk_numba"),
        "notes_bytes": text.size,
    }
    values = {key: kind((own | dict(attributes))[key]) for key, kind in ATTRIBUTES.items()}
    sizes = [math.prod(v.shape) * v.dtype.itemsize for v in datasets.values()]
    needed = sum(sizes) + len(json.dumps(values)) + (64 << 10)
    with written_whole(path, needed, overwrite=overwrite) as fd:
        disk.empty(fd)  # the disk has the space; HDF5 lays the file out
        places = _lay_out(fd, values, datasets)
        reserve(fd, Path(path), os.fstat(fd).st_size)
        for (at, end), dataset in zip(places, datasets.values(), strict=True):
            for block in dataset.blocks:
                stopping.check()
                data = np.ascontiguousarray(block, dataset.dtype)
                disk.write_at(fd, data.reshape(-1), at)
                at += data.nbytes
            assert at == end, "a dataset has other rows than its shape says"
        disk.write_at(fd, MARK, 0)
        disk.write_at(fd, _checksum(fd), len(MARK))


def _lay_out(
    fd: int, values: Mapping[str, Any], datasets: Mapping[str, Values]
) -> list[tuple[int, int]]:
    """Let HDF5 lay out an empty file; return where the values of each dataset begin and end."""
    try:
        opened = h5py.File(
            disk.name_of(fd), "w", libver=("v110", "v110"), locking=False, userblock_size=USER_BLOCK
        )
    except OSError as error:
        raise FileError(f"a new file was replaced or cannot be written ({error})") from None
    with opened as file:
        for key, value in values.items():
            if isinstance(value, str):
                claims.refuse_long(key, value)
            # of a fixed length: HDF5 follows the sizes in its heaps of other texts unchecked
            file.attrs[key] = np.bytes_(value) if isinstance(value, str) else value
        for name, dataset in datasets.items():
            create_dataset(file, name, dataset.dtype, dataset.shape)
        places = []
        for name, dataset in datasets.items():
            at = file[name].id.get_offset()
            places.append((at, at + math.prod(dataset.shape) * dataset.dtype.itemsize))
    return places


def _checksum(fd: int) -> bytes:
    """Return the XXH3 of a model file without the 8 bytes that hold it."""
    digest, at = xxhash.xxh3_64(os.pread(fd, len(MARK), 0)), len(MARK) + 8
    while piece := os.pread(fd, PIECE, at):
        stopping.check()
        digest.update(piece)
        at += len(piece)
    return digest.digest()


def read_model(path: str | os.PathLike[str]) -> Stored:
    """Read a model file whole, and check every byte of it.

    Raises
    ------
    OSError
        The file is missing, is a folder, or cannot be read.
    ValueError
        It is no model file, is damaged or truncated, or is of a newer version.
    """
    path = path_of(path)
    streams.occupy()
    try:
        if path.is_dir():
            raise folder_error(path, "a model file")
        fd = open_descriptor(path)
    except NtkNumbaError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist; ntk-numba fit writes models") from None
    except OSError as error:
        raise file_error(error, f"{path} cannot be read: {error.strerror}") from None
    with io.FileIO(fd) as raw:
        try:
            before = _state(fd)
            _refuse_damaged(path, fd)
            with h5py.File(raw, "r") as file:
                stored = _read(file, fd, path)
            if _state(fd) != before:
                raise FileError(f"{path} has changed while it was read; read it again")
            return stored
        except NtkNumbaError:
            raise
        except OSError as error:
            if error.errno is None:  # it is HDF5's, about the contents
                raise InvalidValueError(f"{path} is damaged: {error}") from None
            raise file_error(error, f"{path} cannot be read: {error.strerror}") from None
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError,
                ArithmeticError) as error:  # fmt: skip
            raise InvalidValueError(f"{path} is damaged: {error}") from None


def _state(fd: int) -> tuple[int, int]:
    """Return the values of an open file that change when it is written."""
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


def _refuse_damaged(path: Path, fd: int) -> None:
    """Raise an error if a file does not begin as models do, or does not match its checksum."""
    first = os.pread(fd, len(MARK) + 8, 0)
    if not first.startswith(MARK):
        raise InvalidValueError(
            f"{path} is no model that ntk_numba has written (or its first bytes are damaged)"
        )
    if first[len(MARK) :] != _checksum(fd):
        raise InvalidValueError(
            f"{path} is damaged or truncated: it does not match its checksum; fit it again"
        )


def _read(file: h5py.File, fd: int, path: Path) -> Stored:
    """Return the contents of an open file whose checksum is right."""
    try:
        form = claims.attribute(file, "format", str)
        number = claims.attribute(file, "format_version", int)
        if form != FORMAT:
            raise InvalidValueError(f"its format is {form!r}")
        if number != FORMAT_VERSION:
            raise InvalidValueError(
                f"it has format version {number}, and this package reads {FORMAT_VERSION}; "
                + ("install a newer one" if number > FORMAT_VERSION else "fit the model again")
            )
        values = claims.attributes(file, ATTRIBUTES)
        rows = claims.between("rows", values["rows"], 1, MOST_ROWS)
        features = claims.between("features", values["features"])
        outputs = claims.between("outputs", values["outputs"])
        length = claims.between("notes_bytes", values["notes_bytes"], 2, MOST_NOTES)
        text = _array(file, fd, NOTES, np.dtype(np.uint8), (length,)).tobytes().decode("ascii")
        notes = claims.decoded(NOTES, text)
        if not isinstance(notes, dict):
            raise InvalidValueError(f"its {NOTES} are no JSON object")
        claims.network(json.dumps(notes.get("net")))
        real, shape = np.dtype(np.float64), (rows, outputs)
        arrays = {name: _array(file, fd, name, real, shape) for name in ("dual_coef", "targets")}
        if "samples" in file:
            dtype = claims.dataset_type(file, "samples")
            arrays["samples"] = _array(file, fd, "samples", dtype, (rows, features))
        if "mean" in file:
            for name in ("mean", "scale"):
                arrays[name] = _array(file, fd, name, real, (features,))
    except InvalidValueError as error:
        raise InvalidValueError(f"{path} cannot be used: {error}") from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InvalidValueError(
                f"{path} cannot be used: {name} has numbers that are not finite"
            )
    return Stored(values, notes, arrays)


def _array(
    file: h5py.File, fd: int, name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return a dataset that has this dtype and shape and is stored as it was written."""
    dataset = claims.dataset(file, name, dtype, shape)
    at = dataset.id.get_offset()
    if at is None:
        raise InvalidValueError(f"{name} is not stored as it was written (repacked?)")
    array = np.empty(shape, dtype)
    flat = array.reshape(-1)
    step = max(1, BLOCK_BYTES // dtype.itemsize)
    for start in range(0, flat.size, step):
        stopping.check()
        disk.read_at(fd, flat[start : start + step], at + start * dtype.itemsize)
    return array


def rows_of(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield an array in blocks of rows of a few megabytes."""
    step = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield array[start : start + step]
