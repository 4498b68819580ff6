"""Pictures of activations: K and K̇ over the correlation, and correlations over depth."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations import Activation, table
from ntk_numba.engine.dual import dual
from ntk_numba.errors import InvalidValueError
from ntk_numba.plots.figure import check_picture, picture
from ntk_numba.plots.style import line
from ntk_numba.theory.criticality import correlation_map, critical_init

POINTS = 201
DEPTHS = 50
STARTS = np.array([-0.5, 0.0, 0.5, 0.9])  # correlations in the first layer


def activations(
    which: Sequence[str | Activation],
    path: str | os.PathLike[str] | None = None,
    *,
    q: float = 1.0,
) -> Any:
    """Draw K/K(1) and K̇/K̇(1) over ρ, and correlations over depth on the edge of chaos.

    Parameters
    ----------
    which : sequence of str or Activation
        Each activation has a line of its own colour and dashes.
    path : str or path, optional
        A .png, .pdf or .svg file to write.
    q : float
        The variance of both samples.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If an activation is unknown, its dual cannot be computed at q, or matplotlib is missing or
        does not know the ending of `path`.
    OSError
        If the picture cannot be written.

    Examples
    --------
    >>> figure = ntk_numba.plots.activations(["relu", "erf"])
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['relu', 'erf']
    """
    check_picture(path)
    given = [which] if isinstance(which, str | Activation) or which is None else which
    chosen = [table.get(activation) for activation in given]
    if not chosen:
        raise InvalidValueError("which is empty; name an activation to draw")
    rho = np.cos(np.linspace(np.pi, 0, POINTS))
    duals = [dual(activation, q, q, rho) for activation in chosen]
    depths = [_correlations(activation, q) for activation in chosen]
    with picture(path, width=11, height=3.6) as figure:
        left, middle, right = figure.subplots(1, 3)
        for k, activation in enumerate(chosen):
            for axes, values in zip((left, middle), duals[k], strict=True):
                axes.plot(rho, values / (values[-1] or 1), **line(k), label=activation.name)
            if (correlations := depths[k]) is not None:
                right.plot(np.arange(1, DEPTHS + 1), correlations, **line(k))
        for axes, text in ((left, r"$K/K(1)$"), (middle, r"$\dot K/\dot K(1)$")):
            axes.set_xlabel(r"correlation $\rho$")
            axes.set_title(f"{text}, q = {q:g}")
        right.set_xlabel("layer")
        right.set_title("correlation on the edge of chaos, β = 0")
        legend = figure.legend(handles=list(left.lines), loc="outside right upper")
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _correlations(activation: Activation, q: float) -> NDArray[np.float64] | None:
    """Return correlations over depth, or None if nothing is critical with β = 0."""
    try:
        w_std, b_std, fixed = critical_init(activation)
    except ValueError:
        return None
    return correlation_map(activation, STARTS, DEPTHS, w_std=w_std, b_std=b_std, q=fixed or q)
