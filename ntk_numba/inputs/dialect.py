"""What a text file with a table leaves open: its separator, and whether its first line has names.

Both are found from the first lines. What may be read in two ways is refused, never guessed.
"""

import csv
import re
from collections.abc import Iterable, Sequence

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.columns import Choice

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
BOOLEANS = {"true": 1.0, "false": 0.0}
# The words that stand for a missing number.
MISSING = frozenset(
    (
        *("", "?", "-", "--", ".", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan"),
        *("+nan", "null", "none", "nil", "missing", "#null!", "#div/0!", "#ref!", "#value!"),
        *("#name?", "#num!"),
    )
)
BLANKS = " \t\r\n\v\f"  # may stand around a number, as for `float`
COMMA_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.' ]\d{3})*,\d+|,\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_LIKE_DATA = re.compile(
    r"[+-]?(?:inf|infinity|0x[\da-f.p+-]+|[$€£]?[\d.,'  _]*\d[\d.,'  _]*%?(?:[ed][+-]?\d+)?)",
    re.IGNORECASE,
)
_BEGINS_AS_NUMBER = re.compile(r"[+.$€£(-]*\d")


def may_be_sample(line: str, separator: str | None, *, inside: bool) -> bool:
    """Return whether a line that begins with # may be a sample, and not a comment.

    A comment has no cells that are values. Before the first line of the table it may have some, but
    not only such cells; after it, a blank or a second # has to follow the #.

    line : the line, without the blanks around it
    inside : whether it stands after the first line of the table
    """
    text = line[1:]
    if not text.strip("#-=*~+_ \t"):
        return False
    cells = [c.strip(BLANKS) for c in next(iter(split([text], separator)), [text])]
    values = [_kind(c) in ("number", "bool", "data") for c in cells if c]
    values.append(f"#{cells[0]}".lower() in MISSING)
    if inside:
        return any(values) or text[0] not in "# \t"
    return all(values[:-1]) or values[-1]


def find_separator(lines: Sequence[str], *, words: bool = False) -> str | None:
    """Return the separator of the first lines of a table; None if there is one cell per line.

    It is the character that leaves the largest share of cells that are numbers; among equals, one
    that gives all lines equally many cells, then the first of tab, semicolon, pipe, comma, space.

    words : whether cells may be text only; then a line of text is one cell, unless a character
        other than a space splits all lines into equally many
    """
    best, found = (-1.0, False), None
    for separator in ("\t", ";", "|", ",", " ", None):
        rows = split(lines, separator)
        cells = [cell.strip(BLANKS) for row in rows for cell in row]
        if not cells or (separator and max(map(len, rows)) < 2):
            continue
        numbers = sum(bool(NUMBER.fullmatch(c) or COMMA_NUMBER.fullmatch(c)) for c in cells)
        even = len(set(map(len, rows))) == 1
        if words and separator and not numbers and (separator == " " or not even):
            continue
        score = (numbers / len(cells), even)
        if separator is None and best[0] >= 0 and numbers == 0:
            break  # a table of text, which is refused by its cells
        if score > best:
            best, found = score, separator
    return found


def split(lines: Iterable[str], separator: str | None) -> list[list[str]]:
    """Split lines into cells, without the lines that have none."""
    if separator == " ":
        lines = (line.strip() for line in lines)
    try:
        return [row for row in reader(lines, separator, strict=False) if row]
    except csv.Error:
        return []


def reader(lines: Iterable[str], separator: str | None, strict: bool = True) -> Iterable[list[str]]:
    """Return the reader of the standard library; without a separator a comma is an error."""
    return csv.reader(lines, delimiter=separator or ",", skipinitialspace=True, strict=strict)


def has_header(
    choice: Choice, rows: Sequence[Sequence[str]], quoted: Sequence[bool], *, words: bool = False
) -> bool:
    """Return whether the first of some rows has the names of the columns.

    Only columns are considered that have numbers further down. The first row is a header if it has
    text there, and it is a sample if it has numbers that no program would write as names.

    Parameters
    ----------
    quoted : whether all cells of a row are in quotes, for each row
    words : whether columns of text are wanted; in a table of text only, the first row is a header
        unless one of its cells stands below it again

    Raises
    ------
    ValueError
        If the first row may be either.
    """
    if choice.header is not None:
        return choice.header
    first, rest = [cell.strip(BLANKS) for cell in rows[0]], rows[1:]
    columns = [
        j
        for j in range(len(first))
        if any(j < len(row) and _kind(row[j].strip(BLANKS)) in ("number", "bool") for row in rest)
    ]
    kinds = [_kind(first[j]) for j in columns or range(len(first))]
    text, number = "text" in kinds, "number" in kinds
    damaged = all(
        _BEGINS_AS_NUMBER.match(first[j]) for j in columns or range(len(first)) if first[j]
    )
    if not columns:
        if words and any(first[j] == row[j].strip(BLANKS) for row in rest for j in range(len(row))):
            return False
        return text and not number and not damaged and not {"bool", "data"} & set(kinds)
    if text and set(kinds) <= {"text", "empty"}:
        if damaged:
            raise _ambiguous(choice, "has text that begins as numbers do")
        return True
    if text:
        raise _ambiguous(choice, "has both text and values")
    if not number:
        if any(_kind(cell) == "text" for cell in first) and set(kinds) == {"empty"}:
            raise _ambiguous(choice, "has both text and empty cells")
        return False
    if set(kinds) <= {"number", "empty"}:
        numeric = [j for j in columns if _kind(first[j]) == "number"]
        below = [[row[j].strip(BLANKS) for row in rest if j < len(row)] for j in numeric]
        if quoted[0] and not all(quoted):
            raise _ambiguous(choice, "alone has its numbers in quotes")
        if _like_names([first[j] for j in numeric], below, len(numeric) < len(first)):
            raise _ambiguous(choice, "has numbers that may be names of columns")
    return False


def _like_names(cells: list[str], below: list[list[str]], beside: bool) -> bool:
    """Return whether numbers in a first line may be names of columns.

    They may if they are 0, 1, 2, …, as pandas writes them, another ascending sequence in equal
    steps (but 1, 2, 3, … above integers), or different integers of which each stands above
    numbers with decimals only. Of single numbers only 0 may.

    Parameters
    ----------
    below : the cells below each of them
    beside : whether there are other columns, of text or with an empty first cell
    """
    if not all(_INTEGER.fullmatch(cell) for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    if len(values) == 1:
        return values == [0]
    step = values[1] - values[0]
    even = step > 0 and values == list(range(values[0], values[-1] + 1, step))
    real = [all(map(has_decimals, column)) for column in below]
    if even and (values == list(range(len(values))) or (len(below[0]) > 1 and any(real))):
        return True
    if even and values[0] > 1 and (len(values) > 2 or beside):
        return True
    return len(set(values)) == len(values) and all(real)


def has_decimals(cell: str) -> bool:
    """Return whether a cell is written as no integer is."""
    return not _INTEGER.fullmatch(cell)


def _kind(cell: str) -> str:
    """Return what a cell may be: empty, number, bool, data (in another notation), or text."""
    if not cell:
        return "empty"
    if NUMBER.fullmatch(cell):
        return "number"
    if cell.lower() in BOOLEANS:
        return "bool"
    return "data" if cell.lower() in MISSING or _LIKE_DATA.fullmatch(cell) else "text"


def _ambiguous(choice: Choice, why: str) -> InvalidValueError:
    """Return the error for a first line that may be a header or a sample."""
    return InvalidValueError(
        f"{choice.file}: the first line {why}, so it may have the names of the columns or be a "
        f"sample; say which: {choice.also('header=yes')} or {choice.also('header=no')}"
    )
