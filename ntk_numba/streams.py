"""The standard streams, descriptors 0 to 2, of which no data file may become one.

Daemons and schedulers may start a process without them, and a program may close them. The system
gives the lowest free number to the next file that is opened, so a message that any library, or the
C library itself, writes to descriptor 2 would be written into that file.
"""

import contextlib
import fcntl
import os
import sys

_messages: int | None = None  # a duplicate of standard error; None: there was none at the start


def occupy() -> None:
    """Open the null device as those of the standard streams that are closed.

    All that opens a data file calls this first.
    """
    while not all(map(_is_open, range(3))):
        # the lowest free number, also if another thread has opened a file in between
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _is_open(fd: int) -> bool:
    """Return whether a descriptor is open."""
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def keep_messages() -> None:
    """Keep standard error, if there is one, for `last_words`, under a number of its own.

    Where Python has no standard streams, it gets those of the null device: libraries use them.
    """
    global _messages
    occupy()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, closefd=False))
    if _messages is None and sys.__stderr__ is not None:  # Python found it closed
        _messages = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)


def last_words(text: bytes) -> None:
    """Write a text to the standard error of the process's start, not to what is now number 2."""
    if _messages is not None:
        with contextlib.suppress(OSError):
            os.write(_messages, text)
