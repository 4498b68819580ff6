"""Writing past the page cache.

A matrix larger than memory gains nothing from the cache and pays for it: a copy of every byte, by
the cores that could be computing. Direct writes have to begin and end at pages, in memory and in
the file; where they do not, or the file system knows none, the same calls go through the cache.
"""

import contextlib
import errno
import fcntl
import os
from typing import Any

from numpy.typing import NDArray

PAGE = 4096  # bytes; enough for every disk in use


def set_direct(fd: int, on: bool) -> None:
    """Let a file's writes go past the cache, if its system can, or through it."""
    direct = getattr(os, "O_DIRECT", 0)
    with contextlib.suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)


def write_at(fd: int, block: NDArray[Any], at: int) -> None:
    """Write all of a C-contiguous array at byte `at`, whether the file is direct or not.

    Raises
    ------
    OSError
        A full disk and the like.
    """
    view, through_cache = memoryview(block.data).cast("B"), False
    while view:
        try:
            written = os.pwrite(fd, view, at)
        except OSError as error:
            if error.errno != errno.EINVAL or through_cache:
                raise
            through_cache = True  # a file system that asks for more than pages
            set_direct(fd, False)
            continue
        view, at = view[written:], at + written
