"""Opening of data files by paths, ``file.npy`` or ``file.h5:dataset``: the table of formats."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ntk_numba import streams
from ntk_numba.errors import (
    FileError,
    InvalidValueError,
    MissingFileError,
    NtkNumbaError,
    file_error,
    folder_error,
)
from ntk_numba.inputs.arrays import Opened
from ntk_numba.inputs.compressed import COMPRESSIONS
from ntk_numba.inputs.hdf5 import open_hdf5
from ntk_numba.inputs.numpy_files import open_npy, open_npz
from ntk_numba.inputs.parquet import open_parquet, open_parquet_words
from ntk_numba.inputs.tables import open_table, open_words
from ntk_numba.inputs.unchanged import checksum, stamp
from ntk_numba.machine import available_memory
from ntk_numba.opening import exists, open_ordinary, refuse_special


class Format(NamedTuple):
    """A format of data files.

    Attributes
    ----------
    open : (path, key, most) → Opened
        Opens a file; the key is "" if none is given. What it keeps in memory takes at most `most`
        bytes; it is refused before more is read.
    keys : bool
        Whether a key may name one of several arrays, or columns of a table.
    whole : bool
        Whether opening reads all of the data into memory.
    words : (path, key, most) → Opened, or None
        Opens columns that may have text, such as labels, as `columns.Words`; None if `open` does.
    """

    open: Callable[[Path, str, int], Opened]
    keys: bool
    whole: bool = False
    words: Callable[[Path, str, int], Opened] | None = None


FORMATS = {
    ".npy": Format(open_npy, False),
    ".npz": Format(open_npz, True, whole=True),
    ".h5": Format(open_hdf5, True),
    ".hdf5": Format(open_hdf5, True),
    ".hdf": Format(open_hdf5, True),
    ".h5ad": Format(open_hdf5, True),
    ".mat": Format(open_hdf5, True),
    ".parquet": Format(open_parquet, True, words=open_parquet_words),
    **{
        ending + compression: Format(open_table, True, whole=True, words=open_words)
        for ending in (".csv", ".tsv")
        for compression in ("", *COMPRESSIONS)
    },
}


def _ending(path: Path) -> str:
    """Return the end of a file's name that tells its format: ``.csv``, or ``.csv.gz``."""
    two = "".join(path.suffixes[-2:]).lower()
    return two if two in FORMATS else path.suffix.lower()


def split(spec: str) -> tuple[Path, str]:
    """Split ``file.h5:dataset``, where both names may have colons: the longest file that exists.

    If none exists, it is the longest name that ends as a data file does.
    """
    ends = [len(spec), *(k for k in reversed(range(len(spec))) if spec[k] == ":")]
    heads = [(Path(spec[:end]), spec[end + 1 :]) for end in ends]
    known = [head for head in heads if _ending(head[0]) in FORMATS]
    there = [head for head in known if _exists(head[0])]
    return (heads[:1] if _exists(heads[0][0]) else there or known or heads)[0]


def names_samples(spec: str) -> bool:
    """Return whether a name means data, such as ``x.npy`` or ``x.h5:x``, and no Gram file."""
    path, key = split(spec)
    known = FORMATS.get(_ending(path))
    return known is not None and (key != "" or known.open is not open_hdf5)


def _exists(path: Path) -> bool:
    """Return whether there is something of this name; names may be too long to ask."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def open_path(
    spec: str, memory: int | None = None, *, words: bool = False
) -> tuple[str, Path, Opened]:
    """Open a data file; return the name of the data for errors, the absolute path, the contents.

    memory : the bytes that the data may take, by default those that this process may still use
    words : whether columns of tables may have text

    Raises
    ------
    OSError
        If the file is missing, is a folder, or cannot be read.
    ValueError
        If the format is unknown, or the file is truncated, pickled, or lacks the key or a column.
    """
    streams.occupy()
    path, key = split(spec)
    if path.is_dir():
        raise folder_error(path, f"a file in it ({', '.join(FORMATS)})")
    if not exists(path):
        raise MissingFileError(f"{path} does not exist")
    refuse_special(path)
    ending = _ending(path)
    if ending not in FORMATS:
        inner = path.with_suffix("")
        packed = f"unpack it to {inner.name}; " * (_ending(inner) in FORMATS)
        raise InvalidValueError(
            f"{path}: unknown ending {ending!r}; {packed}known are {', '.join(FORMATS)}"
        )
    file_format = FORMATS[ending]
    if key and not file_format.keys:
        raise InvalidValueError(f"{spec}: a {ending} file holds one array; leave out :{key}")
    found, whole = stamp(path.absolute()), file_format.whole
    before = _look(path, whole)
    most = available_memory() if memory is None else memory
    opener = (words and file_format.words) or file_format.open
    opened = opener(path, key, most)
    if whole and (_look(path, whole) != before or found.changed):
        raise FileError(f"{path} has changed while it was read; wait until it is complete")
    opened = opened._replace(files=(found, *opened.files))
    return f"{path}:{opened.key}" if opened.key else str(path), found.path, opened


def _look(path: Path, whole: bool) -> bytes:
    """Return a checksum of a file or, if it is not read as a whole, its first byte.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    try:
        if whole:
            return checksum(path)
        with open_ordinary(path) as file:
            return file.read(1)
    except NtkNumbaError:
        raise
    except OSError as error:
        raise file_error(error, f"{path} cannot be read: {error.strerror}") from None
