"""Reader of Parquet files, by row groups; it needs pyarrow."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError, NtkNumbaError
from ntk_numba.inputs.arrays import Opened, bad_entry, to_floats
from ntk_numba.inputs.chunks import Chunks
from ntk_numba.inputs.columns import Words, parse_choice, resolve

DECODING = 3  # copies of a column that are in memory while it is decoded
DECIMALS = 1 << 14  # decimal numbers are objects of Python, of 100 bytes, of so many at a time


def open_parquet(path: Path, key: str, most: int) -> Opened:
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
    file, columns = _open(path, key, words=False)
    groups = _RowGroups(path, file, columns)
    shape = (groups.ends[-1] if groups.ends else 0, len(columns))
    rows = Chunks(shape, groups.dtype, groups.ends, groups.load)
    needed = rows.nbytes + DECODING * groups.largest_column
    if needed > most:
        raise InvalidValueError(
            f"{path} has row groups that take {show_bytes(needed)} of memory, more than "
            f"{show_bytes(most)}; write it with fewer rows in a row group, as "
            f"pyarrow.parquet.write_table(table, path, row_group_size=10_000) does"
        )
    return Opened(rows, key, rows.nbytes)


def open_parquet_words(path: Path, key: str, most: int) -> Opened:
    """Read the chosen columns of a Parquet file, which may be text such as labels, as `Words`.

    Raises
    ------
    ValueError, TypeError, OSError
        As `open_parquet`, or if the columns take more than `most` bytes.
    """
    file, columns = _open(path, key, words=True)
    labels = file.schema_arrow.names
    names = [labels[column] for column in columns]
    try:
        table = file.read(columns=names)
        if DECODING * table.nbytes > most:
            raise InvalidValueError(f"{path}:{key} takes more memory than {show_bytes(most)}")
        found = []
        for number, name in zip(columns, names, strict=True):
            column = table.column(name)
            if column.null_count:
                row = int(np.flatnonzero(column.is_null())[0])
                what = "is missing (null); drop the row or fill in a value"
                raise bad_entry(str(path), (row, number), what, labels)
            text = _refused(column.type) is not None
            found.append(np.array(column.to_pylist(), object) if text else _floats(column))
    except NtkNumbaError:
        raise
    except Exception as error:  # many classes, as in `load`
        raise FileError(f"{path}:{key} cannot be read; the file is damaged ({error})") from None

    def place(row: int, column: int) -> str:
        return f"{path}: row {row}, column {columns[column]} ({names[column]!r})"

    return Opened(Words(found, names, place), key, sum(column.nbytes for column in found))


def _open(path: Path, key: str, *, words: bool) -> tuple[Any, list[int]]:
    """Open a Parquet file, and return it with the numbers of the chosen columns.

    words : whether columns may be text
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
        if (shown := _refused(kind)) is not None and not (words and _is_text(kind)):
            raise InvalidTypeError(
                f"{where} holds {shown}, and numbers are wanted; {choice.without(names, column)}"
            )
    return file, columns


def _is_text(kind: Any) -> bool:
    """Return whether a type of columns is text, also as a dictionary of categories."""
    import pyarrow.types as types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value))


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


class _RowGroups:
    """The chosen columns of a Parquet file, by row groups.

    Attributes
    ----------
    ends : the last row plus 1 of each row group
    dtype : float32 if all columns are float32, else float64
    largest_column : the bytes of the largest chosen column of a row group
    """

    def __init__(self, path: Path, file: Any, columns: list[int]) -> None:
        import pyarrow

        self._path, self._file, self._columns = path, file, columns
        metadata = file.metadata
        counts = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        self.ends = [int(end) for end in np.cumsum(counts, dtype=np.int64)]
        types = [file.schema_arrow.types[column] for column in columns]
        single = all(kind == pyarrow.float32() for kind in types)
        self.dtype = np.dtype(np.float32 if single else np.float64)
        sizes = [8 * max(counts, default=0)]
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            # columns are counted by their leaves; of nested ones the group's size is a bound
            if group.num_columns == len(file.schema_arrow.names):
                sizes += [group.column(c).total_uncompressed_size for c in columns]
            else:
                sizes.append(group.total_byte_size)
        self.largest_column = max(sizes)

    def load(self, start: int, stop: int) -> NDArray[np.floating]:
        """Return the row group of rows start to stop.

        Raises
        ------
        ValueError
            If an entry is missing, not finite, or an integer that float64 does not hold.
        OSError
            If the file is damaged.
        """
        labels = self._file.schema_arrow.names
        group = np.empty((stop - start, len(self._columns)), self.dtype)
        for j, number in enumerate(self._columns):
            try:
                column = self._file.read_row_group(
                    self.ends.index(stop), columns=[labels[number]]
                ).column(labels[number])
                nulls: Any = np.flatnonzero(column.is_null()) if column.null_count else ()
                values = None if len(nulls) else _floats(column)
            except Exception as error:  # many classes, as above
                raise FileError(
                    f"{self._path}: column {number} ({labels[number]!r}) cannot be read from row "
                    f"{start} on; the file is damaged ({error})"
                ) from None
            if values is None:
                raise InvalidValueError(
                    f"{self._path}: row {start + int(nulls[0])}, column {number} "
                    f"({labels[number]!r}) is missing (null; counted from 0); drop the row or "
                    f"fill in a number"
                )
            name = str(self._path)
            floats = to_floats(name, values[:, None], self.dtype, (start, number), labels)
            if not np.isfinite(floats).all():
                row = int(np.argmin(np.isfinite(floats[:, 0])))
                what = f"is {floats[row, 0]}; remove the row or fill in a finite number"
                raise bad_entry(name, (start + row, number), what, labels)
            group[:, j] = floats[:, 0]
        return group


def _floats(column: Any) -> NDArray[Any]:
    """Return a column of numbers without nulls as an array."""
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        column = column.dictionary_decode()
    if types.is_decimal(column.type):
        exact: Callable[[Decimal], float] = float
        floats = np.empty(len(column))
        for start in range(0, len(column), DECIMALS):
            piece = column.slice(start, DECIMALS)
            floats[start : start + len(piece)] = [exact(value) for value in piece.to_pylist()]
        return floats
    return column.to_numpy()
