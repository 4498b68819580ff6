"""The right to write a file, which one process has at a time."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import stat
from pathlib import Path
from typing import NamedTuple

from ntk_numba.files import disk

BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine


class Holder(NamedTuple):
    """Who has a lease: a process, and since when by its host's clock."""

    host: str
    boot: str
    pid: int
    since: str

    @classmethod
    def me(cls) -> "Holder":
        """The process that asks, now."""
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(platform.node(), boot, os.getpid(), now)

    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        me = Holder.me()
        return self.host == me.host or (self.boot == me.boot != "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lease:
    """A file beside another one, ``<name>.lock``, that names its writer.

    The system's lock on it tells whether a writer on this machine is alive, however it ended. Of
    another machine that cannot be known, so its lease is never taken over.

    Raises
    ------
    BlockingIOError
        Someone else has it; the text says who.
    OSError
        A file system without locks.
    """

    def __init__(self, target: Path) -> None:
        self.path = lock_of(target)
        self._fd = _lock(self.path, target)
        try:
            holder = _read(self.path)
            if holder and not holder.is_here():
                raise BlockingIOError(
                    f"{target} is being written by {holder}; if that is over, delete {self.path}"
                )
            os.ftruncate(self._fd, 0)
            try:
                disk.write_at(self._fd, json.dumps(Holder.me()).encode(), 0)
            except OSError as error:
                disk.remove(self.path)
                raise OSError(f"{self.path} cannot be written: {error.strerror}") from None
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Give it back."""
        with contextlib.suppress(OSError):
            if disk.is_at(self._fd, self.path):
                disk.remove(self.path)
        os.close(self._fd)


def lock_of(target: Path) -> Path:
    """The file of a lease."""
    return target.with_name(target.name + ".lock")


def _lock(path: Path, target: Path) -> int:
    """The lease's file, locked by this process."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise type(error)(f"{path} cannot be written: {error.strerror}") from None
        mine = False
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError(f"{path} is not a file; delete it")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = disk.is_at(fd, path)  # or the one before has removed it in between
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise OSError(
                    f"{path} cannot be locked ({error.strerror}); this file system knows no locks, "
                    f"choose an output on another one"
                ) from None
            holder = _read(path) or "another process"
            raise BlockingIOError(
                f"{target} is being written by {holder}; wait for it, or choose another output"
            ) from None
        finally:
            if not mine:
                os.close(fd)
        if mine:
            return fd


def _read(path: Path) -> Holder | None:
    """Who has it; None if it does not say, as when its writer was stopped at once."""
    try:
        host, boot, pid, since = json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return None
    return Holder(str(host), str(boot), pid, str(since)) if isinstance(pid, int) else None
