"""Data files by their paths, ``file.npy`` or ``file.h5:dataset``: the table of all kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ntk_numba.errors import FolderError, InvalidValueError, MissingFileError, file_error
from ntk_numba.inputs.arrays import Opened
from ntk_numba.inputs.hdf5 import open_hdf5
from ntk_numba.inputs.numpy_files import open_npy, open_npz
from ntk_numba.inputs.tables import open_csv


class Kind(NamedTuple):
    """A kind of data file.

    Attributes
    ----------
    open : function of the path and the key ("" if none is given)
    keys : bool
        Whether such a file may hold several arrays, of which a key names one.
    """

    open: Callable[[Path, str], Opened]
    keys: bool


KINDS = {
    ".npy": Kind(open_npy, False),
    ".npz": Kind(open_npz, True),
    ".csv": Kind(open_csv, False),
    ".h5": Kind(open_hdf5, True),
    ".hdf5": Kind(open_hdf5, True),
    ".hdf": Kind(open_hdf5, True),
}


def open_path(spec: str) -> tuple[str, Path, Opened]:
    """Return what errors call the data, its file, and what that gives.

    Raises
    ------
    OSError
        A file that is missing, a folder, or cannot be read.
    ValueError
        A file of another kind, truncated, pickled, or without the key.
    """
    path, key = Path(spec), ""
    if not path.exists() and ":" in spec:
        head, _, tail = spec.rpartition(":")
        if Path(head).suffix.lower() in KINDS:
            path, key = Path(head), tail
    if path.is_dir():
        raise FolderError(f"{spec} is a folder; name a file in it ({', '.join(KINDS)})")
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if not path.is_file():
        raise InvalidValueError(f"{path} is a device or a pipe; name an ordinary file")
    ending = path.suffix.lower()
    if ending not in KINDS:
        raise InvalidValueError(f"{path}: unknown ending {ending!r}; known are {', '.join(KINDS)}")
    kind = KINDS[ending]
    if key and not kind.keys:
        raise InvalidValueError(f"{spec}: a {ending} file holds one array; leave out :{key}")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise file_error(error, f"{path} cannot be read: {error.strerror}") from None
    opened = kind.open(path, key)
    return f"{path}:{opened.key}" if kind.keys else spec, path, opened
