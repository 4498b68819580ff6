"""Claims of code that is not on disk: one process compiles it, and others that need it wait.

Jobs of an array start together. Without claims, each of them would find an empty cache and compile
all functions. A claim is a lock on a file, which ends with its process however that ends. Where
there can be none, for example on a file system without locks, the process compiles without one. So
a claim saves time, and nothing else depends on it.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ntk_numba import stopping
from ntk_numba.compiled import trust
from ntk_numba.notices import notice
from ntk_numba.opening import is_at

LONGEST = 60.0  # seconds that a process waits in vain, for all functions together
SHORT_PAUSE, LONG_PAUSE = 0.02, 0.5  # seconds between two looks, at first and later


class _Thread(threading.local):
    """What a thread compiles.

    depth : the number of its compilations, each within the one before
    claim : the descriptor and the path of the file that it has locked
    """

    depth = 0
    claim: tuple[int, Path] | None = None


_thread = _Thread()
_in_vain = 0.0  # seconds that this process has waited without finding code


@contextlib.contextmanager
def compilation() -> Iterator[None]:
    """Let this thread claim code, as a context; the claim ends with it, whatever is raised."""
    _thread.depth += 1
    try:
        yield
    finally:
        _thread.depth -= 1
        if _thread.depth == 0 and _thread.claim:
            (fd, path), _thread.claim = _thread.claim, None
            _release(fd, path)


def claim(path: Path, find: Callable[[], Any]) -> Any:
    """Claim code that was not found, or wait for the process that has claimed it.

    Only the outermost compilation claims. A process that waits therefore has no claim, so that no
    two processes wait for each other. Compilations within it need no claim of their own, since
    processes that run the same job wait at the outermost one.

    Parameters
    ----------
    path : the file to lock, which is removed when the claim ends
    find : returns the code if it is on disk now, else None

    Returns
    -------
    Any
        The code; None if this process has to compile it.

    Raises
    ------
    OSError
        There can be no claim: the folder is not trusted or cannot be written, the path is a link,
        or the file system has no locks.
    StopRequested
        A signal asks this process to stop while it waits.
    """
    global _in_vain
    if _thread.depth != 1 or _thread.claim:
        return None
    trust.check_folder(path.parent)
    start, pause, found = time.monotonic(), SHORT_PAUSE, None
    end = start + LONGEST - _in_vain
    while not (mine := _take(path)) and time.monotonic() < end:
        _say_that_it_waits()
        stopping.check()
        time.sleep(pause)
        pause = min(1.5 * pause, LONG_PAUSE)
        if (found := find()) is not None:
            return found
    if mine:
        found = find()  # another process may have saved it just before it ended its claim
    if found is None:
        _in_vain += time.monotonic() - start
    return found


def _take(path: Path) -> bool:
    """Try to lock a file for this thread; return False if another process has locked it.

    The file is opened again at each try. On NFS, a new file also makes this machine look again for
    names that it has not found in the folder before.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(fd, path):  # otherwise its holder has removed it since it was opened
            _thread.claim = fd, path
            return True
    except BlockingIOError:
        pass
    except OSError:  # no locks
        _release(fd, path)
        raise
    os.close(fd)
    return False


def _release(fd: int, path: Path) -> None:
    """Remove the file of a claim, and close it, which unlocks it.

    A child that was forked meanwhile keeps the lock, but on a file without a name.
    """
    with contextlib.suppress(OSError):
        if is_at(fd, path):
            path.unlink()
    os.close(fd)


@cache
def _say_that_it_waits() -> None:
    """Tell the user once why nothing happens."""
    notice(f"waiting for another process, which compiles the same code; at most {LONGEST:.0f} s")
