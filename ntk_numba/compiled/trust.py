"""Files whose content this process runs: nobody but its user, or root, may be able to write them.

Compiled code is kept as a pickle, which runs whatever it contains when it is read. A checksum does
not help: who can write the file writes the checksum too.
"""

import contextlib
import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH  # the group's bit also stands for users in an access list


class UntrustedError(PermissionError):
    """Others could have written a file, or could replace a folder on its path."""


def check_folder(folder: Path) -> None:
    """Raise an error if a user other than this one and root can write a folder, or exchange it.

    The folders above it count too, from the root downwards, and those that links on its path are
    in: who can write one of them can put another folder, or a link, in place of the next one. A
    sticky bit, as of /tmp, prevents that.

    Raises
    ------
    UntrustedError
        The text says what is wrong and how to mend it.
    OSError
        The folder does not exist.
    """
    real = Path(os.path.realpath(folder, strict=True))
    for place in _on_the_way_to(folder):
        status = place.lstat()
        if not _is_ours(status.st_uid) and (place == real or status.st_uid != _unmapped_user()):
            raise UntrustedError(f"{place} belongs to {_name(status.st_uid)}")
        if stat.S_ISLNK(status.st_mode):  # it has no mode of its own
            continue
        sticky = place != real and status.st_mode & stat.S_ISVTX
        writable = status.st_mode & OTHERS
        if writable == stat.S_IWGRP and _is_private(status.st_gid):
            writable = 0
        if writable and not sticky:
            mine = status.st_uid == os.geteuid()
            mend = f" (chmod go-w {shlex.quote(str(place))} ends that)" if mine else ""
            raise UntrustedError(f"other users may write {place}{mend}")


def _on_the_way_to(folder: Path) -> Iterator[Path]:
    """Yield the folders and links through which the system finds a folder, in its order.

    Each is looked at before the next one is found, so that no link is followed that others may
    exchange.
    """
    place, *names = folder.absolute().parts
    yield Path(place)
    while names:
        here = Path(place, names.pop(0))
        if here.name == "..":
            here = here.parent.parent
        yield here
        if here.is_symlink():
            names[:0] = here.readlink().parts  # of a path from the root, the first name is "/"
        else:
            place = str(here)


def read(path: Path) -> bytes:
    """Return the content of a file in a folder that `check_folder` accepts.

    Raises
    ------
    UntrustedError
        A user other than this one and root can write the file, or it is a link or no file.
    OSError
        It does not exist, or cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UntrustedError(f"{path} is a link") from None
    with open(fd, "rb") as file:  # noqa: PTH123 (a descriptor)
        status = os.fstat(fd)  # of what is read, whatever has the name now
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError(f"{path} is not a file")
        if not _is_ours(status.st_uid):
            raise UntrustedError(f"{path} belongs to {_name(status.st_uid)}")
        if status.st_mode & OTHERS:
            raise UntrustedError(f"other users may write {path}")
        return file.read()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that do not exist, which only this user may write."""
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            with contextlib.suppress(FileExistsError):
                place.mkdir(0o755)  # readable, as far as the umask allows, for users of a container


def _is_ours(user: int) -> bool:
    """Return whether files of a user, by number, are those of this process's user or of root."""
    return user in (os.geteuid(), 0)


@cache
def _is_private(group: int) -> bool:
    """Return whether a group is the user's own, of the same name and without other members.

    Where each user has such a group, new folders are often writable for it.
    """
    with contextlib.suppress(KeyError):
        me, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        named = found.gr_name == me.pw_name and group == me.pw_gid != 0
        return named and set(found.gr_mem) <= {me.pw_name}
    return False


@cache
def _unmapped_user() -> int | None:
    """Return the number that stands for users that a container does not know, such as its host's.

    Folders that a rootless container shows under that number are usually those of the host's root.
    """
    with contextlib.suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", str(2**32 - 1)]:
            return int(Path("/proc/sys/kernel/overflowuid").read_text())
    return None


def _name(user: int) -> str:
    """Return a user's name for messages."""
    try:
        return f"the user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"
