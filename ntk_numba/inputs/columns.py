"""The choice of columns of a table, ``x.csv:a,b`` or ``x.csv:!label``, and how it is to be read.

The words after the colon are separated by commas. A word is a column's name, its number, counted
from 0 (−1 is the last), or a run of numbers as Python's slices, ``2:10``; ``!`` before a word
leaves the column out. A word in double quotes is always a name. For text files there are
``header=yes``, ``header=no`` and ``separator=``, followed by comma, semicolon, tab, space or pipe.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " ", "pipe": "|"}

_WORD = re.compile(r'\s*(!?)\s*(?:"((?:[^"]|"")*)"|([^,"]*))\s*(,|$)')
_RUN = re.compile(r"(-?\d+)?:(-?\d+)?", re.ASCII)
_INTEGER = re.compile(r"-?\d+", re.ASCII)


class Word(NamedTuple):
    """A word of a choice: its text, whether it is certainly a name, whether it leaves out."""

    text: str
    name: bool
    out: bool


class Choice(NamedTuple):
    """A choice of columns.

    Attributes
    ----------
    file : str
        The file, for errors.
    key : str
        The choice as it was given.
    words : tuple of Word
        The columns; all if there is none.
    header : bool or None
        Whether the first line has names; None if that is to be found out.
    separator : str or None
        The character between cells; None if it is to be found out.
    """

    file: str
    key: str
    words: tuple[Word, ...]
    header: bool | None
    separator: str | None

    def also(self, word: str) -> str:
        """Return the path with one more word, as a remedy for a message."""
        return f"{self.file}:{self.key},{word}" if self.key else f"{self.file}:{word}"

    def without(self, names: Sequence[str] | None, number: int) -> str:
        """Return the remedy for a message that one more column be left out."""
        if self.words and not self.words[0].out:
            return f"do not name it in :{self.key}"
        clash = names and str(number) in names and names.index(str(number)) != number
        word = f"!{number}:{number + 1}" if clash else f"!{number}"
        return f"leave it out, {self.also(word)}"


class Words:
    """Chosen columns of a table that may have text, in memory.

    Attributes
    ----------
    columns : list of arrays (N,)
        Of text or numbers. Those of a text file are text, also where they are numbers.
    names : list of str or None
        Their names.
    places : (row, column) → str
        Returns the words of a message for a cell of these columns.
    shape : (N, K)
    """

    def __init__(
        self,
        columns: list[NDArray[Any]],
        names: list[str] | None,
        places: Callable[[int, int], str],
    ) -> None:
        self.columns, self.names, self.places = columns, names, places
        self.shape = len(columns[0]), len(columns)


def parse_choice(file: str, key: str) -> Choice:
    """Return the choice that a key, the text after the colon, stands for.

    Raises
    ------
    ValueError
        If a word is empty or quoted wrongly, or an option has an unknown value.
    """
    words: list[Word] = []
    options: dict[str, str] = {}
    at = 0
    while key and at <= len(key):
        match = _WORD.match(key, at)
        if match is None or not (match[2] is not None or match[3].strip()):
            raise InvalidValueError(
                f"{file}:{key}: a column's name is empty or has one quote; write names with "
                f'commas or quotes as "a,b"'
            )
        text = match[3].strip() if match[2] is None else match[2].replace('""', '"')
        option, _, value = text.partition("=")
        if match[2] is None and not match[1] and option in ("header", "separator") and value:
            known = ["yes", "no"] if option == "header" else list(SEPARATORS)
            if value not in known:
                raise InvalidValueError(
                    f"{file}:{key}: {option} is {' or '.join(known)}, not {value!r}"
                )
            options[option] = value
        else:
            certain = match[2] is not None or not (_INTEGER.fullmatch(text) or _RUN.fullmatch(text))
            words.append(Word(text, certain, bool(match[1])))
        if not match[4]:
            break
        at = match.end()
    if len({word.out for word in words}) > 1:
        raise InvalidValueError(
            f"{file}:{key}: name the columns to take or those to leave out, not both"
        )
    header = {"yes": True, "no": False}.get(options.get("header", ""))
    if header is None and any(word.name for word in words):
        header = True
    return Choice(file, key, tuple(words), header, SEPARATORS.get(options.get("separator", "")))


def resolve(
    choice: Choice, names: Sequence[str] | None, width: int, index: Iterable[int] = ()
) -> list[int]:
    """Return the numbers of the chosen columns, in the order in which they were named.

    Parameters
    ----------
    names : sequence of str or None
        The names of the columns; None if they have none.
    width : int
        The number of columns.
    index : iterable of int
        Columns with the numbers or names of rows, which must be chosen or left out expressly.

    Raises
    ------
    ValueError
        If the table lacks a column, a word may mean two columns, a column is chosen twice, none is
        left, or an index would be taken for a feature.
    """
    numbers = [number for word in choice.words for number in _find(choice, word, names, width)]
    out = not choice.words or choice.words[0].out
    if len(set(numbers)) < len(numbers) and not out:
        raise InvalidValueError(f"{choice.file}:{choice.key} takes a column twice")
    if not out:
        return numbers
    chosen = [number for number in range(width) if number not in set(numbers)]
    for number in index:
        if number in chosen:
            name = f" ({names[number]!r})" if names else ""
            others = "" if choice.words else f", or take it as a feature, {choice.also('0:')}"
            raise InvalidValueError(
                f"{choice.file}: column {number}{name} looks like an index of the rows and "
                f"not like a feature; {choice.without(names, number)}{others}"
            )
    if not chosen:
        raise InvalidValueError(f"{choice.file}:{choice.key} leaves out all columns")
    return chosen


def _find(choice: Choice, word: Word, names: Sequence[str] | None, width: int) -> list[int]:
    """Return the numbers of the columns that one word stands for."""
    text, known = word.text, list(names or [])
    places = [number for number, name in enumerate(known) if name == text]
    if word.name:
        if len(places) == 1:
            return places
        if places:
            raise InvalidValueError(
                f"{choice.file} has several columns {text!r}: give the number, one of "
                f"{', '.join(map(str, places))}"
            )
        shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
        has = f"its columns are {shown}" if names else "its columns have no names; give numbers"
        raise InvalidValueError(f"{choice.file} has no column {text!r}; {has}")
    if run := _RUN.fullmatch(text):
        start, stop = (int(end) if end else None for end in run.groups())
        numbers = list(range(width))[slice(start, stop)]
    else:
        number = int(text)
        numbers = [number % width] if -width <= number < width else []
    if not numbers:
        raise InvalidValueError(
            f"{choice.file} has no column {text}; it has {width}, counted from 0"
        )
    if places and places != numbers:
        raise InvalidValueError(
            f"{choice.file}: {text} is the number of one column and the name of another; write "
            f'"{text}" in double quotes for the name, {numbers[0]}:{numbers[-1] + 1} for the number'
        )
    return numbers
