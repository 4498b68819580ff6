"""The program behind ``ntk-numba``: its signals, errors and exit codes.

Exit codes: 0 done; 2 wrong usage or bad input, nothing was written; 3 stopped before the end; 4 a
check failed. Results go to standard output, progress and errors to standard error.

What happens to the output does not change how the work has ended: printing raises no error, and a
check that failed, an error and a stop keep their exit codes. If work is done and its results cannot
be printed, for example on a full disk, the exit code is 2, unless the reader of a pipe has left.
"""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

from ntk_numba import notices, stopping
from ntk_numba.cli import commands
from ntk_numba.cli.options import make_parser
from ntk_numba.errors import StoppedError, UnderflowWarning

DONE, BAD_INPUT, STOPPED, CHECK_FAILED = 0, 2, stopping.EXIT_CODE, 4
FAREWELL = b"ntk-numba: stopped at once; run the same command again\n"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.stderr = _Forgiving(sys.stderr)
    sys.unraisablehook = _unraisable
    stream: Any = sys.stdout
    with contextlib.suppress(AttributeError, ValueError):  # it may be closed, or another's
        stream.reconfigure(errors="replace")  # where the encoding has no ×, for example
    output = sys.stdout = _Forgiving(stream)
    try:
        options = make_parser().parse_args(arguments)
    except SystemExit as end:  # of --help and of wrong usage
        sys.exit(_printed(output, int(end.code or DONE)))
    notices.wanted = not getattr(options, "quiet", False)
    stopping.on_first_signal(_stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UnderflowWarning)
            warnings.showwarning = partial(_show, warnings.showwarning)
            code = DONE if getattr(commands, options.run)(options) else CHECK_FAILED
        output.flush()
    except stopping.StopRequested as stop:
        _say("; ".join(["stopped", *getattr(stop, "__notes__", ["run the same command again"])]))
        code = STOPPED
    except (ValueError, TypeError, OSError, ArithmeticError, RuntimeError) as error:
        _say("; ".join([str(error), *getattr(error, "__notes__", [])]))
        code = STOPPED if isinstance(error, StoppedError) else BAD_INPUT
    except MemoryError as error:
        _say(f"out of memory ({error}); give a smaller --memory")
        code = BAD_INPUT
    stopping.handle(signal.SIG_IGN)  # only the end of Python itself remains
    sys.exit(_printed(output, code, written=options.run in commands.WRITERS))


def _printed(output: "_Forgiving", code: int, *, written: bool = False) -> int:
    """Return the exit code of work that ended with `code`, when its output has been printed.

    written : whether the result is a file, so that the output matters less
    """
    output.flush()
    failure = output.failure
    output.drop()
    if failure is None or isinstance(failure, BrokenPipeError) or code != DONE or written:
        return code
    _say(f"the results cannot be printed to standard output: {failure.strerror}")
    return BAD_INPUT


class _Forgiving:
    """Standard output or error that raises no errors: if it is closed or full, the job continues.

    Attributes
    ----------
    failure : OSError or None
        The first error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        with self._noting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noting():
            self._stream.flush()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Keep the first error, and go on; a stream may be closed, or None."""
        try:
            with contextlib.suppress(ValueError, AttributeError):
                yield
        except OSError as error:
            self.failure = self.failure or error

    def drop(self) -> None:
        """Discard what could not be printed: Python would try to print it again at its end."""
        if self.failure:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

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
        _say(f"warning: {message}")


def _say(text: str) -> None:
    """Print a message to standard error."""
    print(f"ntk-numba: {text}", file=sys.stderr)
