"""What the command line prints.

Names and attributes may come from other people's files, so characters that a terminal would obey
are printed as escapes. Output that fails, since its reader has gone or the disk is full, stops no
command.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntk_numba.terminal import escaped

if TYPE_CHECKING:
    from ntk_numba.gramfile.stored import Report


def say(text: str) -> None:
    """Print a message to standard error."""
    print(f"ntk-numba: {escaped(text)}", file=sys.stderr)


def show(text: str) -> None:
    """Print a result of one line to standard output."""
    print(escaped(text))


def show_report(report: "Report") -> bool:
    """Print the problems of a report, or else its checks; return whether there are no problems."""
    for line in report.problems:
        show(f"WRONG  {line}")
    if report:
        for line in report.checks:
            show(f"ok     {line}")
    return bool(report)


def typed(path: Path, output: str) -> Path:
    """Return the path of a file that was written as the user typed it, so that it is short.

    output : the name that the user has typed
    """
    if not Path(output).is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd())
    return path


def show_json(facts: Any) -> None:
    """Print a result as JSON, which has no characters but those of ASCII."""
    print(json.dumps(facts, indent=2))


def show_script(text: str) -> None:
    """Print a script with the bytes that its names have, whatever the encoding of the terminal."""
    assert isinstance(sys.stdout, Forgiving)  # since `program.main`
    sys.stdout.write_bytes(os.fsencode(text))


def flush() -> None:
    """Print what is buffered."""
    sys.stdout.flush()


class Forgiving:
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

    def write_bytes(self, data: bytes) -> None:
        """Write bytes, after the text that was written before."""
        self.flush()
        with self._noting():
            if hasattr(self._stream, "buffer"):
                self._stream.buffer.write(data)
            else:
                self._stream.write(os.fsdecode(data))

    def flush(self) -> None:
        with self._noting():
            self._stream.flush()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Keep the first error, and go on."""
        try:
            with contextlib.suppress(ValueError):  # Python's file object may be closed
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

    def fileno(self) -> int:
        """Return the descriptor; of a closed stream, raise what files without one raise."""
        try:
            return int(self._stream.fileno())
        except (ValueError, AttributeError):
            raise io.UnsupportedOperation("the stream has no descriptor") from None

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
