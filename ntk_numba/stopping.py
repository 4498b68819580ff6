"""Being asked to stop, by a signal.

What a signal's handler raises may come up anywhere: within a callback of the compiler, which prints
it and continues, or between a tile and its checksum. So while a file is being written, the handler
only asks, and the job raises the exception itself at places that it passes every second or so.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

EXIT_CODE = 3  # of a process that was stopped before its end
PATIENCE = 8.0  # seconds from a signal to the end, at most
# The same for a worker, which ends before the process that waits for it
WORKER_PATIENCE = 6.0


class StopRequested(BaseException):
    """A signal asked this process to stop.

    Not a KeyboardInterrupt: one that passes through exec(), as Numba uses it to compile, makes
    Python end by the signal and not with our exit code, even if it is caught.
    """


_asked = False
_writing = 0  # contexts that are open now, on any thread
_lock = threading.Lock()


def handle(handler: Any) -> None:
    """Set the handler of the signals that ask to stop.

    SIGUSR1 is one of them: by it Slurm says that a limit is near.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, handler)


def on_first_signal(react: Callable[[], None]) -> None:
    """Call `react` at the first signal that asks to stop, and ignore all others.

    A second one means nothing: schedulers send several, and Ctrl-C reaches a worker twice.
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
    """End this process at once, as a kill would; only tiles in flight are lost.

    farewell : what is written to standard error before
    """
    if farewell:
        with contextlib.suppress(OSError):
            os.write(2, farewell)
    os._exit(EXIT_CODE)


def leave_after(seconds: float, farewell: bytes = b"") -> threading.Timer:
    """End this process after some time, unless the timer is cancelled.

    What is raised may be lost, and the job may be long in reaching a place to stop.
    """
    timer = threading.Timer(seconds, leave, [farewell])
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no threads left
        timer.start()
    return timer


def check() -> None:
    """Raise `StopRequested` if that was asked."""
    if _asked:
        raise StopRequested


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """Let a signal only ask, and raise nothing, while files are being written.

    Such contexts may be nested, and be open on several threads.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(more: int) -> None:
    global _writing
    with _lock:
        _writing += more
