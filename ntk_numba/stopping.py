"""Requests to stop this process, which come from signals.

The command line and the workers install the handlers; all jobs call `check`. An exception that a
signal handler raises may appear anywhere: within a callback of the compiler, which prints it and
continues, or between a tile and its checksum. So while a file is being written, the handler only
records the request, and the job raises the exception itself at places that it reaches every second
or so.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ntk_numba import streams

EXIT_CODE = 3  # of a process that was stopped before its work was complete
PATIENCE = 8.0  # seconds, at most, from a signal to the end of the process
WORKER_PATIENCE = 6.0  # the same for a worker, which must end before the process that waits for it


class StopRequested(BaseException):
    """A signal asked this process to stop.

    It is not a KeyboardInterrupt: if one passes through exec(), which Numba uses to compile,
    Python ends by the signal and not with our exit code, even if it is caught.
    """


_asked = False
_writing = 0  # the number of open `gently` contexts, on all threads
_lock = threading.Lock()


def handle(handler: Any) -> None:
    """Set the handler of the signals that ask to stop: SIGINT, SIGTERM and SIGUSR1.

    Slurm sends SIGUSR1 when a time limit is near.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, handler)


def on_first_signal(react: Callable[[], None]) -> None:
    """Call `react` at the first signal that asks to stop, and ignore all later ones.

    A second signal has no meaning: schedulers send several, and Ctrl-C reaches a worker twice.
    """

    def stop(signum: int, frame: Any) -> None:
        handle(signal.SIG_IGN)
        react()

    handle(stop)


def ask() -> None:
    """Raise `StopRequested` now, or within `gently` at the next `check`."""
    global _asked
    _asked = True
    if not _writing:
        raise StopRequested


def leave(farewell: bytes = b"", *_: Any) -> NoReturn:
    """End this process at once, as a kill would; only tiles that are not yet on disk are lost.

    It may be called by a signal, whose number and frame are ignored.

    farewell : text that is first written by `streams.last_words`
    """
    if farewell:
        streams.last_words(farewell)
    os._exit(EXIT_CODE)


def leave_after(seconds: float, farewell: bytes = b"") -> threading.Timer:
    """Call `leave` after `seconds`, unless the timer is cancelled.

    The exception that stops the job may be swallowed, or the job may reach no place to stop in
    time.
    """
    timer = threading.Timer(seconds, leave, [farewell])
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no more threads can be started
        timer.start()
    return timer


def is_asked() -> bool:
    """Return whether a signal asked this process to stop."""
    return _asked


def check() -> None:
    """Raise `StopRequested` if a signal asked this process to stop."""
    if _asked:
        raise StopRequested


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """Let a signal raise nothing while files are being written; `check` then raises.

    These contexts may be nested, and may be open on several threads.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    """Change the number of open contexts."""
    global _writing
    with _lock:
        _writing += change
