"""Training at finite width: how far Θ moves, and how near the outputs come to the closed form.

Networks of several widths are trained alike. Each column is a mean over draws, and the last row is
its slope over the width, in logarithms. docs/training.md derives the slopes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import ntk_numba as nk
from bench.report import section, table
from ntk_numba import finite_width as fw
from ntk_numba.finite_width.pool import in_order
from ntk_numba.machine import available_threads

WIDTHS, DRAWS, SAMPLES, TESTS, FEATURES, STEPS = (64, 128, 256, 512, 1024), 16, 32, 16, 8, 1000
RATE = 0.03  # times N/λ_max: small enough for steps to be a flow, to a few parts in 10,000
NETWORKS = {"relu": nk.MLP(3, "relu", 2**0.5, 0.1), "identity": nk.MLP(3, "identity", 1.0, 0.1)}


def at_once(function: Callable[[int], Any], count: int) -> list[Any]:
    """Return ``function(k)`` for k = 0 … count − 1, computed on all cores."""
    return list(in_order(function, range(count), available_threads()))


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training samples, targets and test samples."""
    x = np.random.default_rng(1).standard_normal((SAMPLES + TESTS, FEATURES))
    return x[:SAMPLES], np.sin(x[:SAMPLES, 0]) * x[:SAMPLES, 1], x[SAMPLES:]


def distances(net: nk.MLP, width: int) -> np.ndarray:
    """Return the columns of both tables, with one row for each of DRAWS networks."""
    x, y, z = data()
    exact, cross = nk.gram(net, x).ntk, nk.gram(net, z, x).ntk
    rate = RATE * SAMPLES / np.linalg.eigvalsh(exact)[-1]

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    def one(seed: int) -> list[float]:
        start = fw.sample(net, FEATURES, width, seed=seed)
        history = fw.train(start, x, y, rate, STEPS, test=z)
        first, last = (fw.empirical_ntk(p, x)[:, :, 0, 0] for p in (start, history.params))
        f0, f0_test = (f[0, :, 0] for f in (history.outputs, history.test_outputs))
        flow = nk.gradient_flow(exact, y, f0, rate * STEPS, ntk_test=cross, f0_test=f0_test)
        # errors are relative to the targets, and on test samples to the change of the outputs
        return [
            distance(first, exact),
            distance(last, first),
            *(distance(a, b) for a, b in zip(history.params.weights, start.weights, strict=True)),
            float(np.linalg.norm(history.outputs[-1, :, 0] - flow.outputs) / np.linalg.norm(y)),
            float(
                np.linalg.norm(history.test_outputs[-1, :, 0] - flow.test_outputs)
                / np.linalg.norm(flow.test_outputs - f0_test)
            ),
        ]

    return np.array(at_once(one, DRAWS))


def rows(name: str, means: np.ndarray, errors: np.ndarray) -> list[list[str]]:
    """Return a row for each width, and one of the slopes with their standard errors."""
    logs = np.log(WIDTHS) - np.mean(np.log(WIDTHS))
    weights = logs / (logs @ logs)
    slopes = weights @ np.log(means)
    slope_errors = np.sqrt(weights**2 @ (errors / means) ** 2)
    lines = [
        [name, f"{width:,}", *(f"{100 * m:.2f} %" for m in line)]
        for width, line in zip(WIDTHS, means, strict=True)
    ]
    pairs = zip(slopes, slope_errors, strict=True)
    return [*lines, [name, "slope", *(f"{a:.2f} ± {b:.2f}" for a, b in pairs)]]


def main() -> str:
    """Return the section `training`."""
    drift: list[Sequence[str]] = []
    flow: list[Sequence[str]] = []
    for name, net in NETWORKS.items():
        seen = [distances(net, width) for width in WIDTHS]
        means = np.array([s.mean(axis=0) for s in seen])
        errors = np.array([s.std(axis=0, ddof=1) / DRAWS**0.5 for s in seen])
        drift += rows(name, means[:, :-2], errors[:, :-2])
        flow += rows(name, means[:, -2:], errors[:, -2:])
    return section(
        "training",
        f"L = 3, β = 0.1, {SAMPLES} samples of {FEATURES} features, {STEPS:,} steps of "
        f"{RATE}·N/λ_max; means of {DRAWS} networks of each width, of norms relative to those of "
        f"Θ∞, Θ(θ₀), W(θ₀), y, and of the change of the test outputs",
        table(
            ["σ", "width", "Θ(θ₀) − Θ∞", "Θ(θ_t) − Θ(θ₀)", "W⁽⁰⁾ moves", "W⁽¹⁾ moves",
             "W⁽²⁾ moves"],
            drift,
        ),
        table(["σ", "width", "f(t) − (T6), training", "f(t) − (T7), test"], flow),
    )  # fmt: skip
