"""The lease of an output: at most one process at a time, on any machine, may write it.

There is one lease for each name of an output, finished or not. The writer, the merge, the link and
the repair take it, and a merge takes those of its parts while it copies them. On one machine the
system's file lock tells whether a writer is alive, however it ended. Between machines the lock may
tell nothing: some file systems do not share locks between machines, some keep the locks of a
machine that has died, and some have none. So the writer also touches the lock file every `BEAT`
seconds, and a process that finds a lock file of another machine watches for `WATCH` seconds whether
it is touched. Times are compared only if they come from one file system, and only for equality, so
that no clock has to be right.

A machine that is cut off or suspended for that long is taken for dead, but may come back. Then two
processes write the same bits to the same places (entries are deterministic, see `engine`), and the
one that was replaced notices it (`Lease.check`) at its next batch, and before it renames the file.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ntk_numba import stopping, streams
from ntk_numba.errors import (
    BusyFileError,
    FileError,
    InvalidValueError,
    TakenOverError,
    file_error,
)
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.holder import Holder
from ntk_numba.gramfile.place import LOCK, NEXT, beside
from ntk_numba.notices import notice

BEAT = 15.0  # seconds between touches
WATCH = 50.0  # seconds without a touch after which a writer counts as dead: a little over 3 beats
SETTLE = 5.0  # seconds within which all who saw the same dead writer have replaced its lock file
GLANCE = 0.2  # seconds between two looks at the file, and two checks for signals

# The clock by which a process watches and waits; tests replace it by a faster one
_clock, _sleep = time.monotonic, time.sleep

# What a file system answers where no lock file can be made
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
LONGEST = 4096  # characters of a lock file that are read


class Lease:
    """A lock file beside an output, ``<name>.partial.lock``, that names its writer, who touches it.

    It is a context manager that releases the lease.

    Parameters
    ----------
    output : the name of the output when it is finished
    mend : what to do if another process holds the lease, for its error

    Raises
    ------
    BlockingIOError
        Another process holds the lease; the text names it.
    OSError
        The folder cannot be written, or the disk is full.
    StopRequested
        A signal arrives while the lock file of another machine is watched.
    """

    def __init__(
        self, output: Path, *, mend: str = "wait for it, or choose another output"
    ) -> None:
        streams.occupy()
        self.path, self._output, self._mend = lock_of(output), output, mend
        self._holder = Holder.me()
        self._lost = ""
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
        """Raise an error if another process has taken over the lease, by a look at the lock file.

        Raises
        ------
        TakenOverError
            Another process holds the lease, or has held it; the text names it.
        """
        if self._is_lost():
            raise TakenOverError(self._lost)

    def release(self) -> None:
        """Release the lease and remove the lock file."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _is_at(self._fd, self.path) and _read(self.path) in (self._holder, None):
                disk.remove(self.path)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        """Touch the lock file until the lease is released or another process has taken it over."""
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # the disk may have recovered by the next beat
                os.utime(self._fd)
            if self._is_lost():
                return

    def _is_lost(self) -> bool:
        """Return whether another process has, or has had, the lease, and keep the reason."""
        if self._lost:
            return True
        found = _read(self.path)
        if found not in (self._holder, None):
            self._lost = (
                f"{self._output} was taken over by {found}, since nothing was heard of this "
                f"process for {WATCH:.0f} seconds"
            )
        elif found is None and _is_gone(self._fd, self.path):
            self._lost = (
                f"{self.path} was removed while this process was writing: another one may have "
                f"taken {self._output} over and completed it"
            )
        return bool(self._lost)

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
            alive = _is_touched(self.path, holder, seen)
        if not alive:
            return self._replace(seen)
        if not self.path.exists():
            return None
        raise BusyFileError(
            f"{self._output} is being written by {_read(self.path) or 'another process'}; "
            f"{self._mend}"
        )

    def _replace(self, seen: tuple[int, int]) -> int | None:
        """Replace a dead holder's lock file by our own; None if another process was faster.

        Where machines share no locks, several processes may do so at once. Each looks for the last
        time just before it renames a file into place, so all of them have done so before any has
        waited for `SETTLE` seconds. Then the one whose file is in place holds the lease, and the
        others see that.
        """
        fd, new = self._begin()
        try:
            _lock(fd, new)
            self._write(fd, new)
            if _state_at(self.path) == seen:
                with contextlib.suppress(FileNotFoundError):  # taken for left over, see `_begin`
                    disk.rename(new, self.path)
            if _is_at(fd, self.path):
                _pause(SETTLE)
            if _is_at(fd, self.path):
                return fd
            if _is_at(fd, new):
                disk.remove(new)
        except BaseException:
            for path in (self.path, new):
                if _is_at(fd, path):
                    disk.remove(path)
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _begin(self) -> tuple[int, Path]:
        """Create the file that is to replace a lock file; there is one name for it.

        A process that was killed may have left one. Another process renames its own at once, so one
        that stays the same for `SETTLE` seconds is removed.
        """
        new = beside(self._output, NEXT)
        while True:
            try:
                return disk.create(new), new
            except FileExistsError:
                before = _state_at(new)
                _pause(SETTLE)
                if _state_at(new) == before:
                    _remove(new)
            except OSError as error:
                raise file_error(error, f"{new} cannot be written: {error.strerror}") from None

    def _write(self, fd: int, path: Path) -> None:
        """Write the name of this process into a lock file."""
        try:
            os.ftruncate(fd, 0)
            disk.write_at(fd, json.dumps(self._holder).encode(), 0)
        except OSError as error:
            disk.remove(path)
            raise file_error(error, f"{path} cannot be written: {error.strerror}") from None


def lock_of(output: Path) -> Path:
    """Return the path of the lock file of an output."""
    return beside(output, LOCK)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lease of a finished file, as a context, so that nobody writes it meanwhile.

    Where no lock file can be made, as in a folder that cannot be written or on a full disk, the
    file is used without: a reader compares all that it reads with checksums. But it is refused if
    a lock file of another process stands there and is alive.

    Raises
    ------
    BlockingIOError
        Another process writes the file, or merges it; the text names it.
    """
    mend = "wait until it is written, repaired or merged, and run the same again"
    try:
        lease = Lease(path, mend=mend)
    except BusyFileError:
        raise
    except FileError as error:
        if error.errno not in UNWRITABLE:
            raise
        if _is_held(lock_of(path)):
            holder = _read(lock_of(path)) or "another process"
            raise BusyFileError(f"{path} is being written by {holder}; {mend}") from None
        yield
        return
    with lease:
        yield


def _is_held(path: Path) -> bool:
    """Return whether a lock file that we cannot write has a holder that is alive."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        with contextlib.suppress(FileError):  # of a lock that needs the right to write
            if not _lock(fd, path):
                return True
        holder, seen = _read(path), _state(fd)
        if holder and holder.is_here() and (alive := holder.is_alive()) is not None:
            return alive
        return _is_touched(path, holder, seen)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    """Remove a file that was left over."""
    try:
        disk.remove(path)
    except OSError as error:
        raise file_error(error, f"{path} cannot be removed: {error.strerror}") from None


def _is_touched(path: Path, holder: Holder | None, seen: tuple[int, int]) -> bool:
    """Return whether a lock file is touched, replaced or removed within `WATCH` seconds."""
    notice(
        f"{str(path).removesuffix(LOCK)} was being written by {holder or 'another process'}; "
        f"watching for {WATCH:.0f} seconds whether it still is",
        waits=True,
    )
    end = _clock() + WATCH
    while _clock() < end:
        _pause(GLANCE)
        if _state_at(path) != seen:
            return True
    return False


def _open(path: Path) -> tuple[int, bool]:
    """Open the lock file, and return whether it is new: of several processes, one creates it."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            with contextlib.suppress(FileExistsError):
                return disk.create(path), True
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
        if error.errno in disk.NO_LOCKS:
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


def _is_gone(fd: int, path: Path) -> bool:
    """Return whether an open file has lost the name `path`; errors of the disk do not say so."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    state = _state_at(path)
    return state is not None and state[0] != os.fstat(fd).st_ino


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
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            holder = Holder(*json.loads(os.read(fd, LONGEST)))
        finally:
            os.close(fd)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    types = [type(field) for field in holder]
    known = types == [str, str, str, int, str, float] and 0 < holder.pid < 2**31
    return holder if known else None
