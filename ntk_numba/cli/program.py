"""The program behind ``ntk-numba``: its signals, errors and exit codes.

Exit codes: 0 done; 2 wrong usage or bad input, nothing was written; 3 stopped before the end; 4 a
check failed. Results go to standard output, progress and errors to standard error.
"""

import contextlib
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from ntk_numba import notices, stopping, streams
from ntk_numba.cli import commands, output
from ntk_numba.cli.options import make_parser
from ntk_numba.errors import StoppedError, UnderflowWarning

WRITERS = "gram", "merge"  # whose result is a file, also if its name cannot be printed
DONE, BAD_INPUT, STOPPED, CHECK_FAILED = 0, 2, stopping.EXIT_CODE, 4
FAREWELL = b"ntk-numba: stopped at once; run the same command again\n"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    streams.keep_messages()
    output.failure = None
    sys.stderr = _Forgiving(sys.stderr)
    sys.unraisablehook = _unraisable
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # where the encoding has no ×, for example
    options = make_parser().parse_args(arguments)
    notices.wanted = not getattr(options, "quiet", False)
    stopping.on_first_signal(_stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UnderflowWarning)
            warnings.showwarning = partial(_show, warnings.showwarning)
            code = DONE if getattr(commands, options.run)(options) else CHECK_FAILED
    except stopping.StopRequested as stop:
        notes = getattr(stop, "__notes__", ["run the same command again"])
        output.say("; ".join(["stopped", *notes]))
        code = STOPPED
    except (ValueError, TypeError, OSError, ArithmeticError, RuntimeError) as error:
        output.say("; ".join([str(error), *getattr(error, "__notes__", [])]))
        code = STOPPED if isinstance(error, StoppedError) else BAD_INPUT
    except MemoryError as error:
        output.say(f"out of memory ({error}); give a smaller --memory")
        code = BAD_INPUT
    output.flush()
    if output.failure and options.run not in WRITERS:
        output.say(f"the result cannot be printed: {output.failure.strerror}")
        code = code or BAD_INPUT  # a failed check stays one
    stopping.handle(signal.SIG_IGN)  # only the end of Python itself remains
    sys.exit(code)


class _Forgiving:
    """Standard error that ignores its own errors: if it is closed or full, the job continues."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _unraisable(error: Any) -> None:
    """Hide a `StopRequested` that is lost in a compiler's callback: `check` raises it again."""
    if error.exc_type is not stopping.StopRequested:
        sys.__unraisablehook__(error)


def _stop() -> None:
    """React to a signal that asks to stop; a second Ctrl-C ends the process at once."""
    signal.signal(signal.SIGINT, partial(stopping.leave, FAREWELL))
    stopping.leave_after(stopping.PATIENCE, FAREWELL)
    stopping.ask()


_shown: set[str] = set()


def _show(otherwise: Any, message: Any, category: Any, *args: Any, **options: Any) -> None:
    """Print a warning for users as one line, once."""
    if not issubclass(category, UserWarning):
        otherwise(message, category, *args, **options)
    elif str(message) not in _shown:
        _shown.add(str(message))
        output.say(f"warning: {message}")
