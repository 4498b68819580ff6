"""Pictures of spectra: the eigenvalues of a kernel, or its singular values."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.arguments import KernelName
from ntk_numba.errors import InvalidValueError
from ntk_numba.plots.figure import check_picture, heading, picture
from ntk_numba.plots.leading import WIDTH, draw_leading, panels_of
from ntk_numba.plots.shown import Shown, read_values, shown
from ntk_numba.plots.style import line, plain_log

if TYPE_CHECKING:
    from ntk_numba.network import MLP

LARGEST = 3000  # rows of which eigenvalues are computed, in a few seconds
FLOOR = 1e-20  # of the largest value: smaller ones are not drawn
MARKED = 200  # the largest number of values that are drawn as points on the line


def spectrum(
    matrix: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    kernel: KernelName | None = None,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    net: "MLP | None" = None,
    targets: ArrayLike | None = None,
) -> Any:
    """Draw the eigenvalues of a kernel by their rank, or singular values of a rectangular one.

    Both axes are logarithmic. Negative eigenvalues, which are rounding errors or a sign that the
    matrix is no kernel, are drawn by their absolute values, as hollow squares. A dotted line is at
    ε·λ₁, where ε is the machine epsilon of the entries: smaller eigenvalues are rounding errors.

    Parameters
    ----------
    matrix : array (K,), or what `ntk_numba.plots.gram` takes
        One-dimensional values, in any order, are drawn as they are. Of a matrix of more than 3,000
        rows, the eigenvalues of 3,000 rows and columns are computed, and the title says so; to
        draw all, pass ``numpy.linalg.eigvalsh(K)``. What `ntk_numba.spectrum` returns is drawn with
        the effective dimension over the ridge, and two standard errors of it.
    path : str or path, optional
        A .png, .pdf or .svg file to write.
    kernel, layer, layers, net
        See `ntk_numba.plots.gram`.
    targets : (N,) or (N, n_out), optional
        Also draw their shares along the eigenvectors that `ntk_numba.spectrum` has found.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError, OSError
        As for `ntk_numba.plots.gram`.

    Examples
    --------
    >>> net = ntk_numba.MLP(3, b_std=0.1)
    >>> X = numpy.random.default_rng(0).standard_normal((50, 8))
    >>> figure = ntk_numba.plots.spectrum(ntk_numba.gram(net, X), net=net)
    >>> figure.axes[0].get_title()
    'Θ∞: eigenvalues'
    """
    check_picture(path)
    if hasattr(matrix, "effective_dimension"):  # a Spectrum, without importing its class
        width = WIDTH * panels_of(targets)
        with picture(path, width=width, height=3.4) as figure:
            draw_leading(figure, matrix, targets)
            figure.suptitle(heading(net), parse_math=False)
        return figure
    if targets is not None:
        raise InvalidValueError("targets are drawn with the result of ntk_numba.spectrum only")
    given = read_values(matrix)
    if given is not None:
        with picture(path) as figure:
            draw_spectrum(figure.subplots(), given, "eigenvalue", "eigenvalues")
        return figure
    with shown(matrix, kernel=kernel, layer=layer, layers=layers, net=net) as what:
        values, quantity, part = values_of(what)
        with picture(path) as figure:
            title = f"{what.title}: {quantity}s{part}"
            draw_spectrum(figure.subplots(), values, quantity, title, what.dtype)
            figure.suptitle(heading(what.net), parse_math=False)
    return figure


def values_of(what: Shown) -> tuple[NDArray[np.floating], str, str]:
    """Return the eigenvalues or singular values of a matrix, falling, their name, and of what part.

    Raises
    ------
    ValueError
        An entry is NaN or infinite.
    """
    block, rows, _ = what.thinned(LARGEST)
    if what.symmetric:
        values, quantity = np.linalg.eigvalsh(block)[::-1], "eigenvalue"
    else:
        values, quantity = np.linalg.svd(block, compute_uv=False), "singular value"
    thin = len(rows) < what.rows
    return values, quantity, f" of {len(rows):,} rows, {what.spacing}" if thin else ""


def draw_spectrum(
    axes: Any,
    values: NDArray[np.floating],
    quantity: str,
    title: str,
    dtype: np.dtype | None = None,
) -> None:
    """Draw values over their ranks.

    quantity : their name
    dtype : the type of the matrix, for the line of rounding errors
    """
    axes.set_title(title)
    axes.set_xlabel("rank")
    axes.set_ylabel(quantity)
    order = np.argsort(-np.abs(values), kind="stable")
    values, rank = values[order], np.arange(1, len(values) + 1)
    largest = abs(values[0])
    if len(values) < 10:
        axes.set_xticks(rank)
    if largest == 0:
        axes.plot(rank, values, **line(0, marker=True), label=f"all {quantity}s are 0")
        axes.legend()
        return
    drawn = np.abs(values) > FLOOR * largest
    above, below = drawn & (values > 0), drawn & (values < 0)
    axes.set_yscale("log")
    if len(values) >= 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    marks = {"marker": "o", "markersize": 2.5} if len(values) <= MARKED or below.any() else {}
    style = line(0) | marks | ({"linestyle": "none"} if below.any() else {})
    axes.plot(rank[above], values[above], **style, label="positive")
    if below.any():
        hollow = {"color": line(1)["color"], "marker": "s", "fillstyle": "none"}
        count = f"{np.count_nonzero(values < 0):,} negative, absolute value"
        axes.plot(rank[below], -values[below], **hollow, linestyle="none", label=count)
    smallest = np.abs(values[drawn]).min()
    if dtype is not None and dtype.kind == "f":
        rounding = np.finfo(dtype).eps * largest
        if rounding > smallest / 10:
            text = f"ε·λ₁ of {dtype}, rounding"
            axes.axhline(rounding, color="0.35", linestyle=":", linewidth=1, label=text)
    if hidden := np.count_nonzero(~drawn):
        axes.plot([], [], linestyle="none", label=f"{hidden:,} of less than {FLOOR:g} λ₁ not drawn")
    if len(axes.lines) > 1:
        axes.legend()
    axes.set_ylim(smallest / 2 or smallest, largest * 2)
    plain_log(axes.yaxis)
