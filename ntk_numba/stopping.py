"""Being asked to stop, by a signal.

What a signal's handler raises may come up anywhere: within a callback of the compiler, which prints
it and goes on, or between a tile and its checksum. So while a file is being written, the handler
only asks, and the job raises it itself at places that it passes every second or so.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = 3  # of a process that was stopped before its end


class Stopped(BaseException):
    """A signal asked us to stop.

    Not a KeyboardInterrupt: one that passes through exec(), as Numba uses it to compile, makes
    Python end by the signal and not with our exit code, even if it is caught.
    """


_asked = False
_writing = 0  # contexts that are open now, on any thread
_lock = threading.Lock()


def handle(handler: Any) -> None:
    """Have what asks to stop handled so; SIGUSR1 is how Slurm says that a limit is near."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, handler)


def ask() -> None:
    """Raise `Stopped` now, or within `gently` at the next `check`. For a signal's handler."""
    global _asked
    _asked = True
    if not _writing:
        raise Stopped


def leave_after(seconds: float, leave: Callable[[], Any]) -> threading.Timer:
    """Should what is raised be lost, or the job be long in reaching a place to stop."""
    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no threads left
        timer.start()
    return timer


def check() -> None:
    """Raise `Stopped` if that was asked."""
    if _asked:
        raise Stopped


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """While a file is being written, or several, one within the other or on other threads."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(more: int) -> None:
    global _writing
    with _lock:
        _writing += more
