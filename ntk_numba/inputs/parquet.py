"""Reader of Parquet files, by row groups; it needs pyarrow."""

import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError
from ntk_numba.inputs.arrays import Opened, bad_entry, to_floats
from ntk_numba.inputs.columns import parse_choice, resolve


def open_parquet(path: Path, key: str) -> Opened:
    """Open the chosen columns of a Parquet file; its row groups are read when needed.

    One row group is in memory at a time.

    Raises
    ------
    ValueError, TypeError
        If the file is no Parquet file or is truncated, if it lacks a column, or if a column does
        not hold numbers.
    OSError
        If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise FileError(f"{path} needs pyarrow to be read: pip install ntk_numba[tables]") from None
    choice = parse_choice(str(path), key)
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    except Exception as error:  # pyarrow raises many classes of errors for damaged files
        raise InvalidValueError(
            f"{path} is no valid Parquet file, perhaps truncated ({error})"
        ) from None
    names = list(schema.names)
    if not names:
        raise InvalidValueError(f"{path} has no columns; a sample needs a feature")
    indices = [names.index(name) for name in index if isinstance(name, str) and name in names]
    columns = resolve(choice, names, len(names), indices)
    for column in columns:
        where = f"{path}: column {column} ({names[column]!r})"
        if names.count(names[column]) > 1:
            raise InvalidValueError(f"{where} has a name that another column has too; rename one")
        kind = schema.types[column]
        if (shown := _refused(kind)) is not None:
            raise InvalidTypeError(
                f"{where} holds {shown}, and numbers are wanted; {choice.without(names, column)}"
            )
    rows = ParquetRows(path, file, columns)
    return Opened(rows, key, rows.largest_group)


def _refused(kind: Any) -> str | None:
    """Return the name of a type of columns that hold no numbers, None for numbers."""
    import pyarrow.types as types

    value = kind.value_type if types.is_dictionary(kind) else kind
    number = (
        types.is_integer(value)
        or types.is_floating(value)
        or types.is_boolean(value)
        or types.is_decimal(value)
    )
    return None if number else str(kind)


class ParquetRows:
    """Columns of numbers of a Parquet file as a matrix, whose runs of rows are read when needed.

    The row group that was read last is kept, since the next run mostly lies in it too.

    Attributes
    ----------
    shape : (rows, columns)
    dtype : float32 if all columns are float32, else float64
    largest_group : int
        The bytes of the largest row group.
    """

    def __init__(self, path: Path, file: Any, columns: list[int]) -> None:
        import pyarrow

        self._path, self._file, self._columns = path, file, columns
        metadata = file.metadata
        counts = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.shape = (int(self._starts[-1]), len(columns))
        types = [file.schema_arrow.types[column] for column in columns]
        single = all(kind == pyarrow.float32() for kind in types)
        self.dtype = np.dtype(np.float32 if single else np.float64)
        self.largest_group = max(counts, default=0) * len(columns) * self.dtype.itemsize
        self._kept: tuple[int, NDArray[np.floating] | None] = (-1, None)
        self._lock = threading.Lock()  # a file of pyarrow is read by one thread at a time

    def __getitem__(self, rows: Any) -> NDArray[np.floating]:
        """Return rows ``[start:stop]``, or all of them for ``[()]``."""
        run = slice(None) if isinstance(rows, tuple) else rows
        start, stop, _ = run.indices(self.shape[0])
        result = np.empty((max(0, stop - start), self.shape[1]), self.dtype)
        for k in range(len(self._starts) - 1):
            first, last = int(self._starts[k]), int(self._starts[k + 1])
            low, high = max(start, first), min(stop, last)
            if low < high:
                result[low - start : high - start] = self._group(k)[low - first : high - first]
        return result

    def _group(self, k: int) -> NDArray[np.floating]:
        """Return a row group.

        Raises
        ------
        ValueError
            If an entry is missing.
        OSError
            If the file is damaged.
        """
        with self._lock:
            kept, group = self._kept
            if kept == k and group is not None:
                return group
            self._kept = (-1, None)  # two groups at once are more than the plan counts
            names = [self._file.schema_arrow.names[column] for column in self._columns]
            group = np.empty((int(self._starts[k + 1] - self._starts[k]), len(names)), self.dtype)
            for j, name in enumerate(names):
                try:
                    column = self._file.read_row_group(k, columns=[name]).column(name)
                    nulls: Any = np.flatnonzero(column.is_null()) if column.null_count else ()
                    values = None if len(nulls) else _floats(column)
                except Exception as error:  # many classes, as above
                    raise FileError(
                        f"{self._path}: column {self._columns[j]} ({name!r}) cannot be read from "
                        f"row {int(self._starts[k])} on; the file is damaged ({error})"
                    ) from None
                if values is None:
                    raise InvalidValueError(
                        f"{self._path}: row {int(self._starts[k]) + int(nulls[0])}, column "
                        f"{self._columns[j]} ({name!r}) is missing (null; counted from 0); drop "
                        f"the row or fill in a number"
                    )
                group[:, j] = self._checked(values, int(self._starts[k]), j)
            self._kept = (k, group)
            return group

    def _checked(self, values: NDArray[Any], first: int, j: int) -> NDArray[np.floating]:
        """Return values of a column, from row `first` on, as finite floats.

        Raises
        ------
        ValueError
            If one is NaN or infinite, or an integer that float64 does not hold.
        """
        number = self._columns[j]
        labels = self._file.schema_arrow.names
        floats = to_floats(str(self._path), values[:, None], self.dtype, (first, number), labels)
        if not np.isfinite(floats).all():
            row = int(np.argmin(np.isfinite(floats[:, 0])))
            what = f"is {floats[row, 0]}; remove the row or fill in a finite number"
            raise bad_entry(str(self._path), (first + row, number), what, labels)
        return floats[:, 0]


def _floats(column: Any) -> NDArray[Any]:
    """Return a column of numbers without nulls as an array."""
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        column = column.dictionary_decode()
    if types.is_decimal(column.type):
        exact: Callable[[Decimal], float] = float
        return np.array([exact(value) for value in column.to_pylist()], np.float64)
    return column.to_numpy()
