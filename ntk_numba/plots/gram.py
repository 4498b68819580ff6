"""Pictures of Gram files: the matrix, and beside it the spectrum."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KernelName
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.inputs.labels import read_labels
from ntk_numba.plots.figure import new_figure
from ntk_numba.terminal import escaped

PIXELS = 1200  # the largest number of rows in the picture; larger matrices are thinned out
SPECTRUM = 3000  # the largest number of rows of which eigenvalues are computed, in a few seconds
# Matrices of at most EVEN rows of tiles are thinned out evenly. Of larger ones, RUNS runs of rows
# are taken, each from one row of tiles, so that a picture reads parts of RUNS² tiles and no more.
EVEN, RUNS = 16, 32


def plot_gram(
    file: GramFile,
    path: str | os.PathLike[str],
    *,
    kernel: KernelName | None = None,
    layer: int | None = None,
    labels: str | os.PathLike[str] | None = None,
) -> None:
    """Draw a kernel, and beside it its eigenvalues, or singular values if it is rectangular.

    Parameters
    ----------
    path : a .png, .pdf or .svg file
    kernel : "ntk" or "nngp"; by default "ntk" if the file has it
    layer : a layer from 1 to L, in a file of all layers; by default the last
    labels : a file with one label for each row, of a kind that `ntk_numba.gram` reads; rows are
        sorted by label

    Raises
    ------
    ValueError
        If the file does not have the kernel or layer, if the number of labels is not the number of
        rows, or if matplotlib is missing or does not know the ending of `path`.
    OSError
        If the folder of `path` or the file of labels cannot be used.
    """
    figure = new_figure(path, width=11, height=4.8)
    name = kernel or file.kernels[-1]
    if name not in file.kernels:
        raise InvalidValueError(f"{file.path} holds {', '.join(file.kernels)}, not {name}")
    depth = file.contents.depth
    first = 1 if file.contents.all_layers else depth
    if layer is not None and not first <= layer <= depth:
        known = f"1 to {depth}" if file.contents.all_layers else str(depth)
        raise InvalidValueError(f"layer must be {known} in this file, not {layer}")
    grid = file.contents.grid
    groups = None if labels is None else read_labels(labels, grid.rows)

    matrix, rows = _thinned(file, name, (layer or depth) - 1, groups, PIXELS)
    square, _ = _thinned(file, name, (layer or depth) - 1, None, SPECTRUM)
    if not (np.isfinite(matrix).all() and np.isfinite(square).all()):
        raise InvalidValueError(f"{file.path}: {name} has entries that are not finite; verify it")
    symmetric = grid.symmetric
    values = np.linalg.eigvalsh(square)[::-1] if symmetric else np.linalg.svd(square)[1]

    left, right = figure.subplots(1, 2)
    symbol = r"$\Theta_\infty$" if name == "ntk" else r"$\Sigma$"
    image = left.imshow(matrix, cmap="magma", interpolation="nearest")
    figure.colorbar(image, ax=left, shrink=0.85)
    sizes = f"{grid.rows:,} × {grid.columns:,}"
    left.set_title(f"{symbol}, {sizes}" + ("" if groups is None else ", sorted by label"))
    if groups is None:
        _number_ticks(left, rows, grid.columns, matrix.shape[1])
    else:
        _label_ticks(left, groups[rows], symmetric=symmetric)
    right.loglog(
        np.arange(1, len(values) + 1), np.maximum(values, np.finfo(float).tiny), ".-", ms=3
    )
    if values[0] > 0:
        right.set_ylim(max(values[0] * 1e-17, np.abs(values).min() / 2), values[0] * 2)
    quantity = "eigenvalue" if symmetric else "singular value"
    spaced = "evenly spaced" if grid.down <= EVEN else f"in {min(RUNS, grid.down)} runs"
    part = "" if len(square) == grid.rows else f" of {len(square):,} rows, {spaced}"
    right.set_title(f"{quantity.capitalize()}s{part}")
    right.set_xlabel("rank")
    right.set_ylabel(quantity)
    right.grid(alpha=0.3)
    figure.suptitle(str(file.net), fontsize=10)
    figure.savefig(path)


def _thinned(
    file: GramFile, name: str, layer: int, groups: NDArray[Any] | None, limit: int
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Read at most `limit` rows and columns; return them and the rows' numbers.

    groups : the label of each row, by which rows are sorted; None for the order of the file
    """
    dataset, grid = getattr(file, name), file.contents.grid
    rows = _picked(grid.rows, grid.tile, limit, groups)
    columns = rows if grid.symmetric else _picked(grid.columns, grid.tile, limit)
    down, down_at = np.unique(rows, return_inverse=True)  # read in the order of the file
    across, across_at = np.unique(columns, return_inverse=True)
    leading = (layer,) if file.contents.all_layers else ()
    matrix = np.asarray(dataset[(*leading, *np.ix_(down, across))], float)
    return matrix[np.ix_(down_at, across_at)], rows


def _picked(
    length: int, tile: int, limit: int, groups: NDArray[Any] | None = None
) -> NDArray[np.integer]:
    """Return the numbers of at most `limit` rows, sorted by their labels if they have any."""
    tiles = -(-length // tile)
    if tiles <= EVEN:
        order = np.arange(length) if groups is None else np.argsort(groups, kind="stable")
        return order[np.linspace(0, length - 1, min(limit, length)).astype(int)]
    runs = min(RUNS, tiles)
    each = min(limit // runs, tile)
    starts = np.minimum(np.linspace(0, tiles - 1, runs).astype(int) * tile, length - each)
    rows = (starts[:, None] + np.arange(each)).ravel()
    return rows if groups is None else rows[np.argsort(groups[rows], kind="stable")]


def _number_ticks(axes: Any, rows: NDArray[np.integer], columns: int, width: int) -> None:
    """Label at most five rows and columns with the numbers of their samples."""
    at = np.linspace(0, len(rows) - 1, min(5, len(rows))).astype(int)
    axes.set_yticks(at, [str(rows[k]) for k in at])
    across = np.linspace(0, width - 1, min(5, width)).astype(int)
    axes.set_xticks(across, [str(int(k * (columns - 1) / max(width - 1, 1))) for k in across])


def _label_ticks(axes: Any, labels: NDArray[Any], *, symmetric: bool) -> None:
    """Put each label's name at the middle of its rows; `labels` are sorted."""
    names, start, counts = np.unique(labels, return_index=True, return_counts=True)
    middle = start + counts / 2 - 0.5
    shown = [escaped(str(n)) for n in names]
    axes.set_yticks(middle, shown, parse_math=False)  # a dollar is a dollar
    if symmetric:
        axes.set_xticks(middle, shown, parse_math=False)
