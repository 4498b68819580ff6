"""The empty figure that all pictures start from, and the writing of a file.

What can be refused is refused by `check_picture`, before anything is computed: a missing
matplotlib, an unknown file format, or a folder that cannot be written.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ntk_numba import streams
from ntk_numba.errors import InvalidValueError, NtkNumbaError, file_error
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.place import check_folder, keep_mode, output_path, partial_of
from ntk_numba.plots.style import styled

DPI = 130


def check_picture(path: str | os.PathLike[str] | None) -> None:
    """Raise an error if no picture can be drawn, or if it cannot be written to `path`.

    Raises
    ------
    ValueError
        If matplotlib is not installed, or cannot write files with the ending of `path`.
    OSError
        If the folder of `path` does not exist or cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidValueError(
            "plotting needs matplotlib: pip install 'ntk_numba[plot]'"
        ) from None
    streams.occupy()
    if path is None:
        return
    check_folder(Path(path))
    known = sorted(Figure().canvas.get_supported_filetypes())
    if _ending(path) not in known:
        raise InvalidValueError(f"{path}: its ending must be one of {', '.join(known)}")


@contextlib.contextmanager
def picture(
    path: str | os.PathLike[str] | None, *, width: float = 6.5, height: float = 4.2
) -> Iterator[Any]:
    """Yield an empty figure in the style of the package; write it to `path`, if any, at the end.

    An error within the context leaves no file, and one that was there as it is.

    path : a .png, .pdf or .svg file, or None
    width, height : the size in inches

    Raises
    ------
    ValueError, OSError
        As for `check_picture`, or if the file cannot be written.
    """
    check_picture(path)
    from ntk_numba.plots.notebook import Picture

    with styled():
        figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        if path is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=_ending(path))
            _write(output_path(path), buffer.getvalue())


def _ending(path: str | os.PathLike[str]) -> str:
    return Path(path).suffix.lstrip(".").lower()


def _write(path: Path, content: bytes) -> None:
    """Write a whole file under another name, and rename it: there is no half-written picture."""
    partial = partial_of(path)
    try:
        disk.remove(partial)  # of a process that was killed
        fd = disk.create(partial)
        try:
            keep_mode(fd, path)
            disk.write_at(fd, content, 0)
            disk.sync(fd)
        finally:
            os.close(fd)
        disk.rename(partial, path)
    except NtkNumbaError:
        raise
    except OSError as error:
        raise file_error(error, f"{path} cannot be written: {error.strerror}") from None
    finally:
        disk.remove(partial)
