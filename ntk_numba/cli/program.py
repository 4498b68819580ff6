"""The program behind ``ntk-numba``: its signals, errors and exit codes.

Exit codes: 0 done; 2 wrong usage or bad input, nothing was written; 3 stopped before the end, the
same command goes on; 4 a check failed, or an iteration did not reach its tolerance: the same
command would not either. Results go to standard output, progress and errors to standard error.

What happens to the output does not change how the work has ended: printing raises no error, and a
check that failed, an error and a stop keep their exit codes. If work is done and its results cannot
be printed, for example on a full disk, the exit code is 2, unless the reader of a pipe has left.
"""

import contextlib
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from ntk_numba import notices, stopping, streams
from ntk_numba.cli import commands, learning, matrices, output, spectra
from ntk_numba.cli.options import make_parser
from ntk_numba.errors import NotConvergedError, NtkNumbaWarning, StoppedError

# The commands whose result is a file: they are done even if its name cannot be printed
WRITERS = "gram", "merge", "plot", "fit", "predict", "cholesky", "solve"
HOMES = commands, learning, matrices, spectra  # the files of the commands' functions
DONE, BAD_INPUT, STOPPED, CHECK_FAILED = 0, 2, stopping.EXIT_CODE, 4
FAREWELL = b"ntk-numba: stopped at once; run the same command again\n"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    streams.keep_messages()
    sys.stderr = output.Forgiving(sys.stderr)
    sys.unraisablehook = _unraisable
    stream: Any = sys.stdout
    with contextlib.suppress(AttributeError, ValueError):  # it may be closed, or another's
        stream.reconfigure(errors="replace")  # where the encoding has no ×, for example
    results = sys.stdout = output.Forgiving(stream)
    try:
        options = make_parser().parse_args(arguments)
    except SystemExit as end:  # of --help and of wrong usage
        sys.exit(_printed(results, int(end.code or DONE)))
    notices.wanted = not getattr(options, "quiet", False)
    stopping.on_first_signal(_stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", NtkNumbaWarning)
            warnings.showwarning = partial(_show, warnings.showwarning)
            command = next(
                getattr(home, options.run) for home in HOMES if hasattr(home, options.run)
            )
            code = DONE if command(options) else CHECK_FAILED
    except stopping.StopRequested as stop:
        notes = getattr(stop, "__notes__", ["run the same command again"])
        output.say("; ".join(["stopped", *notes]))
        code = STOPPED
    except (ValueError, TypeError, OSError, ArithmeticError, RuntimeError) as error:
        output.say("; ".join([str(error), *getattr(error, "__notes__", [])]))
        kinds = {StoppedError: STOPPED, NotConvergedError: CHECK_FAILED}
        code = next((kinds[kind] for kind in kinds if isinstance(error, kind)), BAD_INPUT)
    except MemoryError as error:
        output.say(f"out of memory ({error}); give a smaller --memory")
        code = BAD_INPUT
    stopping.handle(signal.SIG_IGN)  # only the end of Python itself remains
    sys.exit(_printed(results, code, written=options.run in WRITERS))


def _printed(results: output.Forgiving, code: int, *, written: bool = False) -> int:
    """Return the exit code of work that ended with `code`, when its results have been printed.

    written : whether the result is a file, so that what is printed matters less
    """
    results.flush()
    failure = results.failure
    results.drop()
    if failure is None or isinstance(failure, BrokenPipeError) or written:
        return code
    output.say(f"the results cannot be printed to standard output: {failure.strerror}")
    return code or BAD_INPUT


def _unraisable(error: Any) -> None:
    """Hide what cannot be raised after a request to stop.

    A `StopRequested` that is lost in a compiler's callback is raised again by `check`. Objects
    that it leaves half made may fail when they are deleted.
    """
    if not stopping.is_asked():
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
