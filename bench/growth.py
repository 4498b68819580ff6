"""The growth of the time with N, depth, n0 and threads: a picture, and a law of three numbers.

The law is t = (a·n0 + b·L + c)·N(N + 1)/2, fitted to all points by least squares of the relative
error. The inner products take a, the layers b, and the steps that occur once per pair c: its angle
is computed, and its entry is written twice.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import ntk_numba as nk
from bench import threads
from bench.report import section, spread, table
from bench.timing import in_turn
from ntk_numba.compiled.arrays import aligned
from ntk_numba.machine import available_threads
from ntk_numba.plots.figure import picture
from ntk_numba.plots.style import COLOURS, DASHES

N, FEATURES, DEPTH, DTYPE, REPEATS = 10_000, 784, 4, "float32", 5
PICTURE = Path(__file__).parent.parent / "docs" / "growth.png"


class Point(NamedTuple):
    """A job that computes Θ in memory."""

    n: int = N
    features: int = FEATURES
    depth: int = DEPTH

    @property
    def terms(self) -> np.ndarray:
        """The factors of a, b and c in the law."""
        return np.array([self.features, self.depth, 1]) * self.n * (self.n + 1) / 2


AXES = {
    "N": [Point(n=n) for n in (2_500, 5_000, 10_000, 20_000, 40_000)],
    "depth L": [Point(features=64, depth=d) for d in (2, 4, 8, 16, 32, 64)],
    "features n0": [Point(features=f) for f in (16, 64, 256, 1_024, 4_096)],
}


def measure(points: set[Point]) -> dict[Point, list[float]]:
    """Time all points in turn, so that other work of the machine affects them alike."""
    memory = aligned((max(p.n for p in points) ** 2,), DTYPE)

    def job(p: Point) -> Callable[[], object]:
        x = np.random.default_rng(0).standard_normal((p.n, p.features)).astype(DTYPE)
        net = nk.MLP(p.depth, b_std=0.1)
        out = nk.Gram(None, memory[: p.n**2].reshape(p.n, p.n))
        return lambda: nk.gram(net, x, kernels="ntk", out=out)

    times = in_turn({str(p): job(p) for p in points}, REPEATS)
    return {p: times[str(p)] for p in points}


def fit(times: dict[Point, float], terms: int) -> tuple[np.ndarray, float]:
    """Fit the first `terms` of a, b, c; also return the largest factor by which a point is off."""
    matrix = np.array([p.terms[:terms] / t for p, t in times.items()])
    law = np.linalg.lstsq(matrix, np.ones(len(times)), rcond=None)[0]
    off = matrix @ law
    return law, float(max(off.max(), 1 / off.min()))


def draw(
    times: dict[Point, float], law: np.ndarray, by_threads: dict[int, float], where: Path
) -> None:
    """Draw one panel each for N, depth, n0 and threads."""
    where.parent.mkdir(exist_ok=True)
    law_style = {"color": "0.55", "linestyle": DASHES[1], "zorder": 1}
    with picture(where, width=11, height=2.9) as figure:
        panels = figure.subplots(1, 4, sharey=True)
        for panel, (name, points) in zip(panels, AXES.items(), strict=False):
            field = {"N": "n", "depth L": "depth", "features n0": "features"}[name]
            at = [getattr(p, field) for p in points]
            expected = [p.terms @ law for p in points]
            panel.loglog(at, expected, **law_style, label="(a·n0 + b·L + c)·N²/2")
            panel.loglog(at, [times[p] for p in points], "o", color=COLOURS[0], label="measured")
            panel.set_xlabel(name)
            panel.set_xticks(at, [f"{k:,}" for k in at], minor=False)
            panel.minorticks_off()
        panels[0].set_ylabel("seconds")
        panels[0].legend()
        counts = np.array(list(by_threads))
        panels[3].loglog(counts, by_threads[1] / counts, **law_style, label="1/threads")
        panels[3].loglog(counts, list(by_threads.values()), "o", color=COLOURS[0])
        panels[3].set_xlabel("threads")
        panels[3].set_xticks(counts, [str(k) for k in counts], minor=False)
        panels[3].minorticks_off()
        panels[3].legend()


def main() -> str:
    """Draw the picture, and return the section `growth`."""
    seconds = measure({p for points in AXES.values() for p in points})
    times = {p: min(t) for p, t in seconds.items()}
    law, off = fit(times, 3)
    _, off_without = fit(times, 2)
    by_threads = {k: min(t) for k, t in threads.times(threads.job(FEATURES, DTYPE)).items()}
    draw(times, law, by_threads, PICTURE)
    rows = [
        [
            name,
            f"{p.n:,}",
            f"{p.depth}",
            f"{p.features:,}",
            spread(seconds[p]),
            f"{times[p] / (p.terms @ law):.2f}",
        ]
        for name, points in AXES.items()
        for p in points
    ]
    return section(
        "growth",
        f"Θ, ReLU, β = 0.1, {DTYPE}, in memory, {available_threads()} threads; seconds, "
        f"minimum (median) of {REPEATS} rounds. Fitted to the minima: "
        f"t = (a·n0 + b·L + c)·N(N + 1)/2 with "
        f"a = {law[0] * 1e9:.4f} ns, b = {law[1] * 1e9:.3f} ns and c = {law[2] * 1e9:.3f} ns, at "
        f"most {off:.2f} times off; without c, {off_without:.2f} times",
        table(["along", "N", "L", "n0", "seconds", "seconds / law"], rows),
    )
