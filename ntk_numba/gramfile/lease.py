"""The lease of a file: at most one process at a time, on any machine, may write the file.

The writer, the merge and the repair of a Gram file take it. On one machine the system's file lock
tells whether a writer is alive, however it ended. Between machines the lock may tell nothing: some
file systems do not share locks between machines, some keep the locks of a machine that has died,
and some have none. So the writer also touches the lock file every `BEAT` seconds, and a process
that finds a lock file of another machine watches for `WATCH` seconds whether it is touched. Times
are compared only if they come from one file system, and only for equality, so that no clock has to
be right.

A machine that is cut off or suspended for that long is taken for dead, but may come back. Then two
processes write the same bits to the same places (entries are deterministic, see `engine`), and the
one that was replaced notices it within a beat (`Lease.check`).
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import stat
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import psutil

from ntk_numba import stopping, streams
from ntk_numba.errors import BusyFileError, FileError, InvalidValueError, file_error
from ntk_numba.gramfile import disk
from ntk_numba.notices import notice

BEAT = 15.0  # seconds between touches
WATCH = 50.0  # seconds without a touch after which a writer counts as dead: a little over 3 beats
SETTLE = 5.0  # seconds within which all who saw the same dead writer have replaced its lock file
GLANCE = 0.2  # seconds between two looks at the file, and two checks for signals

# The clock by which a process watches and waits; tests replace it by a faster one
_clock, _sleep = time.monotonic, time.sleep

BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
SPACE = Path("/proc/self/ns/pid")  # the namespace in which a PID is valid
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
LONGEST = 4096  # characters of a lock file that are read


class Holder(NamedTuple):
    """The holder of a lease.

    host, boot, space : its machine, the machine's boot ID, and its PID namespace
    pid : its process ID
    since : when it took the lease, by the clock of its machine
    started : when the process was started
    """

    host: str
    boot: str
    space: str
    pid: int
    since: str
    started: float

    @classmethod
    def me(cls) -> "Holder":
        """Return the current process as a holder from now on."""
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        space = str(SPACE.readlink()) if SPACE.exists() else ""
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        started = psutil.Process().create_time()
        return cls(
            host=platform.node(),
            boot=boot,
            space=space,
            pid=os.getpid(),
            since=now,
            started=started,
        )

    def is_here(self) -> bool:
        """Return whether the holder is, or was, a process of this machine."""
        me = Holder.me()
        return self.host == me.host or (self.boot == me.boot != "")

    def is_alive(self) -> bool | None:
        """Return whether the holder's process is alive, by its PID.

        None if that cannot be checked from here: the PID is of another namespace, or hidden.
        """
        me = Holder.me()
        if (self.boot or self.host, self.space) != (me.boot or me.host, me.space):
            return None
        if not psutil.pid_exists(self.pid):
            return False
        try:
            process = psutil.Process(self.pid)
            # compared to the second: the time is relative to the boot, by the machine's clock
            same = abs(process.create_time() - self.started) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:  # hidden, since it is another user's
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lease:
    """A lock file beside another file, ``<name>.lock``, that names its writer, who touches it.

    Raises
    ------
    BlockingIOError
        Another process holds the lease; the text names it.
    OSError
        The folder cannot be written, or the disk is full.
    StopRequested
        A signal arrives while the lock file of another machine is watched.
    """

    def __init__(self, target: Path) -> None:
        streams.occupy()
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
        """Raise an error if another process has taken over the lease.

        Raises
        ------
        BlockingIOError
            Another process holds the lease; the text names it.
        """
        if self._successor:
            raise BusyFileError(
                f"{self._target} was taken over by {self._successor}, since nothing was heard of "
                f"this process for {WATCH:.0f} seconds"
            )

    def release(self) -> None:
        """Release the lease and remove the lock file."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _is_at(self._fd, self.path) and _read(self.path) in (self._holder, None):
                disk.remove(self.path)
        os.close(self._fd)

    def _beat(self) -> None:
        """Touch the lock file until the lease is released or another process has taken it over."""
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # the disk may have recovered by the next beat
                os.utime(self._fd)
            found = _read(self.path)
            if found not in (self._holder, None):
                self._successor = found
                return

    def _take(self) -> int:
        """Take the lease, and return the descriptor of its lock file."""
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
        """Try once to take the lease with the lock file opened as `fd`.

        Return `fd`, or the descriptor of a lock file that replaced it; None to try again.
        """
        locked = _lock(fd, self.path)
        seen = _state(fd)
        if not _is_at(fd, self.path):  # its holder has removed it since we opened it
            return None
        holder = _read(self.path)
        here = holder is None or holder.is_here()
        if (locked and here) or (locked is None and new):
            self._write(fd, self.path)
            return fd
        alive = None
        if locked is not None:  # which tells only of holders on this machine
            alive = True if here else None
        elif holder:
            alive = holder.is_alive()
        if alive is None:
            alive = self._is_touched(holder, seen)
        if not alive:
            return self._replace(seen)
        if not self.path.exists():
            return None
        raise BusyFileError(
            f"{self._target} is being written by {_read(self.path) or 'another process'}; "
            f"wait for it, or choose another output"
        )

    def _is_touched(self, holder: Holder | None, seen: tuple[int, int]) -> bool:
        """Return whether the lock file is touched, replaced or removed within `WATCH` seconds."""
        notice(
            f"{self._target} was being written by {holder or 'another process'}; "
            f"watching for {WATCH:.0f} seconds whether it still is",
            waits=True,
        )
        end = _clock() + WATCH
        while _clock() < end:
            _pause(GLANCE)
            if _state_at(self.path) != seen:
                return True
        return False

    def _replace(self, seen: tuple[int, int]) -> int | None:
        """Replace a dead holder's lock file by our own; None if another process was faster.

        Where machines share no locks, several processes may do so at once. Each looks for the last
        time just before it renames its own file into place, so all of them have renamed theirs
        before any has waited for `SETTLE` seconds. Then the last one holds the lease, and the
        others see that.
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
        """Write the name of this process into a lock file."""
        try:
            os.ftruncate(fd, 0)
            disk.write_at(fd, json.dumps(self._holder).encode(), 0)
        except OSError as error:
            disk.remove(path)
            raise FileError(f"{path} cannot be written: {error.strerror}") from None


def lock_of(target: Path) -> Path:
    """Return the path of the lock file of `target`."""
    return target.with_name(target.name + ".lock")


def _open(path: Path) -> tuple[int, bool]:
    """Open the lock file, and return whether it is new: of several processes, one creates it."""
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
    """Lock an open file; False if another process has locked it, None where there are no locks."""
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
    """Return the values that change when a lock file is touched, written or replaced."""
    status = os.fstat(fd)
    return status.st_ino, status.st_mtime_ns


def _state_at(path: Path) -> tuple[int, int] | None:
    """Return the `_state` of a path, None if it is gone.

    The file is opened first, since NFS would otherwise answer from its cache.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _state(fd)
    finally:
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Return whether an open file still has the name `path`, also on NFS (see `_state_at`)."""
    state = _state_at(path)
    return state is not None and state[0] == os.fstat(fd).st_ino


def _pause(seconds: float) -> None:
    """Wait, and raise StopRequested if a signal asked to stop."""
    end = _clock() + seconds
    while (left := end - _clock()) > 0:
        stopping.check()
        _sleep(min(left, GLANCE))
    stopping.check()


def _read(path: Path) -> Holder | None:
    """Return the holder that a lock file names.

    None if it names none, as when its writer was killed before it wrote its name.
    """
    try:
        with path.open() as file:
            holder = Holder(*json.loads(file.read(LONGEST)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    types = [type(field) for field in holder]
    known = types == [str, str, str, int, str, float] and 0 < holder.pid < 2**31
    return holder if known else None
