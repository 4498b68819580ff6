"""Reader of text files with tables of numbers, one sample per line: .csv and .tsv.

The standard library's reader splits lines into cells, and Python's `float`, which rounds
correctly, reads the numbers.
"""

import bz2
import csv
import gzip
import lzma
import zlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from ntk_numba import machine, stopping
from ntk_numba.errors import FileError, InvalidValueError, NtkNumbaError, file_error
from ntk_numba.inputs.arrays import Opened
from ntk_numba.inputs.columns import Choice, parse_choice, resolve
from ntk_numba.inputs.dialect import (
    BLANKS,
    BOOLEANS,
    COMMA_NUMBER,
    MISSING,
    NUMBER,
    find_separator,
    has_decimals,
    has_header,
    reader,
    split,
    uncomment,
)

SAMPLE_LINES, SAMPLE_CHARACTERS = 100, 1 << 18  # the first lines, which the dialect is found from
SEPARATOR_LINES = 20  # of these, those that the separator is found from
INDEX_ROWS = 5  # a first column without a name that counts so many rows from 0 or 1 is an index
FEW_INDEX_ROWS = 3  # as many are enough if all numbers beside it have decimals
BLOCK = 4096  # rows are checked for NaN in blocks of so many
CHECK_MEMORY = 1 << 24  # from so many numbers on, the free memory is checked as they grow
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSIONS = tuple(_OPENERS)
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"PAR1", b"\x28\xb5\x2f\xfd")
_BOMS = [
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
]


def open_table(path: Path, key: str) -> Opened:
    """Read the chosen columns of a whole text file into memory.

    A line is a sample; empty lines, and lines that begin with #, are passed over. The separator and
    a header are found from the first lines, see `dialect`; `columns` has the words of the key.

    Raises
    ------
    ValueError
        If the file is empty or no text, if it lacks a column, if the first line may be a header or
        a sample, if lines have different numbers of cells, or if a cell is no finite number.
    OSError
        If the file cannot be read, is damaged, or changes meanwhile.
    """
    choice = parse_choice(str(path), key)
    before = path.stat()
    opener = _OPENERS.get(path.suffix.lower(), Path.open)
    try:
        with opener(path, "rb") as file:
            encoding = _encoding(path, file.read(4096))
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        with opener(path, "rt", encoding=encoding, errors=errors, newline="") as file:
            table = _read(choice, file, path)
    except UnicodeError:
        raise InvalidValueError(f"{path} is no text file") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None):
            raise file_error(error, f"{path} cannot be read: {error}") from None
        raise InvalidValueError(f"{path} is damaged or truncated ({error})") from None
    except MemoryError:
        raise _too_large(path) from None
    after = path.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    ):
        raise FileError(f"{path} has changed while it was read")
    return Opened(table, key, table.nbytes)


def _encoding(path: Path, start: bytes) -> str:
    """Return the encoding of a text file by its first bytes."""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding
    if start.startswith(_MAGIC):
        raise InvalidValueError(
            f"{path} is compressed or of another format; its name must end as its format does"
        )
    if b"\0" in start:
        raise InvalidValueError(f"{path} is no text file, or UTF-16 without a mark; write UTF-8")
    return "utf-8"  # other encodings differ in names only: digits have the same bytes in them


class _Lines:
    """Iterates over the lines of a table that belong to records, and counts them.

    Attributes
    ----------
    fresh : bool
        Whether the next line begins a record; the consumer sets it.
    number, start : int
        The number of the last line, and of the first one of its record, counted from 1.
    odd : bool
        Whether `float` may read a cell of the record as a number that is none: 1_000, or digits
        that are not those of ASCII.
    """

    def __init__(self, lines: Iterable[str], separator: str | None) -> None:
        self._lines, self._separator = lines, separator
        self._blank = " \r\n" if separator == "\t" else " \t\r\n"
        self.fresh, self.number, self.start, self.odd = True, 0, 0, False

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            if self.fresh:
                bare = line.strip(self._blank)
                if not bare or bare[0] == "#":
                    continue
                self.start, self.odd, self.fresh = self.number, False, False
                if "#" in line:
                    line = uncomment(line, self._separator)
            if "_" in line or not line.isascii():
                self.odd = True
            yield line.strip() if self._separator == " " else line


def _records(lines: _Lines, separator: str | None, file: str) -> Iterator[list[str]]:
    """Yield the cells of each record.

    Raises
    ------
    ValueError
        If quotes are wrong.
    """
    try:
        for row in reader(lines, separator):
            yield row
            lines.fresh = True
    except csv.Error as error:
        raise InvalidValueError(
            f"{file}: line {lines.start}: a quote is wrong or not closed, or a cell is longer than "
            f"{csv.field_size_limit()} characters ({error})"
        ) from None


class _Shape(NamedTuple):
    """The shape of a table as its first lines show it.

    Attributes
    ----------
    cells : int
        The number of cells of a line.
    names : list of str or None
        The names of the columns, if there are any.
    columns : list of int
        The chosen columns.
    trailing : bool
        Whether lines end with a separator, behind which there is no cell.
    """

    cells: int
    names: list[str] | None
    columns: list[int]
    trailing: bool

    def place(self, file: str, line: int, column: int) -> str:
        """Return the words of a message for a cell: the file, the line, and the column."""
        name = f" ({self.names[column]!r})" if self.names else ""
        return f"{file}: line {line}, column {column}{name}"


def _read(choice: Choice, file: IO[str], path: Path) -> np.ndarray:
    """Return the chosen columns of an open text file."""
    head: list[str] = []
    sample: list[str] = []  # those lines of the head that are no comments
    for line in file:
        head.append(line)
        if line.strip() and line.lstrip()[0] != "#":
            sample.append(line)
            if len(sample) == SAMPLE_LINES or sum(map(len, sample)) > SAMPLE_CHARACTERS:
                break
    separator = choice.separator
    if separator is None:
        tabs = path.name.lower().removesuffix(path.suffix.lower() * (path.suffix in _OPENERS))
        some = [uncomment(line) for line in sample[:SEPARATOR_LINES]]
        separator = "\t" if tabs.endswith(".tsv") else find_separator(some)
    sample = [uncomment(line, separator) for line in sample]
    lines = _Lines(chain(head, file), separator)
    records = _records(lines, separator, choice.file)
    first = next(records, None)
    if first is None:
        raise InvalidValueError(f"{choice.file} is empty: it has no rows")
    rows, quoted = [first], [_is_quoted("".join(head[lines.start - 1 : lines.number]), first)]
    for line in sample[1:]:
        if len(row := next(iter(split([line], separator)), [])) == len(first):
            rows.append(row)
            quoted.append(_is_quoted(line, row))
    shape = _shape(choice, rows, quoted)
    if shape.names is None:
        records = chain([first], records)
    return _numbers(choice, shape, records, lines)


def _is_quoted(text: str, row: list[str]) -> bool:
    """Return whether all cells of a line are in quotes."""
    return text.count('"') >= 2 * len(row)


def _shape(choice: Choice, rows: list[list[str]], quoted: list[bool]) -> _Shape:
    """Find out the shape of a table from its first rows."""
    cells = len(rows[0])
    trailing = cells > 1 and len(rows) > 1 and not any(row[-1].strip() for row in rows)
    width = cells - trailing
    names = None
    if has_header(choice, [row[:width] for row in rows], quoted):
        names = [_printable(name.strip()) for name in rows[0][:width]]
    unnamed = names and (not names[0] or names[0].startswith("Unnamed:"))
    index = unnamed if names else _counts_rows(rows, width)
    columns = resolve(choice, names, width, [0] if index and width > 1 else [])
    return _Shape(cells, names, columns, trailing)


def _counts_rows(rows: list[list[str]], width: int) -> bool:
    """Return whether the first column, which has no name, looks like an index of the rows."""
    first = [row[0].strip(BLANKS) for row in rows]
    if first not in ([str(k) for k in range(start, start + len(first))] for start in (0, 1)):
        return False
    decimals = all(has_decimals(cell.strip(BLANKS)) for row in rows for cell in row[1:width])
    return len(first) >= (FEW_INDEX_ROWS if decimals else INDEX_ROWS)


def _printable(text: str) -> str:
    """Return text whose bytes, if they are not UTF-8, are read as Latin-1."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _numbers(
    choice: Choice, shape: _Shape, records: Iterable[list[str]], lines: _Lines
) -> np.ndarray:
    """Return the chosen cells of all records as a matrix of float64.

    Raises
    ------
    ValueError
        If a record has another number of cells, or a cell is no finite number.
    """
    cells, count = shape.cells, len(shape.columns)
    pick: Any = None if shape.columns == list(range(cells)) else itemgetter(*shape.columns)
    values, starts, checked, mark = array("d"), array("q"), 0, CHECK_MEMORY
    for row in records:
        if len(row) != cells or (shape.trailing and row[-1].strip()):
            raise InvalidValueError(
                f"{choice.file}: line {lines.start} has another number of cells, {len(row)}, than "
                f"the lines above it, {cells - shape.trailing}"
                + "; if each line begins with the name of its row, give it one in the first line"
                * bool(shape.names and not starts and len(row) == cells + 1)
            )
        chosen = row if pick is None else pick(row) if count > 1 else (pick(row),)
        try:
            values.extend(_exact(choice, shape, row, lines) if lines.odd else map(float, chosen))
        except NtkNumbaError:
            raise
        except ValueError:
            del values[len(starts) * count :]
            values.extend(_exact(choice, shape, row, lines))
        starts.append(lines.start)
        if len(starts) - checked == BLOCK:
            stopping.check()
            _refuse_not_finite(choice, shape, values, starts, checked)
            checked = len(starts)
            if len(values) > mark:
                mark = len(values) * 5 // 4
                if machine.available_memory() < 2 * (mark - len(values)) * values.itemsize:
                    raise _too_large(Path(choice.file))
    _refuse_not_finite(choice, shape, values, starts, checked)
    return np.frombuffer(values, np.float64).reshape(len(starts), count)


def _exact(choice: Choice, shape: _Shape, row: list[str], lines: _Lines) -> Iterator[float]:
    """Yield the numbers of a record in which `float` may err, or which has other cells."""
    for column in shape.columns:
        cell = row[column].strip(BLANKS)
        if NUMBER.fullmatch(cell):
            yield float(cell)
        elif cell.lower() in BOOLEANS:
            yield BOOLEANS[cell.lower()]
        else:
            _refuse(choice, shape, cell, lines.start, column)


def _refuse(choice: Choice, shape: _Shape, cell: str, line: int, column: int) -> NoReturn:
    """Raise the error for a cell that is no number."""
    place = shape.place(choice.file, line, column)
    shown = repr(_printable(cell if len(cell) <= 40 else cell[:40] + "…"))
    if cell.lower() in MISSING:
        raise InvalidValueError(
            f"{place} is missing ({shown}); drop the line or fill in a number; as to the "
            f"column, {choice.without(shape.names, column)}"
        )
    if COMMA_NUMBER.fullmatch(cell) or ("," in cell and NUMBER.fullmatch(cell.replace(",", ""))):
        raise InvalidValueError(
            f"{place} is {shown}, with a comma; write numbers with a decimal point and without "
            f"separators of thousands, 1234.5"
        )
    if "#" in cell:
        raise InvalidValueError(
            f"{place} is {shown}; a comment needs a line of its own, or a blank before its #"
        )
    raise InvalidValueError(
        f"{place} is {shown}, which is no number; correct it; as to the column, "
        f"{choice.without(shape.names, column)}"
    )


def _refuse_not_finite(
    choice: Choice, shape: _Shape, values: "array[float]", starts: "array[int]", first: int
) -> None:
    """Raise an error that names the first NaN or infinity from row `first` on, if there is one."""
    count = len(shape.columns)
    rows = np.frombuffer(values, np.float64).reshape(-1, count)[first:]
    finite = np.isfinite(rows)
    if finite.all():
        return
    row, column = (int(k) for k in np.argwhere(~finite)[0])
    place = shape.place(choice.file, starts[first + row], shape.columns[column])
    if np.isnan(rows[row, column]):
        raise InvalidValueError(f"{place} is missing (nan); drop the line or fill in a number")
    raise InvalidValueError(f"{place} is infinite or too large for float64; correct it")


def _too_large(path: Path) -> InvalidValueError:
    """Return the error for a table that does not fit into memory."""
    return InvalidValueError(
        f"{path} does not fit into memory, and text is read as a whole; convert it to .npy or "
        f".parquet, which are read in runs of rows"
    )
