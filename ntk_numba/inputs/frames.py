"""Readers of data frames of pandas and polars and of tables of Arrow, without importing these."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError
from ntk_numba.inputs.arrays import bad_entry, is_real, matrix_shape, real_dtype, to_floats


class Column(NamedTuple):
    """A run of rows of a column.

    missing : (n,) which values are missing; None if none is
    values : a function that returns the values, if none is missing
    """

    missing: NDArray[np.bool_] | None
    values: Callable[[], NDArray[Any]]


class Frame(Protocol):
    """What `Table` needs of a data frame."""

    shape: tuple[int, int]
    labels: Sequence[Any]

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        """Return the dtype of column j in NumPy, and the type that errors name."""

    def column(self, j: int, start: int, stop: int) -> Column:
        """Return rows `start` to `stop` of column j."""


class Table:
    """A data frame whose runs of rows, ``rows[start:stop]``, are converted when they are read.

    The dtype is the one that NumPy gives columns of these dtypes together: float32 if there are
    float32 and otherwise at most bool and integers of 8 and 16 bits. The index of the rows is
    ignored.

    Attributes
    ----------
    shape, dtype : those of the matrix
    columns : the labels of the columns

    Raises
    ------
    ValueError, TypeError
        If the frame has no rows or no columns, or if a column does not hold real numbers. While it
        is read: if a value is missing, or is an integer that float64 does not hold.
    """

    def __init__(self, name: str, frame: Frame) -> None:
        self._name, self._frame = name, frame
        self.shape, self.columns = matrix_shape(name, frame.shape), frame.labels
        dtypes = set()
        for j, label in enumerate(self.columns):
            dtype, given = frame.kind(j)
            if not is_real(dtype):
                raise InvalidTypeError(
                    f"{name}: column {j} {label!r} (counted from 0) holds {given}; convert it to "
                    f"bool, integers, float32 or float64, or leave it out"
                )
            dtypes.add(dtype)
        self.dtype = np.result_type(*dtypes)

    def __getitem__(self, rows: slice) -> NDArray[np.floating]:
        start, stop, _ = rows.indices(self.shape[0])
        out = np.empty((max(stop - start, 0), self.shape[1]), real_dtype(self.dtype))
        for j in range(self.shape[1]):
            missing, values = self._frame.column(j, start, stop)
            if missing is not None and missing.any():
                place = start + int(np.argmax(missing)), j
                what = "is missing; remove the row or fill in a finite number"
                raise bad_entry(self._name, place, what, self.columns)
            column = np.asarray(values())[:, None]
            out[:, j : j + 1] = to_floats(self._name, column, out.dtype, (start, j), self.columns)
        return out


class PandasFrame:
    """A DataFrame of pandas."""

    def __init__(self, frame: Any) -> None:
        self._frame, self.shape, self.labels = frame, frame.shape, list(frame.columns)

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        given = self._frame.dtypes.iloc[j]
        return self._numpy_dtype(given), given

    @classmethod
    def _numpy_dtype(cls, given: Any) -> np.dtype:
        """Return the dtype of the values of a column that misses none; object if unknown."""
        if isinstance(given, np.dtype):
            return given
        if hasattr(given, "numpy_dtype"):  # nullable columns, and those of Arrow
            return np.dtype(given.numpy_dtype)
        if hasattr(given, "fill_value"):  # sparse columns
            return np.dtype(given.subtype)
        if getattr(given, "categories", None) is not None:
            return cls._numpy_dtype(given.categories.dtype)
        return np.dtype(object)

    def column(self, j: int, start: int, stop: int) -> Column:
        rows = self._frame.iloc[start:stop, j]
        if isinstance(rows.dtype, np.dtype):
            return Column(None, rows.to_numpy)
        return Column(
            np.asarray(rows.isna()), lambda: rows.to_numpy(dtype=self._numpy_dtype(rows.dtype))
        )


class PolarsFrame:
    """A DataFrame of polars."""

    def __init__(self, frame: Any) -> None:
        self._frame, self.shape, self.labels = frame, frame.shape, list(frame.columns)

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        empty = self._frame.to_series(j).clear()
        return _dtype_of(empty.to_numpy), empty.dtype

    def column(self, j: int, start: int, stop: int) -> Column:
        rows = self._frame.to_series(j).slice(start, stop - start)
        missing = rows.is_null().to_numpy() if rows.null_count() else None
        return Column(missing, rows.to_numpy)


class ArrowTable:
    """A Table or a RecordBatch of pyarrow."""

    def __init__(self, table: Any) -> None:
        self._table, self.labels = table, list(table.column_names)
        self.shape = table.num_rows, table.num_columns

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        column = self._table.column(j)
        empty = column.slice(0, 0)
        return _dtype_of(lambda: empty.to_numpy(zero_copy_only=False)), column.type

    def column(self, j: int, start: int, stop: int) -> Column:
        rows = self._table.column(j).slice(start, stop - start)
        missing = rows.is_null().to_numpy(zero_copy_only=False) if rows.null_count else None
        return Column(missing, lambda: rows.to_numpy(zero_copy_only=False))


def _dtype_of(values: Callable[[], Any]) -> np.dtype:
    """Return the dtype of an empty column; object if NumPy has none, or if values are vectors."""
    try:
        empty = values()
    except Exception:  # each library has its own
        return np.dtype(object)
    return empty.dtype if empty.ndim == 1 else np.dtype(object)
