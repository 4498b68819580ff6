"""Readers of data frames of pandas and polars and of tables of Arrow, without importing these."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError
from ntk_numba.inputs.arrays import Opened, bad_entry, is_real, matrix_shape, real_dtype, to_floats
from ntk_numba.inputs.chunks import Chunks


class Column(NamedTuple):
    """A run of rows of a column.

    missing : (n,) which values are missing; None if none is
    values : a function that returns the values, if none is missing
    """

    missing: NDArray[np.bool_] | None
    values: Callable[[], NDArray[Any]]


class Frame(Protocol):
    """What `open_frame` needs of a data frame."""

    shape: tuple[int, int]
    labels: Sequence[Any]

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        """Return the dtype of column j in NumPy, and the type that errors name."""

    def column(self, j: int, start: int, stop: int) -> Column:
        """Return rows `start` to `stop` of column j."""

    def rows(self, start: int, stop: int) -> NDArray[Any] | None:
        """Return rows `start` to `stop` if all columns have one dtype of NumPy, else None."""


CHUNK_BYTES = 16 << 20  # each column of a chunk takes calls of its own


def open_frame(name: str, frame: Frame) -> Opened:
    """Open a data frame, whose rows are converted when they are read; their index is ignored.

    The dtype is float32 if all columns are float32, else float64.

    Raises
    ------
    ValueError, TypeError
        If the frame has no rows or no columns, or if a column does not hold real numbers. While it
        is read: if a value is missing, or is an integer that float64 does not hold.
    """
    rows, columns = shape = matrix_shape(name, frame.shape)
    single = True
    for j, label in enumerate(frame.labels):
        dtype, given = frame.kind(j)
        if not is_real(dtype):
            raise InvalidTypeError(
                f"{name}: column {j} ({label!r}, counted from 0) holds {given}; convert it to "
                f"bool, integers, float32 or float64, or leave it out"
            )
        single &= real_dtype(dtype) == np.float32
    dtype = np.dtype(np.float32 if single else np.float64)

    def load(start: int, stop: int) -> NDArray[np.floating]:
        if (block := frame.rows(start, stop)) is not None:  # in one call, which is faster
            return to_floats(name, block, dtype, (start, 0), frame.labels)
        out = np.empty((stop - start, columns), dtype)
        for j in range(columns):
            missing, values = frame.column(j, start, stop)
            if missing is not None and missing.any():
                place = start + int(np.argmax(missing)), j
                what = "is missing; remove the row or fill in a finite number"
                raise bad_entry(name, place, what, frame.labels)
            column = np.asarray(values())[:, None]
            out[:, j : j + 1] = to_floats(name, column, dtype, (start, j), frame.labels)
        return out

    step = max(1, CHUNK_BYTES // (columns * dtype.itemsize))
    chunks = Chunks(shape, dtype, [*range(step, rows, step), rows], load, frame.labels)
    return Opened(chunks, held=chunks.nbytes)


class PandasFrame:
    """A DataFrame of pandas."""

    def __init__(self, frame: Any) -> None:
        self._frame, self.shape = frame, frame.shape
        self.labels: Sequence[Any] = list(frame.columns)
        kinds = set(frame.dtypes)
        self._alike = len(kinds) == 1 and isinstance(kinds.pop(), np.dtype)

    def rows(self, start: int, stop: int) -> NDArray[Any] | None:
        return self._frame.iloc[start:stop].to_numpy() if self._alike else None

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        given = self._frame.dtypes.iloc[j]
        return _or_decimal(self._numpy_dtype(given), given), given

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
        self._frame, self.shape = frame, frame.shape
        self.labels: Sequence[Any] = list(frame.columns)

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        empty = self._frame.to_series(j).clear()
        if str(empty.dtype).endswith("Int128"):  # older polars panics when it converts values
            return np.dtype(object), empty.dtype
        return _or_decimal(_dtype_of(empty.to_numpy), empty.dtype), empty.dtype

    def rows(self, start: int, stop: int) -> NDArray[Any] | None:
        return None

    def column(self, j: int, start: int, stop: int) -> Column:
        rows = self._frame.to_series(j).slice(start, stop - start)
        missing = rows.is_null().to_numpy() if rows.null_count() else None
        return Column(missing, rows.to_numpy)


class ArrowTable:
    """A Table or a RecordBatch of pyarrow."""

    def __init__(self, table: Any) -> None:
        self._table, self.shape = table, (table.num_rows, table.num_columns)
        self.labels: Sequence[Any] = list(table.column_names)

    def kind(self, j: int) -> tuple[np.dtype, Any]:
        column = self._table.column(j)
        empty = column.slice(0, 0)
        found = _dtype_of(lambda: empty.to_numpy(zero_copy_only=False))
        return _or_decimal(found, column.type), column.type

    def rows(self, start: int, stop: int) -> NDArray[Any] | None:
        return None

    def column(self, j: int, start: int, stop: int) -> Column:
        rows = self._table.column(j).slice(start, stop - start)
        missing = rows.is_null().to_numpy(zero_copy_only=False) if rows.null_count else None
        return Column(missing, lambda: rows.to_numpy(zero_copy_only=False))


def _or_decimal(dtype: np.dtype, given: Any) -> np.dtype:
    """Return float64 for a type of decimal numbers, else the dtype.

    Their values are objects, which NumPy converts to the nearest float64.
    """
    return np.dtype(np.float64) if str(given).lower().startswith("decimal") else dtype


def _dtype_of(values: Callable[[], Any]) -> np.dtype:
    """Return the dtype of an empty column; object if NumPy has none, or if values are vectors."""
    try:
        empty = values()
    except Exception:  # each library has its own
        return np.dtype(object)
    return empty.dtype if empty.ndim == 1 else np.dtype(object)
