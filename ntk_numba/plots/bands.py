"""Pictures of a regression in one dimension: the posterior as bands around its mean."""

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.containers import read_array
from ntk_numba.plots.figure import LARGEST, check_picture, first_bad, picture
from ntk_numba.plots.style import COLOURS, DASHES


def posterior(
    x: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    path: str | os.PathLike[str] | None = None,
    *,
    data: tuple[ArrayLike, ArrayLike] | None = None,
    samples: ArrayLike | None = None,
    title: str = "",
) -> Any:
    """Draw a posterior over one feature: the mean, and bands of one and two standard deviations.

    Under a Gaussian posterior, the bands hold 68 % and 95 % of the probability at each x.

    Parameters
    ----------
    x : array (M,) or (M, 1)
        The feature, in any order.
    mean, std : array (M,) or (M, 1)
        The mean and the standard deviation at x, in the units of the targets.
    path : str or path, optional
        A .png, .pdf or .svg file to write.
    data : (x, y), arrays (N,) or (N, 1), optional
        The training samples, drawn as points.
    samples : array (S, M), optional
        Functions drawn from the posterior, one in each row, at the same x.
    title : str
        Such as ``f"{g.net}"``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        If a shape does not fit, an entry is NaN, infinite or no real number, a standard deviation
        is negative, or matplotlib is missing or does not know the ending of `path`.
    OSError
        If the picture cannot be written.

    Examples
    --------
    >>> x = numpy.linspace(-3, 3, 50)
    >>> figure = ntk_numba.plots.posterior(x, numpy.sin(x), 0.1 + x**2 / 20, data=([0.0], [0.0]))
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['mean', '± 1 std', '± 2 std', 'data']
    """
    check_picture(path)
    at = _column("x", x)
    middle, spread = (_column(name, v, len(at)) for name, v in (("mean", mean), ("std", std)))
    if (spread < 0).any():
        k = int(np.argmax(spread < 0))
        raise InvalidValueError(f"std: row {k} is {spread[k]:g}; it must not be negative")
    drawn = None if samples is None else _functions(samples, len(at))
    if data is None:
        points = None
    else:
        if not isinstance(data, list | tuple) or len(data) != 2:
            raise InvalidValueError("data must be a pair, (x, y) of the training samples")
        seen = _column("x of data", data[0])
        points = seen, _column("y of data", data[1], len(seen))
    order = np.argsort(at, kind="stable")
    at, middle, spread = at[order], middle[order], spread[order]
    with picture(path) as figure:
        axes = figure.subplots()
        _draw_bands(axes, at, middle, spread)
        if drawn is not None:
            for k, values in enumerate(drawn[:, order]):
                style = {"color": "0.35", "linewidth": 0.7, "linestyle": DASHES[k % len(DASHES)]}
                axes.plot(at, values, **style, label="" if k else "samples")
        if points is not None:
            style = {"color": "black", "marker": "o", "linestyle": "none", "zorder": 4}
            axes.plot(*points, **style, label="data")
        axes.set_xlabel("x")
        axes.set_ylabel("output")
        axes.set_title(title, parse_math=False)
        figure.legend(loc="outside right upper")
    return figure


def _draw_bands(
    axes: Any,
    x: NDArray[np.float64],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
) -> None:
    """Draw the mean as a line, and bands whose edges differ by their dashes."""
    axes.plot(x, mean, color=COLOURS[0], label="mean", zorder=3)
    for width, alpha, dashes in ((1, 0.3, DASHES[1]), (2, 0.14, DASHES[2])):
        low, high = mean - width * std, mean + width * std
        face, edge = (COLOURS[0], alpha), (COLOURS[0], 0.8)
        style = {"facecolor": face, "edgecolor": edge, "linestyle": dashes, "linewidth": 0.8}
        axes.fill_between(x, low, high, **style, label=f"± {width} std")


def _column(name: str, values: Any, count: int | None = None) -> NDArray[np.float64]:
    """Return finite numbers, (M,), of an array (M,) or (M, 1).

    count : the number of them, that of the rows of x

    Raises
    ------
    ValueError, TypeError
        They have another shape, or one is not finite.
    """
    found = np.asarray(read_array(values, name), float)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or found.size == 0:
        shape = " × ".join(map(str, found.shape))
        several = f"; draw one output, such as {name}[:, 0]" if found.ndim == 2 else ""
        raise InvalidValueError(f"{name} must be one column of numbers, not {shape}{several}")
    if count is not None and len(found) != count:
        raise InvalidValueError(f"{name} has {len(found)} rows, and its x has {count}")
    _refuse_not_finite(name, found)
    return found


def _functions(samples: Any, count: int) -> NDArray[np.float64]:
    """Return samples of functions, (S, M)."""
    found = np.asarray(read_array(samples, "samples"), float)
    if found.ndim == 3 and found.shape[2] == 1:
        found = found[:, :, 0]
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != count:
        shape = " × ".join(map(str, found.shape))
        raise InvalidValueError(
            f"samples must have one function in each row, (S, {count}), not {shape}"
        )
    _refuse_not_finite("samples", found)
    return found


def _refuse_not_finite(name: str, values: NDArray[np.float64]) -> None:
    if bad := first_bad(values):
        raise InvalidValueError(
            f"{name}: row {bad[0]} has {values[bad]:g}; it must be finite, and at most {LARGEST:g}"
        )
