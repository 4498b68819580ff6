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

import numpy as np
from numpy.typing import NDArray

from ntk_numba import streams
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.place import check_folder
from ntk_numba.gramfile.whole import written_whole
from ntk_numba.opening import path_of
from ntk_numba.plots.style import styled

DPI = 130
LARGEST = 1e150  # entry that is drawn: sums and squares of larger ones may overflow
LONGEST = 110  # characters of a network's description above a picture


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
    check_folder(path_of(path))
    known = sorted({*Figure().canvas.get_supported_filetypes()} - {"pgf"})  # that needs LaTeX
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
            with written_whole(path, overwrite=True) as fd:
                disk.write_at(fd, buffer.getvalue(), 0)


def _ending(path: str | os.PathLike[str]) -> str:
    return Path(path).suffix.lstrip(".").lower()


def heading(net: Any) -> str:
    """Return the description of a network, or as much of it as fits above a picture.

    net : MLP, or None if it is not known
    """
    text = "" if net is None else str(net)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


def first_bad(values: NDArray[np.float64]) -> tuple[int, ...] | None:
    """Return the indices of the first number that cannot be drawn, if there is one."""
    good = np.abs(values) <= LARGEST  # NaN is not
    return None if good.all() else tuple(int(k) for k in np.argwhere(~good)[0])
