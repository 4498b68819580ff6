"""The style of all pictures: colours, dashes, markers, hatches, and the settings of matplotlib."""

import contextlib
from collections.abc import Iterator
from typing import Any

# Okabe and Ito's colours, which people with any kind of colour blindness can tell apart, without
# yellow, which is too light for lines, and black, which is for exact values and data
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
DASHES: tuple[Any, ...] = "-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (9, 2))
MARKERS = "o", "s", "^", "D", "v", "X", "P"
HATCHES = "", "////", "....", "\\\\\\\\", "xxxx"
STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, and has Θ, Σ, ∞ and √
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # long enough for dashes
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "figure.titlesize": 10,
    "image.cmap": "magma",
    "image.interpolation": "nearest",
    # outlines of Type 3 fonts cannot be searched or edited, and some journals refuse them
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}
# The settings that change how a picture looks; of these, matplotlib's defaults hold
LOOKS = {
    "axes", "boxplot", "contour", "figure", "font", "grid", "hatch", "image", "legend", "lines",
    "markers", "mathtext", "patch", "path", "pdf", "ps", "savefig", "svg", "text", "xaxis", "xtick",
    "yaxis", "ytick",
}  # fmt: skip


def line(k: int, *, marker: bool = False) -> dict[str, Any]:
    """Return the style of the k-th line of a picture: 30 pairs of colours and dashes differ."""
    style = {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)]}
    return style | ({"marker": MARKERS[k % len(MARKERS)]} if marker else {})


def band(k: int) -> dict[str, Any]:
    """Return the style of the k-th band of a picture: a light colour, and a hatch."""
    colour = COLOURS[k % len(COLOURS)]
    return {
        "facecolor": (colour, 0.22),
        "edgecolor": (colour, 0.55),
        "hatch": HATCHES[k % len(HATCHES)],
        "linewidth": 0,
    }


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the package within the context; the user's settings come back."""
    import matplotlib

    defaults: Any = matplotlib.rcParamsDefault
    looks: Any = {key: defaults[key] for key in defaults if key.partition(".")[0] in LOOKS}
    with matplotlib.rc_context(looks | STYLE):
        yield


def plain_log(axis: Any) -> None:
    """Label a logarithmic axis of few decades with plain numbers: 0.5, 1, 2, 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    if high > 1e3 * low:
        return
    subs = range(1, 10) if high < 3 * low else (1, 2, 3, 5) if high < 20 * low else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
