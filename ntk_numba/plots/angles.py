"""Pictures of Θ against the angle of two samples, for several widths.

They are like figure 1 of Jacot et al. 2018.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compute.memory import gram
from ntk_numba.finite_width.empirical import pooled_ntk
from ntk_numba.finite_width.monte_carlo import each_draw
from ntk_numba.finite_width.networks import (
    Parameters,
    layer_widths,
    pass_bytes,
    run_pass,
    seed_sequence,
)
from ntk_numba.network import MLP
from ntk_numba.plots.figure import new_figure

ANGLES = 121
BAND = (10, 90)  # percentiles


def circle(radius: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return angles from −π to π, (A,), and the points at them on a circle in the plane, (A, 2)."""
    angles = np.linspace(-np.pi, np.pi, ANGLES)
    return angles, radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def plot_angle(
    net: MLP,
    path: str | os.PathLike[str],
    widths: Sequence[int],
    *,
    draws: int = 64,
    seed: int = 0,
    threads: int | None = None,
) -> None:
    """Draw Θ(x0, x) of networks of several widths as bands around the exact curve.

    x0 and x have two features and lie on a circle with |x|²/n0 = 1, at angle 0 and γ. A band holds
    the middle 80 % of the draws.

    Parameters
    ----------
    path : a .png, .pdf or .svg file
    widths : widths of the hidden layers, one for each band
    draws : the number of networks of each width
    net, seed, threads : see `ntk_numba.finite_width.monte_carlo`

    Raises
    ------
    ValueError, OSError
        As for `new_figure`, or if the networks do not fit in memory; the message says how many
        bytes they would take.
    """
    figure = new_figure(path)
    angles, points = circle(math.sqrt(2))
    start = points[[ANGLES // 2]]

    def observe(params: Parameters) -> NDArray[np.float64]:
        return np.asarray(pooled_ntk(params, run_pass(params, start), run_pass(params, points))[0])

    axes = figure.subplots()
    for k, width in enumerate(widths):
        shape = layer_widths(net, 2, width)
        seen = each_draw(
            observe,
            net,
            shape,
            draws=draws,
            seed=seed_sequence(seed, (k,)),
            threads=threads,
            dtype=np.dtype(float),
            fixed=8 * draws * ANGLES,
            each=2 * pass_bytes(shape, ANGLES),
        )
        drawn = np.array(list(seen))
        low, high = np.percentile(drawn, BAND, axis=0)
        axes.fill_between(angles, low, high, color=f"C{k}", alpha=0.25, lw=0)
        axes.plot(angles, drawn.mean(axis=0), color=f"C{k}", lw=1, label=f"n = {width:,}")
    exact = gram(net, start, points, kernels="ntk", dtype="float64").ntk
    assert exact is not None
    axes.plot(angles, exact[0], "k--", lw=1.2, label=r"$\Theta_\infty$, exact")
    axes.set_ylabel(r"$\Theta(x_0, x)$")
    axes.set_title(f"{net}\nmean and middle 80 % of {draws} networks", fontsize=9)
    finish(figure, axes, path)


def finish(figure: Any, axes: Any, path: str | os.PathLike[str]) -> None:
    """Label axes over the angles of `circle`, and save the figure."""
    axes.set_xlabel(r"angle $\gamma$")
    axes.set_xticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
