"""All system calls that change a Gram file, and those that read its tiles.

The rest of the package changes files through these functions only, so that a test can make any of
them fail, or end the process just after it. (HDF5 lays out a new file by itself; the file counts
only after it was synced and renamed here.)

A matrix larger than memory gains nothing from the page cache and pays for it: the cache copies
every byte, on cores that could be computing. So tiles bypass it. Direct transfers have to begin and
end at page boundaries, in memory and in the file; where they do not, or the file system does not
support them, the same calls go through the cache.

What only some systems have is looked up when it is called. macOS has calls of its own in place of
direct transfers, and of a sync that reaches the disk. It cannot reserve space for good, since its
file system copies on write, and it cannot drop what the page cache holds.
"""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ntk_numba.opening import AT_ONCE, read_into

# What file systems answer that lack a call, or have it for some kinds of files only
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
NO_LOCKS = {errno.ENOLCK, *UNSUPPORTED}  # what they answer that have no locks
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}  # too many files are open


def raise_exhausted(error: Exception) -> None:
    """Raise an error again that says that too many files are open: no file is wrong then."""
    if getattr(error, "errno", None) in NO_DESCRIPTORS:
        raise error


def create(path: Path) -> int:
    """Create a file for reading and writing; nothing may have its name, not even a link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def open_existing(path: Path) -> int:
    """Open a file for reading and writing, if this is the name of an ordinary file.

    A link is not followed: in a folder that others may write, it could lead anywhere.

    Raises
    ------
    OSError
        It cannot be opened, or is something else.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "Not a file")


def name_of(fd: int) -> str:
    """Return a name for an open file that leads to it whatever has its name in its folder."""
    return f"/dev/fd/{fd}"


def reopen(fd: int, flags: int) -> int:
    """Open an open file once more, whatever has its name in its folder.

    On macOS this is a duplicate, which can write only if the first one can. If it is to write
    nevertheless, the file is opened by the name that it has now.

    Raises
    ------
    OSError
        It cannot be opened in this way, or on macOS it was removed or replaced.
    """
    try:
        return os.open(name_of(fd), flags)
    except PermissionError:
        if not hasattr(fcntl, "F_GETPATH"):
            raise
    name = fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")
    new = open_existing(Path(os.fsdecode(name)))
    if os.path.samestat(os.fstat(fd), os.fstat(new)):
        return new
    os.close(new)
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def set_direct(fd: int, on: bool) -> None:
    """Make a file's transfers bypass the page cache, if its file system can, or go through it."""
    direct = getattr(os, "O_DIRECT", 0)
    with contextlib.suppress(OSError):
        if hasattr(fcntl, "F_NOCACHE"):  # macOS
            fcntl.fcntl(fd, fcntl.F_NOCACHE, int(on))
            return
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)


def write_at(fd: int, block: NDArray[Any] | bytes, at: int) -> None:
    """Write a whole C-contiguous array, or bytes, at byte `at` of a file, direct or not.

    Raises
    ------
    OSError
        The write fails, for example because the disk is full.
    """
    view = _bytes(block)
    while view:
        written = _transfer(os.pwrite, fd, view[:AT_ONCE], at)
        view, at = view[written:], at + written


def read_at(fd: int, block: NDArray[Any], at: int) -> None:
    """Fill a C-contiguous array from byte `at`.

    Raises
    ------
    OSError
        The read fails, for example on a bad disk, or the file ends too early.
    """
    view = _bytes(block)
    while view:
        count = _transfer(read_into, fd, view, at)
        if count == 0:
            raise OSError(errno.EIO, "the file is too short")
        view, at = view[count:], at + count


def _bytes(block: Any) -> memoryview:
    """Return a C-contiguous array, or bytes, as a view of its bytes."""
    return memoryview(block).cast("B")


def _transfer(call: Any, fd: int, view: memoryview, at: int) -> int:
    """Read or write once by `call`, through the page cache if a direct transfer is refused."""
    try:
        return call(fd, view, at)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    set_direct(fd, False)  # this file system wants an alignment larger than a page
    return call(fd, view, at)


def allocate(fd: int, size: int) -> None:
    """Reserve disk space for a file now, if its file system can; until then it is sparse."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise


def empty(fd: int) -> None:
    """Remove all bytes of a file."""
    os.ftruncate(fd, 0)


def set_mode(fd: int, like: os.stat_result, *, least: int = 0) -> None:
    """Give a file the permissions and the group of the file that it replaces.

    If the group cannot be given, it gets no permissions, so that nobody may read more than before.

    least : permissions that it gets in any case
    """
    mode = stat.S_IMODE(like.st_mode) & 0o777
    if os.fstat(fd).st_gid != like.st_gid:
        try:
            os.fchown(fd, -1, like.st_gid)
        except OSError:
            mode &= ~0o070
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode | least:
        os.fchmod(fd, mode | least)


def sync(fd: int) -> None:
    """Wait until everything that was written to a file is durable.

    After an error, do not call it again: the system may have dropped what it could not write, and
    would report success the second time.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, whose fsync leaves data in the disk's own memory
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    os.fsync(fd)


def forget(fd: int) -> None:
    """Drop what the page cache holds of a file, so that it is read from the disk.

    After a failed `sync` the cache may hold bytes that the disk lacks. Call `sync` first: bytes
    that are still to be written stay. File systems in memory ignore the call; a network file system
    drops its own copy, and the server may keep another one.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def rename(old: Path, new: Path) -> None:
    """Rename a file durably, replacing an existing one."""
    old.replace(new)
    sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, if its file system has a call for that.

    A folder in which files may be created but not listed cannot be opened for it.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        sync(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    path.unlink(missing_ok=True)
