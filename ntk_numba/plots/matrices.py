"""Pictures of kernels: the matrix, and beside it the spectrum."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KernelName
from ntk_numba.errors import InvalidValueError
from ntk_numba.plots.figure import check_picture, heading, picture
from ntk_numba.plots.shown import Shown, read_groups, shown
from ntk_numba.plots.spectra import draw_spectrum, values_of
from ntk_numba.plots.style import plain_log
from ntk_numba.terminal import escaped

if TYPE_CHECKING:
    from ntk_numba.network import MLP

Scale = Literal["linear", "normalized", "log", "clipped"]
SCALES = "linear", "normalized", "log", "clipped"
CLIP = (1, 99)  # percentiles of the entries at which the colours of "clipped" end
SMALLEST = 1e-150  # the least magnitude of the largest entry: matplotlib takes 1e-287 for 0
PIXELS = 1200  # the largest number of rows in the picture; larger matrices are thinned out
NAMES = 25  # the largest number of labels that are written beside the rows


def gram(
    matrix: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    scale: Scale = "linear",
    kernel: KernelName | None = None,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    labels: Any = None,
    net: "MLP | None" = None,
    spectrum: bool = True,
) -> Any:
    """Draw a kernel, and beside it its eigenvalues, or singular values if it is rectangular.

    The title names the kernel and, if there are several layers, the layer; above it stands the
    network of that layer. Of a matrix of more than 1,200 rows, 1,200 are drawn, of which a large
    file is read only in part.

    Parameters
    ----------
    matrix : GramFile, Gram, array (N, M) or (L, N, M), or path
        A path is that of a Gram file, or of a data file with a matrix, as for `ntk_numba.gram`
        (``K.npy``, ``K.npz:key``, ``K.h5:dataset``). A matrix in memory is taken as symmetric, K
        of one data set with itself, if it equals its transpose up to rounding.
    path : str or path, optional
        A .png, .pdf or .svg file to write.
    scale : "linear", "normalized", "log" or "clipped"
        What the colours show: the entries; the cosines K(x,x')/√(K(x,x)·K(x',x')), for a symmetric
        matrix with a positive diagonal; the logarithm of the entries, which have to be positive;
        or the entries with colours that end at the 1st and 99th percentile, so that a few large
        entries, such as the diagonal, do not take all colours. The spectrum is that of K itself.
    kernel : "ntk" or "nngp", optional
        The kernel to draw, by default the NTK if it is there. Of an array, it is used in the title
        only.
    layer : int, optional
        The layer to draw, if there are several; by default the last.
    layers : sequence of int, optional
        The numbers of the layers of an array (L, N, M), as they were given to `ntk_numba.gram`, by
        default 1 to L.
    labels : array (N,) or path, optional
        One label for each row; rows, and columns of a symmetric matrix, are sorted by label.
    net : MLP, optional
        The network, for the title. A Gram file knows its own.
    spectrum : bool
        Whether to draw the spectrum; see `ntk_numba.plots.spectrum`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the kernel or layer is not there, an entry is NaN or infinite, the matrix is empty, the
        scale does not fit the entries, the number of labels is not the number of rows, or
        matplotlib is missing or does not know the ending of `path`.
    TypeError
        If the matrix does not hold real numbers.
    OSError
        If a file cannot be read, or the picture cannot be written.

    Examples
    --------
    >>> net = ntk_numba.MLP(3, b_std=0.1)
    >>> X = numpy.random.default_rng(0).standard_normal((50, 8))
    >>> k = ntk_numba.gram(net, X, layers="all")
    >>> figure = ntk_numba.plots.gram(k, layer=2, net=net, scale="normalized")
    >>> figure.axes[0].get_title()
    'Θ∞ of layer 2 of 3, 50 × 50'
    >>> figure.get_suptitle()
    'depth 2, activation relu, w_std 1, b_std 0.1'
    """
    check_picture(path)
    if scale not in SCALES:
        raise InvalidValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    with shown(matrix, kernel=kernel, layer=layer, layers=layers, net=net) as what:
        groups = read_groups(labels, what.rows)
        block, rows, columns = what.thinned(PIXELS, groups)
        values = values_of(what) if spectrum else None
        if scale == "normalized":
            block = _cosines(block, what, rows)
        colours = _colours(block, scale, what, rows, columns)
    with picture(path, width=11 if spectrum else 6, height=4.8) as figure:
        left, *right = figure.subplots(1, 1 + spectrum, squeeze=False)[0]
        _draw(left, block, colours)
        if groups is None:
            _number_ticks(left, rows, columns)
        else:
            _label_ticks(left, groups[rows], columns, symmetric=what.symmetric)
        order = "" if groups is None else ", sorted by label"
        left.set_title(f"{what.title}, {what.rows:,} × {what.columns:,}{order}")
        if values is not None:
            found, quantity, part = values
            title = f"{quantity.capitalize()}s{part}"
            draw_spectrum(right[0], found, quantity, title, what.dtype)
        figure.suptitle(heading(what.net), parse_math=False)
    return figure


class Colours(NamedTuple):
    """How entries become colours: the limits, whether between their logarithms, and the label."""

    low: float
    high: float
    log: bool
    extend: str
    label: str


def _cosines(
    block: NDArray[np.float64], what: Shown, rows: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return K(x,x')/√(K(x,x)·K(x',x')).

    Raises
    ------
    ValueError
        The matrix is not symmetric, or an entry on its diagonal is not positive.
    """
    if not what.symmetric:
        raise InvalidValueError(
            f"{what.name}: scale='normalized' divides by the diagonal, and this is no symmetric "
            f"matrix of one data set with itself; take another scale"
        )
    diagonal = np.diagonal(block)
    if not (diagonal > 0).all():
        k = int(np.argmin(diagonal > 0))
        raise InvalidValueError(
            f"{what.name}: scale='normalized' divides by the square root of the diagonal, which "
            f"is {diagonal[k]:g} in row {rows[k]}; take another scale"
        )
    root = np.sqrt(diagonal)
    return block / root[:, None] / root


def _colours(
    block: NDArray[np.float64],
    scale: str,
    what: Shown,
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
) -> Colours:
    """Return the limits of the colours.

    Raises
    ------
    ValueError
        An entry has no logarithm.
    """
    low, high = float(block.min()), float(block.max())
    extend, label = "neither", "entry"
    if scale == "log":
        if low < np.finfo(float).tiny:
            i, j = np.unravel_index(np.argmin(block), block.shape)
            raise InvalidValueError(
                f"{what.name}: scale='log' takes positive entries, and that of row {rows[i]}, "
                f"column {columns[j]} is {low:g}; take 'clipped' or 'normalized'"
            )
        label = "entry, logarithmic"
    elif scale == "normalized":
        label = "cosine, K(x, x′)/√(K(x, x)·K(x′, x′))"
    elif scale == "clipped":
        label = f"entry, colours end at the {CLIP[0]}st and {CLIP[1]}th percentile"
        ends = [float(p) for p in np.percentile(block, CLIP)]
        if ends[0] < ends[1]:
            extend = _extend(ends[0] > low, ends[1] < high)
            low, high = ends
    if 0 < (most := max(-low, high)) < SMALLEST:
        raise InvalidValueError(
            f"{what.name}: the largest entry is {most:g}, too small for a bar of colours; multiply "
            f"the matrix by a number"
        )
    if high - low <= 1e-12 * abs(high):  # constant up to rounding: one colour, in the middle
        low, high = (low / 2, high * 2) if low > 0 else (high - abs(high) - 1, high + abs(high) + 1)
    return Colours(low, high, scale == "log", extend, label)


def _extend(below: bool, above: bool) -> str:
    """Return the name of the arrows at the ends of a bar of colours."""
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
        (below, above), "both"
    )


def _draw(axes: Any, block: NDArray[np.float64], colours: Colours) -> None:
    """Draw a matrix with a bar of its colours."""
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if colours.log else Normalize)(colours.low, colours.high)
    flat = max(block.shape) > 3 * min(block.shape)  # square pixels would make a strip of it
    image = axes.imshow(block, norm=norm, aspect="auto" if flat else "equal")
    bar = axes.figure.colorbar(
        image, ax=axes, shrink=0.85, extend=colours.extend, label=colours.label
    )
    if colours.log:
        plain_log(bar.ax.yaxis)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("sample of the row")
    axes.set_xlabel("sample of the column")


def _number_ticks(axes: Any, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> None:
    """Label at most five rows and columns with the numbers of their samples."""
    for numbers, put in ((rows, axes.set_yticks), (columns, axes.set_xticks)):
        at = np.linspace(0, len(numbers) - 1, min(5, len(numbers))).astype(int)
        put(at, [str(numbers[k]) for k in at])


def _label_ticks(
    axes: Any, labels: NDArray[Any], columns: NDArray[np.integer], *, symmetric: bool
) -> None:
    """Put each label's name at the middle of its rows; `labels` are sorted."""
    names, start, counts = np.unique(labels, return_index=True, return_counts=True)
    some = np.unique(np.linspace(0, len(names) - 1, min(NAMES, len(names))).astype(int))
    middle = (start + counts / 2 - 0.5)[some]
    texts = [escaped(str(n)) for n in names[some]]
    _number_ticks(axes, columns, columns)
    axes.set_yticks(middle, texts, parse_math=False)  # a dollar is a dollar
    axes.set_ylabel("label of the row")
    if symmetric:
        axes.set_xticks(middle, texts, parse_math=False)
        axes.set_xlabel("label of the column")
