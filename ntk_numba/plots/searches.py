"""Pictures of a search for hyperparameters: the evidence over depth and σ_w."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.arguments import whole_number
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.containers import read_array
from ntk_numba.plots.figure import check_picture, picture
from ntk_numba.plots.style import line, plain_log

OBJECTIVES = {
    "evidence": "log marginal likelihood",
    "loo": "leave-one-out log predictive density",
}
FIELDS = "depth", "w_std", "value"
LABELS = {"none": "no activation"}  # of networks of depth 1
LOW = 25  # the percentile of the values where colours begin, since bad networks are very bad


class Found(NamedTuple):
    """A network that was tried.

    w_std : the geometric mean over the layers
    value : the objective; not finite if it could not be computed
    """

    activation: str
    depth: int
    w_std: float
    value: float


def evidence(
    values: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    depths: Sequence[int] | None = None,
    w_std: ArrayLike | None = None,
    name: str | None = None,
) -> Any:
    """Draw the evidence, or another objective, over the depth and σ_w of networks.

    On the left, colours show the values over σ_w and the depth, and a star the best network. Where
    many values are far below the best, colours begin above the lowest, and the bar of colours ends
    in an arrow. On the right is the best value of each depth, with a line for each activation.
    Values that are NaN or infinite, such as those of matrices that are not positive definite, are
    left out.

    Parameters
    ----------
    values : array (D, S), or the result of `ntk_numba.fit_hyperparameters`, or its table
        A grid has a row for each depth and a column for each σ_w. A table is a sequence of rows,
        objects or mappings, or a data frame, with ``depth``, ``w_std``, ``value`` and, if they
        differ, ``activation``; if a row has several ``w_std``, their geometric mean is drawn. Of a
        result, the starts that it screened are drawn too.
    path : str or path, optional
        A .png, .pdf or .svg file to write.
    depths : sequence of D int, optional
        The depths of a grid, by default 1 to D.
    w_std : array (S,)
        σ_w of a grid's columns.
    name : str, optional
        The name of the values, by default that of the result's objective, or "log marginal
        likelihood".

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        If no value is finite, a shape does not fit, a row lacks a field, or matplotlib is missing
        or does not know the ending of `path`.
    OSError
        If the picture cannot be written.

    Examples
    --------
    >>> w_std = numpy.array([1.0, 1.4, 2.0])
    >>> values = -((w_std - 1.4) ** 2) - numpy.array([[3.0], [1.0], [2.0]])
    >>> figure = ntk_numba.plots.evidence(values, depths=[1, 2, 4], w_std=w_std)
    >>> figure.get_suptitle()
    'best: depth 2, σ_w 1.4, log marginal likelihood -1'
    """
    check_picture(path)
    name = name or OBJECTIVES.get(getattr(values, "objective", ""), OBJECTIVES["evidence"])
    if isinstance(values, np.ndarray) or depths is not None or w_std is not None:
        grid = _grid(values, depths, w_std)
        found = _of_grid(*grid)
    else:
        grid = None
        found = _rows(getattr(values, "table", values))
    good = [row for row in found if np.isfinite(row.value)]
    if not good:
        raise InvalidValueError("values: none is finite, so that there is nothing to draw")
    screened = _rows(getattr(values, "screened", []))
    best = max(good, key=lambda row: row.value)
    with picture(path, width=10, height=4.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        limits = _limits([row.value for row in good], [row.value for row in screened])
        if grid is not None:
            image = _draw_grid(left, *grid, limits)
        else:
            image = _draw_rows(left, good, screened, limits)
        below = min(row.value for row in (*good, *screened)) < limits[0]
        figure.colorbar(image, ax=left, extend="min" if below else "neither")
        left.set_title(f"{name} over σ_w and depth")
        _draw_depths(right, good, name)
        _legend(figure, left, right)
        which = f"{best.activation}, " * (len({r.activation for r in good}) > 1 < best.depth)
        text = f"best: {which}depth {best.depth}, σ_w {best.w_std:.4g}, {name} {best.value:.6g}"
        figure.suptitle(text, parse_math=False)
    return figure


def _grid(
    values: Any, depths: Sequence[int] | None, w_std: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]]:
    """Return the values of a grid, its depths and its σ_w, both in rising order."""
    grid = np.asarray(read_array(values, "values"), float)
    if grid.ndim != 2 or grid.size == 0:
        raise InvalidValueError(
            f"values must be a grid, depths × w_std, not {' × '.join(map(str, grid.shape))}"
        )
    if w_std is None:
        raise InvalidValueError("w_std is missing; give the σ_w of the columns of values")
    given = range(1, len(grid) + 1) if depths is None else np.ravel(depths)
    down = np.array([whole_number("depths", depth) for depth in given])
    across = np.asarray(read_array(w_std, "w_std"), float)
    for what, found, count in (("depths", down, len(grid)), ("w_std", across, grid.shape[1])):
        if found.shape != (count,):
            shape = " × ".join(map(str, found.shape))
            raise InvalidValueError(f"{what} has the shape {shape}; values has {count} of them")
        if len(np.unique(found)) < count:
            raise InvalidValueError(f"{what} has a number twice")
        if not (np.isfinite(found) & (found >= 0)).all():
            raise InvalidValueError(f"{what} must be finite and not negative")
    rows, columns = np.argsort(down), np.argsort(across)
    return grid[np.ix_(rows, columns)], down[rows], across[columns]


def _of_grid(
    grid: NDArray[np.float64], depths: NDArray[Any], w_std: NDArray[np.float64]
) -> list[Found]:
    return [
        Found("", int(depths[i]), float(w_std[j]), float(v)) for (i, j), v in np.ndenumerate(grid)
    ]


def _rows(table: Any) -> list[Found]:
    """Return the rows of a table.

    Raises
    ------
    ValueError, TypeError
        It is no table, or a row lacks a field.
    """
    if hasattr(table, "to_dict"):
        table = table.to_dict("records")  # of a data frame of pandas
    elif hasattr(table, "to_dicts"):
        table = table.to_dicts()  # of one of polars
    if not isinstance(table, Sequence) or isinstance(table, str):
        raise InvalidTypeError(
            "values must be a grid of numbers, a result of fit_hyperparameters, or a sequence of "
            f"rows with {', '.join(FIELDS)}, not {type(table).__name__}"
        )
    rows = []
    for k, row in enumerate(table):
        get = row.get if isinstance(row, Mapping) else partial(_attribute, row)
        depth, w_std, value = (get(field, None) for field in FIELDS)
        if depth is None or w_std is None or value is None or np.size(w_std) == 0:
            raise InvalidValueError(f"values: row {k} lacks one of {', '.join(FIELDS)}")
        try:
            each = np.atleast_1d(np.asarray(w_std, float))
            mean = np.exp(np.log(each).mean()) if (each > 0).all() else each.mean()
            whole = whole_number("depth", int(depth) if float(depth).is_integer() else depth)
            found = Found(str(get("activation", "")), whole, float(mean), float(value))
        except (TypeError, ValueError) as error:
            raise InvalidValueError(f"values: row {k} has no numbers: {error}") from None
        if not np.isfinite(found.w_std):
            raise InvalidValueError(f"values: row {k} has the w_std {w_std}; it must be finite")
        rows.append(found)
    return rows


def _attribute(row: Any, name: str, default: Any) -> Any:
    return getattr(row, name, default)


def _limits(values: Sequence[float], starts: Sequence[float]) -> tuple[float, float]:
    """Return the values at which colours begin and end.

    The results of a search are much alike, and its starts are not, so that colours between both
    would show the starts only.
    """
    found, every = np.array(values), np.array([v for v in (*values, *starts) if np.isfinite(v)])
    lowest, best = every.min(), every.max()
    low = np.percentile(found, LOW)
    if starts:
        low = best - 4 * (best - found.min())
    if low <= lowest or (not starts and best - low > 0.05 * (best - lowest)) or low == best:
        low = lowest  # all values can be told apart
    return (float(low), float(best)) if low < best else (float(low) - 1, float(best) + 1)


def _is_log(w_std: NDArray[np.float64]) -> bool:
    return bool(w_std.min() > 0 and w_std.max() > 4 * w_std.min())


def _edges(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the borders of the cells around increasing numbers."""
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])


def _draw_grid(
    axes: Any,
    grid: NDArray[np.float64],
    depths: NDArray[Any],
    w_std: NDArray[np.float64],
    limits: tuple[float, float],
) -> Any:
    """Draw a grid as cells; cells of equal height stand for depths."""
    log = _is_log(w_std)
    across = np.exp(_edges(np.log(w_std))) if log else _edges(w_std)
    down = np.arange(len(depths) + 1) - 0.5
    shown = np.ma.masked_invalid(grid)
    image = axes.pcolormesh(across, down, shown, vmin=limits[0], vmax=limits[1], cmap="viridis")
    axes.set_facecolor("0.85")
    axes.grid(visible=False)
    row, column = np.unravel_index(np.argmax(shown.filled(-np.inf)), grid.shape)
    _star(axes, float(w_std[column]), int(row))
    _label_plane(axes, depths, log=log)
    return image


def _draw_rows(
    axes: Any, rows: Sequence[Found], screened: Sequence[Found], limits: tuple[float, float]
) -> Any:
    """Draw the networks that were tried: small points for starts, large ones for the results."""
    depths = np.unique([row.depth for row in (*rows, *screened)])
    names = list(dict.fromkeys(row.activation for row in rows))
    every = [row for row in (*screened, *rows) if np.isfinite(row.value)]
    image = None
    best = max(rows, key=lambda row: row.value)
    if screened:
        dot = {"marker": "o", "markersize": 3, "color": "0.4", "linestyle": "none"}
        axes.plot([], [], **dot, label="start of the search")
    for chosen, size, edge in (
        ([r for r in screened if np.isfinite(r.value)], 14, "none"),
        (rows, 60, "black"),
    ):
        for k, name in enumerate(names):
            of_name = [r for r in chosen if r.activation == name]
            if of_name:
                image = axes.scatter(
                    [r.w_std for r in of_name],
                    [_height(r, depths, names) for r in of_name],
                    c=[r.value for r in of_name],
                    s=size,
                    marker=line(k, marker=True)["marker"],
                    edgecolors=edge,
                    linewidths=0.8,
                    vmin=limits[0],
                    vmax=limits[1],
                    cmap="viridis",
                )
    _star(axes, best.w_std, _height(best, depths, names))
    _label_plane(axes, depths, log=_is_log(np.array([row.w_std for row in every])))
    return image


def _height(row: Found, depths: NDArray[Any], names: Sequence[str]) -> float:
    """Return the height of a row's point: activations of one depth stand above each other."""
    shift = (names.index(row.activation) + 1) / (len(names) + 1) - 0.5
    return float(np.searchsorted(depths, row.depth) + 0.6 * shift)


def _star(axes: Any, x: float, y: float) -> None:
    style = {"marker": "*", "markersize": 13, "color": "white", "markeredgecolor": "black"}
    axes.plot([x], [y], linestyle="none", label="best", **style, zorder=5)


def _label_plane(axes: Any, depths: NDArray[Any], *, log: bool) -> None:
    axes.set_xlabel("σ_w")
    axes.set_ylabel("depth")
    axes.set_ylim(-0.5, len(depths) - 0.5)
    some = np.unique(np.linspace(0, len(depths) - 1, min(len(depths), 15)).astype(int))
    axes.set_yticks(some, [str(depths[k]) for k in some])
    if log:
        axes.set_xscale("log")
        plain_log(axes.xaxis)


def _draw_depths(axes: Any, rows: Sequence[Found], name: str) -> None:
    """Draw the best value of each depth, with a line for each activation."""
    names = list(dict.fromkeys(row.activation for row in rows))
    for k, activation in enumerate(names):
        of_name = [row for row in rows if row.activation == activation]
        depths = sorted({row.depth for row in of_name})
        best = [max(row.value for row in of_name if row.depth == depth) for depth in depths]
        axes.plot(depths, best, **line(k, marker=True), label=LABELS.get(activation, activation))
    axes.set_title("best of each depth")
    axes.set_xlabel("depth")
    axes.set_ylabel(name)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(figure: Any, left: Any, right: Any) -> None:
    """Name the activations, whose markers are the same on both sides, the best and the starts."""
    handles = [*left.lines, *(h for h in right.lines if not h.get_label().startswith("_"))]
    legend = figure.legend(handles=handles, loc="outside right upper")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may have dollars
