"""Opening and reading of ordinary files, so that no pipe or device is waited for."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ntk_numba.errors import InvalidTypeError, InvalidValueError

NO_LOCK = "unable to lock file"  # HDF5's error
AT_ONCE = 1 << 30  # bytes of one call; macOS refuses 2 GiB


def path_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file as a caller gives it.

    Raises
    ------
    TypeError
        It is no path.
    ValueError
        It holds the character 0, which no file's name has.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise InvalidTypeError(f"path must be the path of a file as a str, not {path!r:.80}")
    if "\0" in os.fspath(path):
        raise InvalidValueError(f"path holds the character 0, which no name has: {path!r:.80}")
    return Path(path)


def exists(path: Path) -> bool:
    """Return whether there is something of this name; raise an OSError where nobody can tell.

    Since Python 3.14, `Path.exists` is false also of names that are too long, and of those in
    folders that may not be searched.
    """
    try:
        path.stat()
    except ValueError:  # the name holds the character 0
        return False
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return False
    return True


def is_at(fd: int, path: Path) -> bool:
    """Return whether an open file still has the name `path`; a link to it does not count."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        return False


def open_ordinary(path: Path) -> BinaryIO:
    """Open a file for reading its bytes; the errors are those of `open_descriptor`."""
    return open(path, "rb", opener=open_descriptor)


def open_descriptor(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a file as `os.open` does; refuse everything else without waiting.

    Raises
    ------
    ValueError
        It is a device, a pipe or a socket, also if it took the place of a file just now.
    OSError
        It cannot be opened.
    """
    refuse_special(Path(path))
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # it has been replaced since the look at its status
        os.close(fd)
        raise _refusal(Path(path))
    return fd


def refuse_special(path: Path) -> None:
    """Raise InvalidValueError if a path leads to something else than an ordinary file.

    To open a device could change its state, and to open a pipe waits for its other end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise _refusal(path)


def _refusal(path: Path) -> InvalidValueError:
    """Return the error for anything but an ordinary file."""
    return InvalidValueError(f"{path} is a device or a pipe; name an ordinary file")


def read_into(fd: int, view: memoryview, at: int) -> int:
    """Fill bytes of memory from byte `at` of a file; return how many, which may be fewer."""
    view = view[:AT_ONCE]
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], at)
    found = os.pread(fd, len(view), at)  # macOS before version 11
    view[: len(found)] = found
    return len(found)
