"""What the command line prints.

Names and attributes come from files of others, so that nothing that a terminal would obey is
printed. Output that fails, since its reader has gone or the disk is full, stops no command.
"""

import json
import os
import sys
from typing import Any

from ntk_numba.terminal import escaped


def say(text: str) -> None:
    """Print a message to standard error."""
    print(f"ntk-numba: {escaped(text)}", file=sys.stderr)


def show(text: str) -> None:
    """Print a result of one line to standard output."""
    _write(f"{escaped(text)}\n")


def show_json(facts: Any) -> None:
    """Print a result as JSON, which has no characters but those of ASCII."""
    _write(json.dumps(facts, indent=2) + "\n")


def show_script(text: str) -> None:
    """Print a script with the bytes that its names have, whatever the encoding of the terminal."""
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        return _write(text)
    flush()
    try:
        stream.write(os.fsencode(text))
    except OSError as error:
        _fail(error)
    return flush()


# The error of standard output, if it cannot be written; None also if its reader has closed it
failure: OSError | None = None


def flush() -> None:
    """Write what is buffered."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        _fail(error)


def _write(text: str) -> None:
    """Write to standard output, if there is one."""
    try:
        if sys.stdout:
            sys.stdout.write(text)
    except OSError as error:
        _fail(error)


def _fail(error: OSError) -> None:
    """Discard further output, which Python would try to write again at its end."""
    global failure
    if not isinstance(error, BrokenPipeError):
        failure = error
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
