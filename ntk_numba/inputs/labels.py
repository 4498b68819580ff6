"""Targets and labels from files: numbers or text, with a row for each sample.

They are read from the same kinds of files as the samples are. Columns of tables may be text, which
samples may not.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError, NtkNumbaError
from ntk_numba.inputs.columns import Words
from ntk_numba.inputs.dialect import NUMBER
from ntk_numba.inputs.paths import open_path
from ntk_numba.machine import available_memory

LONGEST = 200  # characters of a label
TEXT = "SUOT"  # the kinds of dtypes of text


class Labels(NamedTuple):
    """Targets of a file.

    Attributes
    ----------
    name : str
        The file, for errors.
    values : (N,) or (N, K) array of numbers, truth values or text
    columns : list of str or None
        The names of the columns, if they have any.
    """

    name: str
    values: NDArray[Any]
    columns: list[str] | None

    @property
    def are_text(self) -> bool:
        """Whether the values are text or truth values, which can only be labels of classes."""
        return self.values.dtype.kind in "Ub"

    def classes(self) -> NDArray[Any]:
        """Return the label of each sample, (N,): text, truth values or whole numbers.

        Raises
        ------
        ValueError
            There are several columns, or a number is not whole.
        """
        values = self.values
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise InvalidValueError(
                f"{self.name} has {values.shape[1]} columns, and class labels are one; choose it "
                f"as file.csv:column"
            )
        if values.dtype.kind != "f":
            return values
        whole = values == np.rint(values)
        if not whole.all() or np.abs(values).max(initial=0) >= 2**53:
            row = int(np.argmin(whole)) if not whole.all() else int(np.argmax(np.abs(values)))
            raise InvalidValueError(
                f"{self.name}: row {row} (counted from 0) is {values[row]}, and class labels are "
                f"text or whole numbers"
            )
        return values.astype(np.int64)


def read_targets_file(
    path: str | os.PathLike[str],
    count: int,
    *,
    classes: bool = False,
    memory: int | None = None,
) -> Labels:
    """Read the targets of `count` samples from a file whose path is as for `open_source`.

    Parameters
    ----------
    classes : bool
        Whether they are labels of classes, so that a column may have both numbers and other text.
    memory : int, optional
        The bytes that they may take, by default those that this process may still use.

    Raises
    ------
    ValueError, TypeError
        The file has another number of rows, a cell is missing, a column has both numbers and text,
        or values are neither numbers nor text.
    OSError
        The file is missing or cannot be read.
    """
    most = available_memory() if memory is None else memory
    with _opened(path, most) as (name, rows):
        shape = tuple(rows.shape)
        if len(shape) not in (1, 2) or 0 in shape[1:]:
            raise InvalidValueError(f"{name} has the shape {shape}; targets are (N,) or (N, n_out)")
        if shape[0] != count:
            raise InvalidValueError(_other_length(name, shape[0], count, rows))
        if isinstance(rows, Words):
            return _of_words(name, rows, classes=classes)
        size = math.prod(shape) * np.dtype(rows.dtype).itemsize
        if size > most:
            raise InvalidValueError(
                f"{name} takes {show_bytes(size)}, more than {show_bytes(most)}"
            )
        values = _plain(name, rows, slice(None))
        if values.dtype.kind not in "biufU":
            raise InvalidTypeError(f"{name} holds {values.dtype}; targets are real numbers or text")
        return Labels(name, values, None)


def read_labels(path: str | os.PathLike[str], count: int) -> NDArray[Any]:
    """Read one label per sample from a file whose path is as for `open_source`."""
    with _opened(path) as (name, rows):
        if (size := math.prod(rows.shape)) != count:  # before they are read
            raise InvalidValueError(f"{name} holds {size} labels; the matrix has {count} rows")
        if isinstance(rows, Words):
            return _of_words(name, rows, classes=True).values.ravel()
        return _plain(name, rows, ()).ravel()


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], most: int | None = None) -> Iterator[tuple[str, Any]]:
    """Open a file of targets as a context of its name and its rows; errors of reading name it."""
    name, _, opened = open_path(os.fspath(path), most, words=True)
    try:
        yield name, opened.rows
    except NtkNumbaError:
        raise
    except OSError as error:
        raise FileError(f"{name} cannot be read ({error})") from None
    finally:
        opened.close()


def _other_length(name: str, rows: int, count: int, what: Any) -> str:
    """Return the text of the error for another number of targets than samples."""
    text = f"{name} has {rows:,} rows, and X has {count:,}; give one row of targets for each sample"
    if isinstance(what, Words) and abs(rows - count) == 1:
        text += "; is its first line a header? say so, as file.csv:header=yes or header=no"
    return text


def _of_words(name: str, words: Words, *, classes: bool) -> Labels:
    """Return columns of a table as numbers if all of their cells are numbers, else as text."""
    columns: list[NDArray[Any]] = []
    for number, cells in enumerate(words.columns):
        if cells.dtype.kind != "O":
            columns.append(cells)
            continue
        numeric = np.array([NUMBER.fullmatch(cell) is not None for cell in cells])
        if numeric.all():
            columns.append(np.array([float(cell) for cell in cells]))
            continue
        if numeric.any() and not classes:
            few = numeric if 2 * np.count_nonzero(numeric) <= len(numeric) else ~numeric
            row = int(np.argmax(few))
            kinds = "others are text" if numeric[row] else "others are numbers"
            raise InvalidValueError(
                f"{words.places(row, number)} is {cells[row][:40]!r}, and {kinds}; correct it, or "
                f"take all as class labels"
            )
        columns.append(_text(name, cells))
    if len({cells.dtype.kind in TEXT for cells in columns}) > 1:
        raise InvalidValueError(f"{name} has columns of numbers and columns of text; choose one")
    return Labels(name, columns[0] if len(columns) == 1 else np.column_stack(columns), words.names)


def _plain(name: str, rows: Any, key: Any) -> NDArray[Any]:
    """Return the values of an array or a dataset; text as text, also if it is stored as bytes."""
    strings = isinstance(rows, h5py.Dataset) and h5py.check_string_dtype(rows.dtype) is not None
    values = np.asarray(rows[key])
    if strings or values.dtype.kind in "SU":
        return _text(name, values)
    if values.dtype.kind in "OV":
        raise InvalidTypeError(f"{name} holds {values.dtype}; labels are numbers or strings")
    return values


def _text(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return text, or bytes in UTF-8 or Latin-1, as an array of text."""
    found = [_decoded(value) for value in values.ravel()]
    longest = max(found, key=len, default="")
    if len(longest) > LONGEST:
        raise InvalidValueError(
            f"{name} has a label of {len(longest):,} characters, {longest[:20]!r} …; labels have "
            f"at most {LONGEST}"
        )
    return np.array(found, str).reshape(values.shape)


def _decoded(value: Any) -> str:
    """Return text, also if it is given as bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return str(value)
