"""Words and lines of bash, as a script for Slurm has them."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from ntk_numba.cluster.cover import PARTS_OF
from ntk_numba.errors import InvalidValueError
from ntk_numba.terminal import escaped

PLAIN = set(range(32, 127)) - set(b"'\\\\")  # bytes that stand for themselves within $'…'


class NamesOfParts(NamedTuple):
    """A word that the shell replaces by the names of all parts that exist.

    stem, suffix : the path of the whole file, without its last ending, and the ending
    parts : the number of parts
    """

    stem: str
    parts: int
    suffix: str


def quoted(word: str) -> str:
    """Return a word as bash reads it, in characters that any terminal can show.

    Controls, and bytes of names that are no text, are escapes within ``$'…'``.

    Raises
    ------
    ValueError
        The word has a line break.
    """
    one_line(word)
    if escaped(word) == word:
        return shlex.quote(word)
    return "$'" + "".join(chr(b) if b in PLAIN else f"\\{b:03o}" for b in os.fsencode(word)) + "'"


def command_text(words: Sequence[str | NamesOfParts]) -> str:
    """Return a command; all words are quoted, except for the star of `NamesOfParts`."""
    return " ".join(
        PARTS_OF.format(quoted(word.stem), "*", word.parts, quoted(word.suffix))
        if isinstance(word, NamesOfParts)
        else quoted(word)
        for word in words
    )


def options_of(text: str) -> list[str]:
    """Return the words of an option of sbatch, as a user wrote it for a shell.

    Raises
    ------
    ValueError
        It is no option, or lacks a quote.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidValueError(f"the option {text!r} of sbatch has a mistake: {error}") from None
    if words and (words[0] == "--" or not words[0].startswith("-")):
        raise InvalidValueError(
            f"{text!r} is no option of sbatch: {words[0]!r} would be the name of a script"
        )
    return words


def check_lines(lines: Sequence[str]) -> None:
    """Raise ValueError if lines of a script are no whole commands of bash, all of them together."""
    if not lines:
        return
    last, problem = lines[-1], ""
    if (len(last) - len(last.rstrip("\\"))) % 2:
        problem = "a backslash at the end"
    elif shutil.which("bash"):
        text = os.fsencode("".join(f"{line}\n" for line in lines))
        answer = subprocess.run(["bash", "-n"], input=text, capture_output=True, check=False)
        # a warning too: of a here-document that does not end
        problem = os.fsdecode(answer.stderr).strip().split("\n")[-1].removeprefix("bash: ")
    if problem:
        raise InvalidValueError(f"the shell cannot run the setup {'; '.join(lines)!r}: {problem}")


def one_line(text: str) -> None:
    """Raise ValueError if a text cannot be within a line of a script."""
    if "\n" in text or "\r" in text or "\0" in text:
        raise InvalidValueError(f"{text!r} has a line break, which a job's script cannot have")
