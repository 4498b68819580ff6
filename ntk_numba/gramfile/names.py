"""The names of the files beside an output while it is written, and checks of them."""

import contextlib
import os
import stat
from pathlib import Path

from ntk_numba.errors import AccessError, InvalidValueError

PARTIAL = ".partial"  # the output until it is complete
NEW = ".partial.new"  # the same while it is laid out
LOCK = ".partial.lock"  # the lock file of its lease
NEXT = ".partial.next"  # a lock file that is about to replace one
SUFFIXES = (PARTIAL, NEW, LOCK, NEXT)


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file beside an output."""
    return path.with_name(path.name + suffix)


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
