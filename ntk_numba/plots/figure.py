"""What every picture begins with: that it can be drawn, and saved where it is wanted."""

import os
from pathlib import Path
from typing import Any

from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.writer import check_folder

DPI = 130


def new_figure(path: str | os.PathLike[str], *, width: float = 6.5, height: float = 4.2) -> Any:
    """An empty matplotlib figure, in inches, that ``figure.savefig(path)`` can save.

    Raises
    ------
    ValueError
        There is no matplotlib, or it has no format of that name.
    OSError
        A folder that does not exist or cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidValueError(
            "plotting needs matplotlib: pip install 'ntk_numba[plot]'"
        ) from None
    check_folder(Path(path))
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    known = sorted(figure.canvas.get_supported_filetypes())
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in known:
        raise InvalidValueError(f"{path}: its ending must be one of {', '.join(known)}")
    return figure
