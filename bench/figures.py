"""The pictures after figures 1 and 2 of Jacot et al. 2018, section 6: L = 4, ReLU, β = 0.1.

Figure 1 shows Θ(x0, x) on the unit circle, at the start and after training, of networks of two
widths. Figure 2 shows trained networks of two widths, and percentiles of the limit's distribution.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

import ntk_numba as nk
from bench.report import section
from bench.training import at_once
from ntk_numba import finite_width as fw
from ntk_numba.plots.angles import circle, label_angles
from ntk_numba.plots.figure import picture
from ntk_numba.plots.style import COLOURS, DASHES, line

NET = nk.MLP(4, "relu", 1.0, 0.1)
DOCS = Path(__file__).parent.parent / "docs"
DRAWS, RATE = 10, 1.0
KERNEL_WIDTHS, KERNEL_STEPS, INPUTS = (500, 10_000), 200, 64
FUNCTION_WIDTHS, FUNCTION_STEPS, POINTS = (50, 1000), 1000, 4


def figure1() -> str:
    """Draw Θ before and after training.

    The dtype is float32, since a network has two matrices of 10,000².
    """
    began = time.perf_counter()
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((INPUTS, 2)).astype("float32")
    targets = inputs[:, 0] * inputs[:, 1]
    angles, points = circle(1.0)
    start = points[[len(points) // 2]]

    def kernels(width: int, seed: int) -> list[np.ndarray]:
        params = fw.sample(NET, 2, width, seed=seed, dtype="float32")
        before = fw.empirical_ntk(params, start, points, threads=1)[0, :, 0, 0]
        params = fw.train(params, inputs, targets, RATE, KERNEL_STEPS).params
        return [before, fw.empirical_ntk(params, start, points, threads=1)[0, :, 0, 0]]

    spreads: list[str] = []
    seen: dict[int, np.ndarray] = {}
    for width in KERNEL_WIDTHS:
        both = np.array(at_once(lambda seed, width=width: kernels(width, seed), DRAWS))
        spread = np.linalg.norm(both[:, 0].std(axis=0)) / np.linalg.norm(both[:, 0].mean(axis=0))
        moved = np.linalg.norm(both[:, 1] - both[:, 0]) / np.linalg.norm(both[:, 0])
        spreads.append(f"n = {width:,}: {100 * spread:.1f} % and {100 * moved:.1f} %")
        seen[width] = both
    exact = nk.gram(NET, start, points, kernels="ntk").ntk
    assert exact is not None
    with picture(DOCS / "figure1.png") as figure:
        axes = figure.subplots()
        for k, (width, both) in enumerate(seen.items()):
            for t in (0, 1):  # four kinds of dashes
                style = {"color": COLOURS[k], "linestyle": DASHES[2 * k + t], "linewidth": 0.8}
                lines = axes.plot(angles, both[:, t].T, **style)
                lines[0].set_label(f"n = {width:,}, t = {t * KERNEL_STEPS}")
        axes.plot(angles, exact[0], color="black", label="Θ∞, exact")
        axes.set_ylabel("Θ(x₀, x)")
        axes.set_title(f"Θ of {NET}")
        label_angles(axes)
        axes.legend()
    return section(
        "figure1",
        f"docs/figure1.png, {DRAWS} networks of each width, {KERNEL_STEPS} steps of rate {RATE:g} "
        f"on {INPUTS} samples, in {time.perf_counter() - began:,.0f} s. Standard deviation of "
        f"Θ(x0, x) over draws, and how far training moves it, norms relative to Θ's: "
        + "; ".join(spreads),
    )


def figure2() -> str:
    """Draw trained networks and percentiles of the limit."""
    began = time.perf_counter()
    angles, points = circle(1.0)
    at = np.array([-2.4, -0.9, 0.6, 2.1])
    inputs = np.stack([np.cos(at), np.sin(at)], axis=1)
    targets = inputs[:, 0] * inputs[:, 1]
    both = nk.gram(NET, np.concatenate([inputs, points]))
    assert both.nngp is not None and both.ntk is not None
    theta, sigma = both.ntk[POINTS:, :POINTS], both.nngp
    mean, covariance = nk.flow_distribution(
        ntk=both.ntk[:POINTS, :POINTS],
        ntk_test=theta,
        nngp=sigma[:POINTS, :POINTS],
        nngp_test=sigma[POINTS:, :POINTS],
        nngp_test_test=sigma[POINTS:, POINTS:],
        y=targets,
        time=np.inf,
    )
    # from the median of a Gaussian to its 10 and 90 % quantiles
    band = 1.2816 * np.sqrt(np.maximum(np.diagonal(covariance), 0))

    inside: list[str] = []
    seen: dict[int, np.ndarray] = {}
    for width in FUNCTION_WIDTHS:

        def trained(seed: int, width: int = width) -> Any:
            params = fw.sample(NET, 2, width, seed=seed)
            history = fw.train(params, inputs, targets, RATE, FUNCTION_STEPS, test=points)
            return history.test_outputs[-1, :, 0]

        seen[width] = np.array(at_once(trained, DRAWS))
        fraction = np.mean(np.abs(seen[width] - mean) <= band + 1e-9)
        inside.append(f"n = {width:,}: {100 * fraction:.0f} %")
    with picture(DOCS / "figure2.png") as figure:
        axes = figure.subplots()
        for k, (width, curves) in enumerate(seen.items()):
            lines = axes.plot(angles, curves.T, **line(k), linewidth=0.8)
            lines[0].set_label(f"n = {width:,}")
        axes.plot(angles, mean, color="black", label="n = ∞, 50 %")
        edges = {"color": "black", "linestyle": ":", "linewidth": 1.2}
        axes.plot(angles, mean - band, **edges, label="n = ∞, 10 and 90 %")
        axes.plot(angles, mean + band, **edges)
        axes.plot(at, targets, "ko", label="data")
        axes.set_ylabel("f(cos γ, sin γ)")
        axes.set_title(f"trained networks: {NET}")
        label_angles(axes)
        axes.legend()
    return section(
        "figure2",
        f"docs/figure2.png, {DRAWS} networks of each width, {FUNCTION_STEPS:,} steps of rate "
        f"{RATE:g} on {POINTS} points, in {time.perf_counter() - began:,.0f} s. The share of the "
        f"curves between the limit's 10th and 90th percentiles, by theory 80 %: "
        + "; ".join(inside),
    )
