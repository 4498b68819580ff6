"""The right to write a file, which one process has at a time, of all machines that see the file.

On one machine the system's lock tells whether a writer is alive, however it ended. Between machines
it may tell nothing: some file systems keep their locks to themselves, some keep those of a machine
that has died, some have none. So a writer also touches the lock's file every `BEAT` seconds, and
who finds that another machine has it looks for `WATCH` seconds whether it is touched. Only times
that one file system gave are compared, and only for equality, so that no clock has to be right.

A machine that is cut off or stopped for that long is taken for dead, and may come back. Then two
write the same entries to the same places, which are the same bits (that is how they are computed,
see `engine`); and the one that was replaced finds it out within a beat (`Lease.check`).
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import stat
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import psutil

from ntk_numba import stopping
from ntk_numba.errors import BusyFileError, FileError, InvalidValueError, file_error
from ntk_numba.gramfile import disk

# Seconds
BEAT = 15.0  # between touches
WATCH = 50.0  # without one, after which a writer is dead: three beats and a little
SETTLE = 5.0  # until all that have found it dead in the same moment have made their move
GLANCE = 0.2  # between looks, at the file and for signals

# By which a process watches and waits; tests put a clock in their place that goes faster
_clock, _sleep = time.monotonic, time.sleep

BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
SPACE = Path("/proc/self/ns/pid")  # where the number of a process means something
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Holder(NamedTuple):
    """Who has a lease: a process, since when by its host's clock, and when that was started."""

    host: str
    boot: str
    space: str
    pid: int
    since: str
    started: float

    @classmethod
    def me(cls) -> "Holder":
        """The process that asks, now."""
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        space = str(SPACE.readlink()) if SPACE.exists() else ""
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        started = psutil.Process().create_time()
        return cls(platform.node(), boot, space, os.getpid(), now, started)

    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        me = Holder.me()
        return self.host == me.host or (self.boot == me.boot != "")

    def lives(self) -> bool | None:
        """Whether its process lives, by its number; None where that says nothing of it."""
        me = Holder.me()
        if (self.boot or self.host, self.space) != (me.boot or me.host, me.space):
            return None
        if not psutil.pid_exists(self.pid):
            return False
        try:
            process = psutil.Process(self.pid)
            # to the second, since it is counted from when the machine was started, by its clock
            same = abs(process.create_time() - self.started) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:  # another user's, and hidden
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lease:
    """A file beside another one, ``<name>.lock``, that names its writer and is touched by it.

    Raises
    ------
    BlockingIOError
        Someone else has it; the text says who.
    OSError
        A folder that cannot be written, a full disk.
    StopRequested
        A signal, while we look whether another machine lives.
    """

    def __init__(self, target: Path) -> None:
        self.path, self._target = lock_of(target), target
        self._holder = Holder.me()
        self._successor: Holder | None = None
        self._fd = self._take()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            disk.remove(self.path)
            os.close(self._fd)
            raise FileError(f"{self.path} cannot be kept: {error}") from None

    def check(self) -> None:
        """Raise if another process has taken it over.

        Raises
        ------
        BlockingIOError
            The text says who.
        """
        if self._successor:
            raise BusyFileError(
                f"{self._target} was taken over by {self._successor}, since nothing was heard of "
                f"this process for {WATCH:.0f} seconds"
            )

    def release(self) -> None:
        """Give it back."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _is_at(self._fd, self.path) and _read(self.path) in (self._holder, None):
                disk.remove(self.path)
        os.close(self._fd)

    def _beat(self) -> None:
        """Touch the file until it is given back, or another process has it."""
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # the disk may be there again at the next one
                os.utime(self._fd)
            found = _read(self.path)
            if found not in (self._holder, None):
                self._successor = found
                return

    def _take(self) -> int:
        """The lease's file, opened, once it is ours."""
        while True:
            fd, new = _open(self.path)
            kept = None
            try:
                kept = self._try(fd, new)
            finally:
                if kept != fd:
                    os.close(fd)
            if kept is not None:
                return kept

    def _try(self, fd: int, new: bool) -> int | None:
        """The file that was opened if it can be ours, or one in its place; None to begin anew."""
        locked = _lock(fd, self.path)
        seen = _state(fd)
        if not _is_at(fd, self.path):  # the one before has removed it in between
            return None
        holder = _read(self.path)
        here = holder is None or holder.is_here()
        if (locked and here) or (locked is None and new):
            self._write(fd, self.path)
            return fd
        lives = None
        if locked is not None:
            lives = True if here else None
        elif holder:
            lives = holder.lives()
        if lives is None:
            lives = self._is_touched(holder, seen)
        if not lives:
            return self._replace(seen)
        if not self.path.exists():
            return None
        raise BusyFileError(
            f"{self._target} is being written by {_read(self.path) or 'another process'}; "
            f"wait for it, or choose another output"
        )

    def _is_touched(self, holder: Holder | None, seen: tuple[int, int]) -> bool:
        """Whether anything happens to the lease's file, if we look for long enough."""
        if sys.stderr and sys.stderr.isatty():
            print(
                f"{self._target} was being written by {holder or 'another process'}; "
                f"looking for {WATCH:.0f} seconds whether it still is",
                file=sys.stderr,
            )
        end = _clock() + WATCH
        while _clock() < end:
            _pause(GLANCE)
            if _state_at(self.path) != seen:
                return True
        return False

    def _replace(self, seen: tuple[int, int]) -> int | None:
        """Put a file of ours in the place of a dead one's; None if another was faster.

        Where no lock is common to all, several may do so at once. Each looks for the last time just
        before it renames its file, so all of them have done so before any has waited for `SETTLE`
        seconds; the last one has it then, and the others see that.
        """
        path = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        fd, _ = _open(path)
        try:
            _lock(fd, path)
            self._write(fd, path)
            if _state_at(self.path) != seen:
                disk.remove(path)
                os.close(fd)
                return None
            disk.rename(path, self.path)
            _pause(SETTLE)
            if _is_at(fd, self.path):
                return fd
        except BaseException:
            disk.remove(self.path if _is_at(fd, self.path) else path)
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _write(self, fd: int, path: Path) -> None:
        """Say in a file that it is ours."""
        try:
            os.ftruncate(fd, 0)
            disk.write_at(fd, json.dumps(self._holder).encode(), 0)
        except OSError as error:
            disk.remove(path)
            raise FileError(f"{path} cannot be written: {error.strerror}") from None


def lock_of(target: Path) -> Path:
    """The file of a lease."""
    return target.with_name(target.name + ".lock")


def _open(path: Path) -> tuple[int, bool]:
    """The lease's file, and whether it is new: of several at once, one makes it."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            with contextlib.suppress(FileExistsError):
                return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, flags), False
        except OSError as error:
            raise file_error(error, f"{path} cannot be written: {error.strerror}") from None


def _lock(fd: int, path: Path) -> bool | None:
    """Lock an open file; False if another process has, None where there are no locks."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise InvalidValueError(f"{path} is not a file; delete it")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise FileError(f"{path} cannot be locked: {error.strerror}") from None
    return True


def _state(fd: int) -> tuple[int, int]:
    """What changes when a lease's file is touched, written or replaced."""
    status = os.fstat(fd)
    return status.st_ino, status.st_mtime_ns


def _state_at(path: Path) -> tuple[int, int] | None:
    """The same by name, None if it is gone; opened, or NFS would tell what it remembers."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _state(fd)
    finally:
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file still has that name."""
    state = _state_at(path)
    return state is not None and state[0] == os.fstat(fd).st_ino


def _pause(seconds: float) -> None:
    """Wait, and look for signals."""
    end = _clock() + seconds
    while (left := end - _clock()) > 0:
        stopping.check()
        _sleep(min(left, GLANCE))
    stopping.check()


def _read(path: Path) -> Holder | None:
    """Who has it; None if it does not say, as when its writer was stopped at once."""
    try:
        holder = Holder(*json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    kinds = [type(field) for field in holder]
    return holder if kinds == [str, str, str, int, str, float] else None
