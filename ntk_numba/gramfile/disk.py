"""Every call that changes a Gram file, and the reading of its tiles.

The rest of the package calls these and no other, so that a test can make any of them fail, or be
the last that a process made. (HDF5 lays out a new file by itself; it counts only once it was synced
and renamed here.)

A matrix larger than memory gains nothing from the page cache and pays for it: a copy of every byte,
by the cores that could be computing. So tiles go past it. Direct transfers have to begin and end at
pages, in memory and in the file; where they do not, or the file system knows none, the same calls
go through the cache.
"""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def set_direct(fd: int, on: bool) -> None:
    """Let a file's transfers go past the cache, if its system can, or through it."""
    direct = getattr(os, "O_DIRECT", 0)
    with contextlib.suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)


def write_at(fd: int, block: NDArray[Any] | bytes, at: int) -> None:
    """Write all of a C-contiguous array, or bytes, at byte `at`, whether the file is direct or not.

    Raises
    ------
    OSError
        A full disk and the like.
    """
    view = _bytes(block)
    while view:
        written = _transfer(os.pwrite, fd, view, at)
        view, at = view[written:], at + written


def read_at(fd: int, block: NDArray[Any], at: int) -> None:
    """Fill a C-contiguous array from byte `at`.

    Raises
    ------
    OSError
        A bad disk and the like, a file that ends before.
    """
    view = _bytes(block)
    while view:
        count = _transfer(lambda fd, view, at: os.preadv(fd, [view], at), fd, view, at)
        if count == 0:
            raise OSError(errno.EIO, "the file is too short")
        view, at = view[count:], at + count


def _bytes(block: Any) -> memoryview:
    return memoryview(block).cast("B")


def _transfer(call: Any, fd: int, view: memoryview, at: int) -> int:
    try:
        return call(fd, view, at)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    set_direct(fd, False)  # a file system that asks for more than pages
    return call(fd, view, at)


def allocate(fd: int, size: int) -> None:
    """Make the disk give the space now: a file is sparse until then."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)


def sync(fd: int) -> None:
    """Wait until all that was written to a file is durable.

    An error is never to be tried again: the system may have dropped what it could not write, and
    would say that all is well the second time.
    """
    os.fsync(fd)


def rename(old: Path, new: Path) -> None:
    """Rename a file, in place of another if there is one, durably."""
    old.replace(new)
    sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def is_at(fd: int, path: Path) -> bool:
    """Whether an open file still has that name."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(fd))


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)
