"""Pictures of activations: K and K̇ over the correlation, and correlations over depth."""

import os
from collections.abc import Sequence

import numpy as np

from ntk_numba import activations
from ntk_numba.activations import Activation
from ntk_numba.engine.dual import dual
from ntk_numba.plots.figure import new_figure
from ntk_numba.theory.criticality import correlation_map, critical_init

POINTS = 201
DEPTHS = 50
STARTS = np.array([-0.5, 0.0, 0.5, 0.9])  # correlations in the first layer


def plot_activations(
    which: Sequence[str | Activation], path: str | os.PathLike[str], *, q: float = 1.0
) -> None:
    """Draw K/K(1) and K̇/K̇(1) over ρ, and correlations over depth on the edge of chaos.

    Parameters
    ----------
    which : names of activations, or `Activation`s; each gets a colour
    path : a .png, .pdf or .svg file
    q : the variance of both samples

    Raises
    ------
    ValueError, OSError
        As for `new_figure`, or if an activation's dual cannot be computed at q.
    """
    figure = new_figure(path, width=11, height=3.6)
    left, middle, right = figure.subplots(1, 3)
    rho = np.cos(np.linspace(np.pi, 0, POINTS))
    for colour, given in enumerate(which):
        activation = activations.get(given)
        style = {"color": f"C{colour % 10}", "lw": 1.2}
        for axes, values in zip((left, middle), dual(activation, q, q, rho), strict=True):
            axes.plot(rho, values / (values[-1] or 1), label=activation.name, **style)
        try:
            w_std, b_std, fixed = critical_init(activation)
        except ValueError:
            continue  # it is nowhere critical with β = 0, so there is nothing to draw
        correlations = correlation_map(
            activation, STARTS, DEPTHS, w_std=w_std, b_std=b_std, q=fixed or q
        )
        right.plot(np.arange(1, DEPTHS + 1), correlations, **style)
    for axes, text in ((left, r"$K/K(1)$"), (middle, r"$\dot K/\dot K(1)$")):
        axes.set_xlabel(r"correlation $\rho$")
        axes.set_title(f"{text}, q = {q:g}", fontsize=9)
    left.legend(frameon=False, fontsize=8, ncols=1 + len(which) // 12)
    right.set_xlabel("layer")
    right.set_title("correlation on the edge of chaos, β = 0", fontsize=9)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
