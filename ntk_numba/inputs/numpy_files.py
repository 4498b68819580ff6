"""Readers of data in .npy and .npz files, which never load pickled objects."""

from pathlib import Path

import numpy as np

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.arrays import Opened, pick


def open_npy(path: Path, _: str) -> Opened:
    """Map a .npy file; its rows are read when needed.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, or holds pickled objects.
    """
    try:
        try:
            array = np.load(path, mmap_mode="r")
        except ValueError as error:
            if "empty" not in str(error):
                raise
            array = np.load(path)  # an array without entries cannot be mapped
        if not isinstance(array, np.ndarray):
            array.close()
            raise InvalidValueError("it is an .npz archive")
        return Opened(array)
    except Exception as error:  # NumPy raises many classes of errors for damaged files
        raise _refusal(path, error) from None


def open_npz(path: Path, key: str) -> Opened:
    """Load a whole array of an .npz archive, since it may be compressed.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, holds pickled objects, or lacks the key.
    """
    with path.open("rb") as file:
        try:
            archive = np.load(file)
        except Exception as error:
            raise _refusal(path, error) from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InvalidValueError(
                f"{path} is no .npz archive; a single array belongs in a .npy file"
            )
        if not key and {"indices", "indptr", "format"} <= set(archive.files):
            raise InvalidValueError(
                f"{path} is a sparse matrix; load it: X = scipy.sparse.load_npz({str(path)!r})"
            )
        chosen = pick(path, key, list(archive.files))
        try:
            array = archive[chosen]
            if not isinstance(array, np.ndarray):
                raise InvalidValueError(f"{chosen} is no array")
        except Exception as error:
            raise _refusal(path, error) from None
    return Opened(array, chosen, array.nbytes)


def _refusal(path: Path, error: Exception) -> InvalidValueError:
    """Return the error for a .npy or .npz file that NumPy cannot read."""
    reason = str(error)
    if "Object arrays" in reason or "Python objects" in reason:
        return InvalidValueError(
            f"{path} holds pickled Python objects, which are never loaded; save a plain array of "
            f"numbers"
        )
    if "pickle" in reason:  # NumPy's message for any file that does not begin as a .npy file does
        reason = "or pickled Python objects, which are never loaded"
    return InvalidValueError(f"{path} is no valid {path.suffix} file, perhaps truncated ({reason})")
