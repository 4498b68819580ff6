"""The class of all figures, which keeps the style when a user shows or saves one."""

import io
import warnings
from typing import Any

from matplotlib.figure import Figure

from ntk_numba.plots.style import styled

_Figure: Any = Figure  # matplotlib may be missing where types are checked


class Picture(_Figure):  # type: ignore[misc]
    """A matplotlib figure that is written in the style of the package, and shown by notebooks."""

    def savefig(self, *args: Any, **options: Any) -> None:
        """Write the figure, as ``Figure.savefig`` does, with TrueType fonts.

        A letter that the font lacks, as in a label in Chinese, is drawn as a box.
        """
        with styled(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows, where pyplot is not loaded."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
