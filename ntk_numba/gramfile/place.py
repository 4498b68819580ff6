"""The place of an output: the names of the files beside it, its folder and its disk.

All that can be refused is refused here, before any work.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import (
    AccessError,
    FileError,
    InvalidValueError,
    MissingFileError,
    file_error,
    folder_error,
)
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Output
from ntk_numba.gramfile.layout import is_incomplete
from ntk_numba.opening import path_of, refuse_special

PARTIAL = ".partial"  # the output until it is complete
NEW = ".partial.new"  # the same while it is laid out
LOCK = ".partial.lock"  # the lock file of its lease
NEXT = ".partial.next"  # a lock file that is about to replace one
SUFFIXES = (PARTIAL, NEW, LOCK, NEXT)


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file beside an output."""
    return path.with_name(path.name + suffix)


def partial_of(path: Path) -> Path:
    """Return the name of a file while it is incomplete."""
    return beside(path, PARTIAL)


def is_taken(path: Path) -> bool:
    """Return whether an output's name is taken, by anything but an incomplete Gram file.

    That one is continued like any incomplete file, unless it belongs to another output.
    """
    try:
        return path.exists() and (path.suffix == PARTIAL or not is_incomplete(path))
    except (OSError, ValueError):
        return True


def refuse_inputs(target: Path, files: Iterable[Path], what: str) -> None:
    """Raise ValueError if an output is one of some files that are read.

    what : the output in that case, for people
    """
    if target.exists() and any(file.exists() and target.samefile(file) for file in files):
        raise InvalidValueError(f"{target} is {what}; choose another output")


def output_path(path: str | os.PathLike[str]) -> Path:
    """Return where an output is written, as an absolute path: the working folder may change.

    Links are followed, as users of scratch disks expect. The folder has to exist, but need not be
    writable: the file may already be complete.
    """
    path = path_of(path)
    if path == Path():
        raise folder_error(path, "a file in it")
    try:
        target = path.absolute()
    except FileNotFoundError:
        raise MissingFileError("the working folder was removed; give an absolute path") from None
    refuse_long(target)
    if target.is_symlink():
        target = target.resolve()
    check_folder(target, write=False)
    return target


def check_folder(path: Path, *, write: bool = True) -> None:
    """Raise an error if a file cannot have this path.

    The path is too long or that of a folder or a device, or its folder is missing or, with `write`,
    cannot be written, or the file cannot be replaced.
    """
    refuse_long(path)
    folder = path.parent
    if path.is_dir():
        raise folder_error(path, "a file in it")
    if path.exists():
        refuse_special(path)
    if not folder.is_dir():
        raise MissingFileError(f"the folder {folder} does not exist; create it first")
    if write and not os.access(folder, os.W_OK | os.X_OK):
        raise AccessError(f"the folder {folder} cannot be written; choose another one")
    if write:
        refuse_of_others(path)


def check_space(path: Path, output: Output, size: int | None = None) -> None:
    """Raise an error if the disk does not have the space for an output.

    size : the bytes that are still to be allocated, by default all
    """
    needed = output.output_bytes if size is None else size
    if needed > shutil.disk_usage(path.parent).free:
        raise no_space(path, output, needed, os.strerror(errno.ENOSPC))


def no_space(path: Path, output: Output, size: int, reason: str) -> FileError:
    """Return the error for a disk that is too small for an output."""
    return too_small(path, size, reason, output.smaller)


def too_small(path: Path, size: int, reason: str, mends: Sequence[str] = ()) -> FileError:
    """Return the error for a disk that does not have `size` bytes for a file.

    mends : what would make the file smaller
    """
    *others, last = ["free some", "write elsewhere", *mends]
    free = shutil.disk_usage(path.parent).free
    return FileError(
        f"{path} takes {show_bytes(size)}, and its disk has {show_bytes(free)} free ({reason}); "
        f"{', '.join(others)} or {last}"
    )


def refuse_long(path: Path) -> None:
    """Raise an error if a name that is needed while an output is written is too long."""
    if not path.name:
        return  # a folder
    longest = beside(path, max(SUFFIXES, key=len))
    for what, text, limit, usual in (
        ("name", longest.name, "PC_NAME_MAX", 255),
        ("path", str(longest), "PC_PATH_MAX", 4096),
    ):
        try:
            most = os.pathconf(path.parent, limit)
        except (OSError, ValueError):
            most = usual
        size, most = len(os.fsencode(text)), most - (what == "path")  # which ends by a null byte
        if size > most > 0:
            raise InvalidValueError(
                f"{path.name} is too long: while it is written, the {what} has {size} bytes, and "
                f"the system allows {most}; choose a shorter one"
            )


def refuse_of_others(path: Path) -> None:
    """Raise an error if this user may not replace a file in its folder, which may be sticky."""
    user, folder = os.geteuid(), path.parent.stat()
    if user == 0 or not folder.st_mode & stat.S_ISVTX or folder.st_uid == user:
        return
    for name in (path, beside(path, PARTIAL)):
        with contextlib.suppress(FileNotFoundError):
            if name.lstat().st_uid != user:
                raise AccessError(
                    f"{name} is another user's file, and in the folder {path.parent} only its "
                    f"owner may replace it; choose another output"
                )


def keep_mode(fd: int, path: Path) -> None:
    """Give a file that is to replace the one at `path`, if any, no more permissions than that.

    Its owner may still read and write it.
    """
    with contextlib.suppress(FileNotFoundError):
        like = path.stat()
        try:
            disk.set_mode(fd, like, least=0o600)
        except OSError as error:
            raise file_error(
                error,
                f"the permissions of {path} cannot be given to {partial_of(path)} "
                f"({error.strerror}); delete one of them",
            ) from None
