"""The empty figure that all pictures start from.

It is made before anything is computed, so that a missing matplotlib, an unknown file format or a
folder that cannot be written is an error at once.
"""

import os
from pathlib import Path
from typing import Any

from ntk_numba import streams
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.place import check_folder

DPI = 130


def new_figure(path: str | os.PathLike[str], *, width: float = 6.5, height: float = 4.2) -> Any:
    """Return an empty matplotlib figure that ``figure.savefig(path)`` can save.

    width, height : its size in inches

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
    check_folder(Path(path))
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    known = sorted(figure.canvas.get_supported_filetypes())
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in known:
        raise InvalidValueError(f"{path}: its ending must be one of {', '.join(known)}")
    return figure
