"""The recursion alone: rows already in the first-level cache, one core.

What a hidden ReLU layer costs a pair: the difference of depths 33 and 1, over 32; for rows without
obtuse pairs, for the first layer of rows with some, and for networks in which they stay obtuse.
"""

from collections.abc import Callable

import numba
import numpy as np

import ntk_numba as nk
from bench.report import table
from bench.timing import in_turn
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.recursion import Layers, all_layers
from ntk_numba.engine.samples import Samples
from ntk_numba.files.source import open_source

T, ROWS, REPEATS = 512, 2000, 9


@numba.njit(parallel=True, error_model="numpy")
def run(
    z0: np.ndarray, obtuse: bool, samples: Samples, layers: Layers, out: np.ndarray, rows: int
) -> None:
    """`rows` rows of pairs on each thread, through all layers; Θ of the last is written."""
    for thread in numba.prange(out.shape[0]):
        z, w, tau = np.empty((3, z0.size), z0.dtype)
        none = np.empty((0, 1, 1), z0.dtype)
        for _ in range(rows):
            z[:] = z0
            w[:] = 1 - z0
            all_layers(
                z, w, tau, obtuse, 0, 0, samples, samples, layers, 0, none, out[thread], 0,
            )  # fmt: skip


def recursion(
    net: nk.MLP, dtype: str, obtuse: bool, threads: int = 1, rows: int = ROWS
) -> Callable[[], object]:
    """A call that takes rows · T pairs on each thread through a network."""
    x = np.random.default_rng(0).standard_normal((T, 8)).astype(dtype)
    source = open_source(x, "X")
    kernel = Kernel(net, source, ("ntk",), False, np.dtype(dtype), T, 1)
    samples = kernel.samples(source, 0, T)
    z0 = np.random.default_rng(1).uniform(0.01, 0.95 if obtuse else 0.49, T).astype(dtype)
    out = np.empty((threads, 1, 1, T), dtype)

    def call() -> None:
        numba.set_num_threads(threads)
        run(z0, obtuse, samples, kernel._layers, out, rows)

    return call


def main() -> str:
    """The table."""
    rows = []
    for dtype in ("float64", "float32"):
        works = {
            "1": recursion(nk.MLP(1), dtype, False),
            "33": recursion(nk.MLP(33, b_std=0.1), dtype, False),
            "1 obtuse": recursion(nk.MLP(1), dtype, True),
            "2 obtuse": recursion(nk.MLP(2, b_std=0.1), dtype, True),
            "33 leaky": recursion(nk.MLP(33, "leaky_relu:0.1"), dtype, True),
        }
        best = {k: min(v) / (ROWS * T) * 1e9 for k, v in in_turn(works, REPEATS).items()}
        later = (best["33"] - best["1"]) / 32
        first = best["2 obtuse"] - best["1 obtuse"]
        rows.append(
            [
                dtype,
                f"{later:.2f}",
                f"{first:.2f}",
                f"{(first + 2 * later) / 3:.2f}",
                f"{(best['33 leaky'] - best['1 obtuse']) / 32:.2f}",
            ]
        )
    return (
        "Nanoseconds a pair and hidden layer on one core, "
        f"minimum of {REPEATS}, rows of {T} pairs in cache\n\n"
        + table(
            [
                "dtype",
                "ReLU, no obtuse pairs",
                "first ReLU with obtuse pairs",
                "mean of L = 4 with obtuse pairs",
                "leaky ReLU, obtuse pairs",
            ],
            rows,
        )
    )
