"""Files that are written completely or not at all, such as models and predictions.

Unlike a file of tiles, such a file is not continued after a stop: it takes seconds to write. It is
written beside its output as ``<name>.partial.new``, synced, and renamed, by the one process that
holds the lease of the output. A process that is killed leaves that file, and the next one that
writes the same output removes it.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ntk_numba import stopping
from ntk_numba.errors import FileError, OutputExistsError, file_error
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.place import (
    NEW,
    beside,
    check_folder,
    keep_mode,
    output_path,
    partial_of,
    too_small,
)
from ntk_numba.opening import is_at


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return where an output is written, as an absolute path, or raise an error if it cannot be.

    Raises
    ------
    OSError
        Its folder is missing or cannot be written, or its name is taken: by a file, or by the
        unfinished file of a job.
    ValueError
        The name is too long, or that of a device.
    """
    target = output_path(path)
    check_folder(target)
    if not overwrite:
        for taken in (target, partial_of(target)):
            if os.path.lexists(taken):
                what = "exists already" if taken == target else "is an unfinished file"
                raise OutputExistsError(
                    f"{taken} {what}; choose another output, delete it, or overwrite it"
                )
    return target


@contextlib.contextmanager
def written_whole(
    path: str | os.PathLike[str], size: int = 0, *, overwrite: bool = False
) -> Iterator[int]:
    """Write a file as a context of its descriptor: it gets its name at the end, if all went well.

    Parameters
    ----------
    size : the bytes to reserve at first, see `reserve`
    overwrite : whether to replace a file of this name

    Raises
    ------
    OSError
        See `check_output`; or the disk is full, or another process writes the file.
    """
    target = check_output(path, overwrite=overwrite)
    new = beside(target, NEW)
    with Lease(target) as lease:
        fd = None
        try:
            check_output(target, overwrite=overwrite)  # another process may have written it
            disk.remove(new)
            fd = disk.create(new)
            keep_mode(fd, target)
            reserve(fd, target, size)
            yield fd
            disk.sync(fd)
            stopping.check()
            lease.check()
            check_output(target, overwrite=overwrite)
            if not is_at(fd, new):
                raise FileError(f"{new} was moved or removed while it was written")
            disk.remove(partial_of(target))  # an unfinished file that is to be overwritten
            disk.rename(new, target)
        except BaseException as error:
            if fd is not None:
                with contextlib.suppress(OSError):
                    if is_at(fd, new):
                        disk.remove(new)
            if isinstance(error, OSError) and error.strerror:  # it is none of ours
                raise file_error(error, f"{target} cannot be written: {error.strerror}") from None
            raise
        finally:
            if fd is not None:
                os.close(fd)


def reserve(fd: int, target: Path, size: int) -> None:
    """Reserve disk space for a file before any of it is written.

    Raises
    ------
    OSError
        The disk does not have as much; the text says how much is needed and free.
    """
    if size:
        try:
            disk.allocate(fd, size)
        except OSError as error:
            raise too_small(target, size, str(error.strerror)) from None
