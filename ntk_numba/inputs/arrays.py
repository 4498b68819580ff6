"""Readers of rows of arrays, memory maps and HDF5 datasets, and what a matrix has to be."""

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.unchanged import Stamp

Reader = Callable[[int, int], Any]  # (start, stop) → these rows, as any array that NumPy takes


class Opened(NamedTuple):
    """The contents of an open data file.

    Attributes
    ----------
    rows : an array, or anything with a shape, a dtype and runs of rows as ``rows[start:stop]``
        If it has an attribute ``columns``, these are the labels of the columns, for errors.
    key : str
        The name of the array in a file that holds several, else "".
    held : int
        The bytes that stay in memory as long as `rows` does; 0 if runs of rows are read when
        needed.
    files : tuple of Stamp
        The files that hold the rows, as they were before they were opened.
    close : a function that closes the file
    """

    rows: Any
    key: str = ""
    held: int = 0
    files: tuple[Stamp, ...] = ()
    close: Callable[[], None] = lambda: None


def pick(path: Path, key: str, keys: list[str], way: str = "{}:key") -> str:
    """Return `key` if the file has it or, without a key, the only one of its keys.

    way : how a user names a key of the file, for errors

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
            f"{path} holds {len(keys)} arrays ({known or 'none'}); name one: {way.format(path)}"
        )
    return keys[0]


# How users convert an array of another kind (see `numpy.dtype.kind`) themselves.
_CONVERSIONS = {
    "O": "{0}.astype(float) converts objects that are numbers",
    "c": "take {0}.real if the imaginary parts are 0, else make features of both parts",
    "f": "{0}.astype(float) rounds them",
    "M": "subtract a date and divide by a unit, such as numpy.timedelta64(1, 's')",
    "m": "divide by a unit, such as numpy.timedelta64(1, 's')",
    "V": "{0}.astype(float), or numpy.lib.recfunctions.structured_to_unstructured({0}) if it has "
    "fields",
}
_CONVERSIONS |= dict.fromkeys("SUT", "{0}.astype(float) converts text that is numbers")


def is_real(dtype: np.dtype) -> bool:
    """Return whether all values of a dtype are bool, integers, or floats of at most 8 bytes."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def real_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype in which values of a real dtype are used.

    It is float32 if they are float32, of any byte order, and else float64.
    """
    single = dtype.kind == "f" and dtype.itemsize == 4
    return np.dtype(np.float32 if single else np.float64)


def refuse_not_real(name: str, dtype: np.dtype, call: str = "X") -> None:
    """Raise InvalidTypeError if a dtype is not real.

    call : what a user types for the array, in the error
    """
    if not is_real(dtype):
        raise InvalidTypeError(
            f"{name} holds {dtype}; real numbers are wanted: bool, integers, float16, float32 "
            f"or float64; {_CONVERSIONS[dtype.kind].format(call)}"
        )


def matrix_shape(name: str, shape: Sequence[int], call: str = "X") -> tuple[int, int]:
    """Return the shape of a matrix with at least one row and one column.

    call : what a user types for the array, in errors

    Raises
    ------
    ValueError
        If it is not one, with a hint at how to reshape it.
    """
    if len(shape) != 2:
        remedy = (
            f"one number is {call}.reshape(1, 1)",
            f"one sample is {call}[None, :], one feature {call}[:, None]",
            f"{call}.reshape(len({call}), -1) makes each entry along the first axis one sample",
        )[min(len(shape), 2)]
        raise InvalidValueError(
            f"{name} must have two dimensions (samples, features), not {tuple(shape)}; {remedy}"
        )
    rows, columns = (int(n) for n in shape)
    if rows == 0:
        raise InvalidValueError(f"{name} is empty: it has no rows")
    if columns == 0:
        raise InvalidValueError(f"{name} has {rows} rows but no columns; a sample needs a feature")
    return rows, columns


def bad_entry(
    name: str, place: Sequence[int], what: str, columns: Sequence[Any] | None = None
) -> InvalidValueError:
    """Return the error for an entry that cannot be used.

    place : the entry's row and column, or its index in an array of other dimensions
    what : what it is and what to do
    columns : the labels of the columns, if they have any
    """
    where = f"entry {', '.join(map(str, place))}"
    if len(place) == 2:
        where = f"row {place[0]}, column {place[1]}"
    label = "" if columns is None else f"{columns[place[1]]!r}, "
    return InvalidValueError(f"{name}: {where} ({label}counted from 0) {what}")


def to_floats(
    name: str,
    values: Any,
    dtype: np.dtype,
    first: Sequence[int] = (0, 0),
    columns: Sequence[Any] | None = None,
) -> NDArray[np.floating]:
    """Return real values as C-contiguous float32 or float64; none is rounded.

    first : the place of the first of these values in the whole array, for errors

    Raises
    ------
    ValueError
        If a value is masked, or is an integer that float64 does not hold.
    """
    if isinstance(values, np.ma.MaskedArray):
        bad, what = np.ma.getmaskarray(values), "is masked; remove the row or fill in a number"
        if not bad.any():
            values = values.data
    else:
        bad, what = np.zeros((), bool), ""
    floats = np.asarray(values, dtype, "C")
    source = np.asarray(values)
    if source.dtype.kind in "iu" and source.dtype.itemsize == 8 and not bad.any():
        limit = 2.0 ** (64 if source.dtype.kind == "u" else 63)
        inside = floats < limit
        bad = ~inside | (np.where(inside, floats, 0).astype(source.dtype) != source)
        what = "is {}, which float64 does not hold exactly; round it, or subtract an offset"
    if bad.any():
        index = np.argwhere(bad)[0]
        place = [int(i) + offset for i, offset in zip(index, first, strict=False)]
        raise bad_entry(name, place, what.format(source[tuple(index)]), columns)
    return floats


def file_of(rows: Any) -> Path | None:
    """Return the file of a memory map or an HDF5 dataset; None for other arrays."""
    rows = getattr(rows, "dataset", rows)  # of compressed ones, see `bands`
    if isinstance(rows, h5py.Dataset):
        return Path(rows.file.filename)
    if isinstance(rows, np.memmap) and isinstance(rows.filename, str | os.PathLike):
        return Path(rows.filename)
    return None


def map_of(rows: Any) -> mmap.mmap | None:
    """Return the memory map that an array is in; None for other arrays."""
    owner = rows
    while isinstance(owner, np.ndarray | memoryview):  # `numpy.frombuffer` makes a memoryview
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) else None


def reader_of(rows: Any) -> Reader:
    """Return a function that reads runs of rows, and frees the pages of a memory map after each.

    These pages would count as memory of the process.
    """
    owner = map_of(rows)
    private = getattr(rows, "mode", "c") == "c"  # pages changed in such a map exist nowhere else

    def read(start: int, stop: int) -> Any:
        if owner is None or private or not hasattr(mmap, "MADV_DONTNEED"):
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
