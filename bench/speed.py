"""A job in memory against the least it can cost, half of NumPy's product X @ X.T.

The two are timed in turn, in pairs, so that a machine whose speed drifts drifts for both.
"""

import time
from collections.abc import Callable

import numpy as np

import ntk_numba as nk
from bench.report import spread, table

N, DEPTH, REPEATS = 10_000, 4, 5


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> str:
    """The table."""
    net = nk.MLP(DEPTH, "relu", b_std=0.1)
    rows = []
    for n0 in (64, 784, 3072):
        for dtype in ("float64", "float32"):
            x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
            out = nk.Gram(None, np.zeros((N, N), dtype))
            other = x.copy()  # so that NumPy does not take the symmetric product

            def job(x: np.ndarray = x, out: nk.Gram = out) -> object:
                return nk.gram(net, x, kernels="ntk", out=out)

            def product(x: np.ndarray = x, other: np.ndarray = other, out: nk.Gram = out) -> object:
                return np.matmul(x, other.T, out=out.ntk)

            job(), product()
            times = [(seconds(job), seconds(product) / 2) for _ in range(REPEATS)]
            jobs, halves = zip(*times, strict=True)
            ratio = np.median([a / b for a, b in times])
            rows.append([f"{n0}", dtype, spread(jobs), spread(halves), f"{ratio:.2f}"])
    return (
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, β = 0.1, in memory; seconds, minimum (median) "
        f"of {REPEATS}\n\n" + table(["n0", "dtype", "job", "half a product", "ratio"], rows)
    )
