"""Reader of text files with tables of numbers, one sample per line: .csv and .tsv.

The standard library's reader splits lines into cells, and Python's `float`, which rounds
correctly, reads the numbers.
"""

import csv
import io
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
from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError, NtkNumbaError, file_error
from ntk_numba.inputs.arrays import Opened
from ntk_numba.inputs.columns import Choice, Words, parse_choice, resolve
from ntk_numba.inputs.compressed import COMPRESSIONS, open_bytes
from ntk_numba.inputs.dialect import (
    BLANKS,
    BOOLEANS,
    COMMA_NUMBER,
    MISSING,
    NUMBER,
    find_separator,
    has_decimals,
    has_header,
    may_be_sample,
    reader,
    split,
)

SAMPLE_LINES, SAMPLE_CHARACTERS = 100, 1 << 18  # the first lines, which the dialect is found from
SEPARATOR_LINES = 20  # of these, those that the separator is found from
INDEX_ROWS = 5  # a first column without a name that counts so many rows from 0 or 1 is an index
FEW_INDEX_ROWS = 3  # as many are enough if all numbers beside it have decimals
BLOCK = 4096  # rows are checked for NaN in blocks of so many
BLOCK_NUMBERS = 1 << 20  # or sooner, after so many numbers; the memory is checked then too
LINE_MEMORY = 32  # bytes of memory that a character of a line may take until its cells are numbers
OBJECT = 64  # bytes of an object of Python and of its place in a list
MOST_COMMENTS = 100_000  # lines without samples before the first samples
CHECK_LINES = 1 << 16  # lines without samples between two checks whether to stop
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"PAR1", b"\x28\xb5\x2f\xfd")
_BOMS = [
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
]


def open_table(path: Path, key: str, most: int) -> Opened:
    """Read the chosen columns of a whole text file into memory, at most `most` bytes.

    A line is a sample; empty lines and comments are passed over. The separator and a header are
    found from the first lines, see `dialect`; `columns` has the words of the key.

    Raises
    ------
    ValueError
        If the file is empty or no text, if it lacks a column, if the first line may be a header or
        a sample, if lines have different numbers of cells, or if a cell is no finite number.
    OSError
        If the file cannot be read, or is damaged.
    """
    table = _open(path, key, most, _numbers)
    return Opened(table, key, table.nbytes)


def open_words(path: Path, key: str, most: int) -> Opened:
    """Read the chosen columns of a whole text file as text, which may be labels, as `Words`.

    Raises
    ------
    ValueError, OSError
        As `open_table`, except that cells need not be numbers; they may not be missing.
    """
    found = _open(path, key, most, _texts)
    return Opened(found, key, sum(column.nbytes for column in found.columns))


def _open(path: Path, key: str, most: int, convert: Any) -> Any:
    """Return the chosen columns of a text file, converted by `_numbers` or `_texts`."""
    choice = parse_choice(str(path), key)
    try:
        with open_bytes(path) as file:
            encoding = _encoding(path, file.read(4096))
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        with io.TextIOWrapper(open_bytes(path), encoding, errors, newline="") as text:
            return _read(choice, text, path, most, convert)
    except UnicodeError:
        raise InvalidValueError(f"{path} is no text file") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None):
            raise file_error(error, f"{path} cannot be read: {error}") from None
        raise InvalidValueError(f"{path} is damaged or truncated ({error})") from None
    except MemoryError:
        raise _too_large(str(path), most) from None


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
    single : bool
        Whether a record is one cell, so that an empty line may be a missing value.
    number, start : int
        The number of the last line, and of the first one of its record, counted from 1.
    odd : bool
        Whether `float` may read a cell of the record as a number that is none: 1_000, digits that
        are not those of ASCII, or numbers between control characters.
    """

    def __init__(self, lines: Iterable[str], separator: str | None, file: str, most: int) -> None:
        self._lines, self._separator, self._file = lines, separator, file
        self._blank = " \r\n" if separator == "\t" else " \t\r\n"
        self._most, self._longest, self._length = most, most // LINE_MEMORY, 0
        self.fresh, self.number, self.start, self.odd = True, 0, 0, False
        self.single, self._empty = False, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            if len(line) > self._longest:  # a piece of a line: what follows it is no line
                raise self._long(self.number)
            if self.fresh:
                bare = line.strip(self._blank)
                if not bare or bare[0] == "#":
                    self._pass_over(bare)
                    continue
                if self._empty and self.single:
                    raise InvalidValueError(
                        f"{self._file}: line {self._empty} is empty, which may be a missing value; "
                        f"delete the line or fill in a value"
                    )
                self.start, self.odd, self.fresh = self.number, False, False
                self._length = self._empty = 0
            self._length += len(line)
            if self._length > self._longest:
                raise self._long(self.start)
            text = line.rstrip("\r\n")
            if self._separator == "\t":
                text = text.replace("\t", "")
            if "_" in text or not (text.isascii() and text.isprintable()):
                self.odd = True
            yield line.strip() if self._separator == " " else line

    def _long(self, number: int) -> InvalidValueError:
        """Return the error for a line, or lines of one record, that take too much memory."""
        return _too_large(f"{self._file}: line {number}", self._most)

    def _pass_over(self, bare: str) -> None:
        """Pass over a line that is empty or a comment, or raise an error if it may be a sample."""
        if self.number % CHECK_LINES == 0:
            stopping.check()
        if not bare:
            self._empty = self._empty or self.number
        elif may_be_sample(bare, self._separator, inside=self.start > 0):
            shown = repr(_printable(bare if len(bare) <= 40 else bare[:40] + "…"))
            raise InvalidValueError(
                f"{self._file}: line {self.number} is {shown}, which may be a comment or a sample; "
                f"delete the line, or its #, or write a comment as words behind '# '"
            )


def _pieces(file: IO[str], longest: int) -> Iterator[str]:
    """Yield the lines of a file, longer ones in pieces, so that no line fills the memory."""
    while line := file.readline(longest):
        yield line


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

    def refuse_uneven(self, file: str, row: list[str], line: int, *, first: bool) -> None:
        """Raise an error if a record has not as many cells as those above it."""
        if len(row) != self.cells or (self.trailing and row[-1].strip()):
            raise InvalidValueError(
                f"{file}: line {line} has another number of cells, {len(row)}, than "
                f"the lines above it, {self.cells - self.trailing}"
                + "; if each line begins with the name of its row, give it one in the first line"
                * bool(self.names and first and len(row) == self.cells + 1)
            )


def _read(choice: Choice, file: IO[str], path: Path, most: int, convert: Any) -> Any:
    """Return the chosen columns of an open text file, see `_open`."""
    words = convert is _texts
    longest = most // LINE_MEMORY
    pieces = _pieces(file, longest + 1)
    head: list[str] = []
    length = 0
    sample: list[str] = []  # those lines of the head that are no comments
    for line in pieces:
        head.append(line)
        length += len(line)
        if line.strip() and line.lstrip()[0] != "#":
            sample.append(line)
            if len(sample) == SAMPLE_LINES or sum(map(len, sample)) > SAMPLE_CHARACTERS:
                break
        elif length > longest:
            raise _too_large(choice.file, most)
        elif len(head) > MOST_COMMENTS:
            raise InvalidValueError(
                f"{path} has {MOST_COMMENTS:,} comments and empty lines, and few samples between "
                f"them; delete them"
            )
    separator = choice.separator
    if separator is None:
        tabs = path.name.lower().removesuffix(path.suffix.lower() * (path.suffix in COMPRESSIONS))
        tabs_only = tabs.endswith(".tsv")
        separator = "\t" if tabs_only else find_separator(sample[:SEPARATOR_LINES], words=words)
    lines = _Lines(chain(head, pieces), separator, choice.file, most)
    records = _records(lines, separator, choice.file)
    first = next(records, None)
    if first is None:
        raise InvalidValueError(f"{choice.file} is empty: it has no rows")
    rows, quoted = [first], [_is_quoted("".join(head[lines.start - 1 : lines.number]), first)]
    for line in sample[1:]:
        if len(row := next(iter(split([line], separator)), [])) == len(first):
            rows.append(row)
            quoted.append(_is_quoted(line, row))
    shape = _shape(choice, rows, quoted, words)
    lines.single = shape.cells == 1
    if shape.names is None:
        records = chain([first], records)
    return convert(choice, shape, records, lines, most)


def _is_quoted(text: str, row: list[str]) -> bool:
    """Return whether all cells of a line are in quotes."""
    return text.count('"') >= 2 * len(row)


def _shape(choice: Choice, rows: list[list[str]], quoted: list[bool], words: bool) -> _Shape:
    """Find out the shape of a table from its first rows."""
    cells = len(rows[0])
    trailing = cells > 1 and len(rows) > 1 and not any(row[-1].strip() for row in rows)
    width = cells - trailing
    names = None
    if has_header(choice, [row[:width] for row in rows], quoted, words=words):
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
    choice: Choice, shape: _Shape, records: Iterable[list[str]], lines: _Lines, most: int
) -> np.ndarray:
    """Return the chosen cells of all records as a matrix of float64.

    Raises
    ------
    ValueError
        If a record has another number of cells, or a cell is no finite number.
    """
    cells, count = shape.cells, len(shape.columns)
    pick: Any = None if shape.columns == list(range(cells)) else itemgetter(*shape.columns)
    values, starts, checked = array("d"), array("q"), 0
    block = max(1, min(BLOCK, BLOCK_NUMBERS // count))
    for row in records:
        shape.refuse_uneven(choice.file, row, lines.start, first=not starts)
        chosen = row if pick is None else pick(row) if count > 1 else (pick(row),)
        try:
            values.extend(_exact(choice, shape, row, lines) if lines.odd else map(float, chosen))
        except NtkNumbaError:
            raise
        except ValueError:
            del values[len(starts) * count :]
            values.extend(_exact(choice, shape, row, lines))
        starts.append(lines.start)
        if len(starts) - checked == block:
            stopping.check()
            _refuse_not_finite(choice, shape, values, starts, checked)
            checked = len(starts)
            # arrays grow by an eighth, and may be copied then
            if (len(values) + len(starts)) * 9 > min(most, machine.available_memory()):
                raise _too_large(choice.file, most)
    _refuse_not_finite(choice, shape, values, starts, checked)
    return np.frombuffer(values, np.float64).reshape(len(starts), count)


def _texts(
    choice: Choice, shape: _Shape, records: Iterable[list[str]], lines: _Lines, most: int
) -> Words:
    """Return the chosen cells of all records as columns of text; none may be missing."""
    cells: list[list[str]] = [[] for _ in shape.columns]
    starts, size = array("q"), 0
    for row in records:
        shape.refuse_uneven(choice.file, row, lines.start, first=not starts)
        for kept, column in zip(cells, shape.columns, strict=True):
            kept.append(cell := _printable(row[column].strip(BLANKS)))
            if cell.lower() in MISSING:
                _refuse(choice, shape, cell, lines.start, column)
            size += OBJECT + 4 * len(cell)
        starts.append(lines.start)
        if size > most:
            raise _too_large(choice.file, most)
    names = shape.names and [shape.names[column] for column in shape.columns]

    def place(row: int, column: int) -> str:
        return shape.place(choice.file, starts[row], shape.columns[column])

    return Words([np.array(column, object) for column in cells], names, place)


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
            f"{place} is missing ({shown}); drop the line or fill in a value; as to the "
            f"column, {choice.without(shape.names, column)}"
        )
    if COMMA_NUMBER.fullmatch(cell) or ("," in cell and NUMBER.fullmatch(cell.replace(",", ""))):
        raise InvalidValueError(
            f"{place} is {shown}, with a comma; write numbers with a decimal point and without "
            f"separators of thousands, 1234.5"
        )
    if "#" in cell:
        raise InvalidValueError(
            f"{place} is {shown}; a comment needs a line of its own, so delete what begins with #"
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
        raise InvalidValueError(f"{place} is missing (nan); drop the line or fill in a value")
    raise InvalidValueError(f"{place} is infinite or too large for float64; correct it")


def _too_large(name: str, most: int) -> InvalidValueError:
    """Return the error for a table that takes too much memory."""
    return InvalidValueError(
        f"{name} does not fit into memory, of which it may take {show_bytes(most)}, since text is "
        f"read as a whole; convert it to .npy or .parquet, which are read in runs of rows"
    )
