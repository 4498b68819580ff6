"""Readers of data in .npy and .npz files, which never load pickled objects."""

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError, NtkNumbaError
from ntk_numba.inputs.arrays import Opened, pick

PIECE = 1 << 20  # bytes that are unpacked at a time


def open_npy(path: Path, _: str, most: int) -> Opened:
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


def open_npz(path: Path, key: str, most: int) -> Opened:
    """Load a whole array of an .npz archive, since it may be compressed, of at most `most` bytes.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, holds pickled objects, lacks the key, or states a size
        that is too large or not that of the array.
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
        members: Any = archive.zip
        try:
            member = chosen if chosen in members.namelist() else f"{chosen}.npy"
            with members.open(member) as stream:
                array = _read_member(stream, f"{path}:{chosen}", most)
        except NtkNumbaError:
            raise
        except Exception as error:  # NumPy and zipfile raise many classes for damaged files
            raise _refusal(path, error) from None
    return Opened(array, chosen, array.nbytes)


def _read_member(stream: IO[bytes], name: str, most: int) -> NDArray[Any]:
    """Return the array of a member of an archive, whose size its header states.

    Raises
    ------
    ValueError
        If it is larger than `most` bytes, or does not have as many bytes as its header states.
    """
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)  # fmt: skip
    if read is None:
        raise InvalidValueError(f"{name} is of version {version}, which is for records")
    shape, by_columns, dtype = read(stream)
    if dtype.hasobject:
        raise InvalidValueError(
            f"{name} holds pickled Python objects, which are never loaded; save a plain array of "
            f"numbers"
        )
    size = math.prod(shape) * dtype.itemsize
    if size > most:
        raise InvalidValueError(
            f"{name} takes {show_bytes(size)} of memory, more than {show_bytes(most)}, since an "
            f".npz file is read as a whole; save it as .npy, which is read in runs of rows"
        )
    array = np.empty(math.prod(shape), dtype)
    data: Any = array.view(np.uint8) if size else b""
    view = memoryview(data)
    for start in range(0, size, PIECE):
        piece = view[start : start + PIECE]
        while len(piece):
            count = stream.readinto(piece)  # type: ignore[attr-defined]
            if not count:
                raise InvalidValueError(f"{name} is truncated: it has fewer bytes than it states")
            piece = piece[count:]
    if stream.read(1):  # this also checks the checksum of the archive
        raise InvalidValueError(f"{name} has more bytes than it states")
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


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
