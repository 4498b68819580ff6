"""Pictures of Θ against the angle of two samples, for several widths.

They are like figure 1 of Jacot et al. 2018.
"""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import whole_number
from ntk_numba.compute.memory import gram
from ntk_numba.errors import InvalidValueError
from ntk_numba.finite_width.empirical import pooled_ntk
from ntk_numba.finite_width.monte_carlo import each_draw
from ntk_numba.finite_width.networks import (
    Parameters,
    layer_widths,
    pass_bytes,
    run_pass,
    seed_sequence,
)
from ntk_numba.network import MLP, check_network
from ntk_numba.plots.figure import check_picture, heading, picture
from ntk_numba.plots.style import band, line

ANGLES = 121
BAND = (10, 90)  # percentiles
EXACT = "Θ∞, exact"


def circle(radius: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return angles from −π to π, (A,), and the points at them on a circle in the plane, (A, 2)."""
    angles = np.linspace(-np.pi, np.pi, ANGLES)
    return angles, radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def angle(
    net: MLP,
    widths: Sequence[int],
    path: str | os.PathLike[str] | None = None,
    *,
    draws: int = 64,
    seed: int = 0,
    threads: int | None = None,
) -> Any:
    """Draw Θ(x0, x) of networks of several widths as bands around the exact curve.

    x0 and x have two features and lie on a circle with |x|²/n0 = 1, at angle 0 and γ. A band holds
    the middle 80 % of the draws.

    Parameters
    ----------
    net : MLP
        The network; see `ntk_numba.finite_width.monte_carlo` for `seed` and `threads` too.
    widths : sequence of int
        Widths of the hidden layers, one for each band.
    path : str or path, optional
        A .png, .pdf or .svg file to write.
    draws : int
        The number of networks of each width.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the networks do not fit in memory, in which case the text says how many bytes they would
        take; or if matplotlib is missing or does not know the ending of `path`.
    OSError
        If the picture cannot be written.

    Examples
    --------
    >>> figure = ntk_numba.plots.angle(ntk_numba.MLP(2), [32, 128], draws=8)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['n = 32', 'n = 128', 'Θ∞, exact']
    """
    check_picture(path)
    check_network(net)
    draws = whole_number("draws", draws)
    if not isinstance(widths, Iterable) or not (widths := list(widths)):
        raise InvalidValueError(f"widths must be a sequence of at least one width, not {widths!r}")
    angles, points = circle(math.sqrt(2))
    start = points[[ANGLES // 2]]

    def observe(params: Parameters) -> NDArray[np.float64]:
        return np.asarray(pooled_ntk(params, run_pass(params, start), run_pass(params, points))[0])

    drawn = []
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
        drawn.append(np.array(list(seen)))
    exact = gram(net, start, points, kernels="ntk", dtype="float64").ntk
    assert exact is not None
    with picture(path) as figure:
        axes, entries = figure.subplots(), {}
        for k, (width, values) in enumerate(zip(widths, drawn, strict=True)):
            low, high = np.percentile(values, BAND, axis=0)
            of_width = axes.fill_between(angles, low, high, **band(k))
            (mean,) = axes.plot(angles, values.mean(axis=0), **line(k))
            entries[f"n = {width:,}"] = (of_width, mean)  # the legend shows both, with the hatch
        entries[EXACT] = axes.plot(angles, exact[0], color="black", linewidth=1.2)[0]
        axes.legend(entries.values(), entries)
        axes.set_ylabel("Θ(x₀, x)")
        label_angles(axes)
        axes.set_title(
            f"Θ of {heading(net)}\nmean and middle 80 % of {draws} networks", parse_math=False
        )
    return figure


def label_angles(axes: Any) -> None:
    """Label axes over the angles of `circle`."""
    axes.set_xlabel("angle γ")
    axes.set_xticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
