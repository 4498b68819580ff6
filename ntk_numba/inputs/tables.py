"""Reader of text files with numbers separated by commas, one sample per line."""

import warnings
from pathlib import Path

import numpy as np

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.arrays import Opened

# The words that stand for a missing number in a row of data. They are not names of columns.
MISSING = ("", "na", "n/a", "null", "none")


def open_csv(path: Path, _: str) -> Opened:
    """Read a whole .csv file; a first line of names is skipped.

    Raises
    ------
    ValueError
        If the file is empty or no text, or if an entry is not a number.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
    except UnicodeDecodeError:
        raise InvalidValueError(f"{path} is no text file") from None
    if not first.strip():
        raise InvalidValueError(f"{path} is empty: it has no rows")
    words = [word.strip() for word in first.split(",")]
    data = any(_is_number(word) or word.lower() in MISSING for word in words)
    try:
        with path.open(encoding="utf-8-sig") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no rows, which `Source` refuses
            table = np.loadtxt(file, delimiter=",", ndmin=2, skiprows=0 if data else 1)
    except ValueError as error:
        raise InvalidValueError(f"{path}: {error}") from None
    return Opened(table, held=table.nbytes)


def _is_number(word: str) -> bool:
    """Return whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True
