"""Data in .npy and .npz files. What they pickle is never loaded."""

from pathlib import Path

import numpy as np

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.arrays import Opened, pick


def open_npy(path: Path, _: str) -> Opened:
    """Map a .npy file, of which runs of rows are read."""
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
    except Exception as error:  # NumPy raises nearly anything for a file that is not its own
        raise _refusal(path, error) from None


def open_npz(path: Path, key: str) -> Opened:
    """Load an array of an .npz archive, whole: it may be compressed."""
    with path.open("rb") as file:
        try:
            archive = np.load(file)
        except Exception as error:
            raise _refusal(path, error) from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InvalidValueError(
                f"{path} is no .npz archive; a single array belongs in a .npy file"
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
    """Put NumPy's complaint about a .npy or .npz file in words for its owner."""
    reason = str(error)
    if "Object arrays" in reason or "Python objects" in reason:
        return InvalidValueError(
            f"{path} holds pickled Python objects, which are never loaded; save a plain array of "
            f"numbers"
        )
    if "pickle" in reason:  # NumPy's guess about a file that does not begin like one of its own
        reason = "or pickled Python objects, which are never loaded"
    return InvalidValueError(f"{path} is no valid {path.suffix} file, perhaps truncated ({reason})")
