"""A job in memory against its limit, the sum of the times of its three parts alone.

- Half a product: half of NumPy's X @ X.T on all threads, the least time of the inner products.
- The recursion: the hidden layers of all pairs, on tiles that stay in cache, on all threads.
- The copy: as many bytes as the result has, copied in memory on all threads.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import ntk_numba as nk
from bench.recursion import PAIRS, tiles
from bench.report import ratio, section, spread, table
from bench.timing import in_turn
from ntk_numba.machine import available_threads

N, DEPTH, REPEATS = 10_000, 4, 11
FEATURES = (64, 784, 3072)


def row(n0: int, dtype: str, threads: int, pool: ThreadPoolExecutor) -> list[str]:
    """Return the row of one job and its parts."""
    net = nk.MLP(DEPTH, b_std=0.1)
    x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
    other = x.copy()  # NumPy would recognise x @ x.T as symmetric
    out = nk.gram(net, x, kernels="ntk")
    result, copied = out.ntk, np.empty((N, N), dtype)
    parts = [slice(k * N // threads, (k + 1) * N // threads) for k in range(threads)]
    times = in_turn(
        {
            "job": lambda: nk.gram(net, x, kernels="ntk", out=out),
            "product": lambda: np.matmul(x, other.T, out=result),
            "all layers": tiles(net, dtype, True, threads),
            "one layer": tiles(nk.MLP(1, b_std=0.1), dtype, True, threads),
            "copy": lambda: list(pool.map(lambda p: np.copyto(copied[p], result[p]), parts)),
        },
        REPEATS,
    )
    scale = N * (N + 1) / 2 / PAIRS
    job, half = np.array(times["job"]), np.array(times["product"]) / 2
    recursion = (min(times["all layers"]) - min(times["one layer"])) * scale
    limit = half + recursion + times["copy"]
    return [
        f"{n0}",
        dtype,
        spread(job),
        f"{min(half):.3f}",
        f"{recursion:.3f}",
        f"{min(times['copy']):.3f}",
        ratio(job, limit),
        ratio(job, half),
    ]


def main() -> str:
    """Return the section `speed`."""
    threads = available_threads()
    with ThreadPoolExecutor(threads) as pool:
        rows = [
            row(n0, dtype, threads, pool) for n0 in FEATURES for dtype in ("float64", "float32")
        ]
    return section(
        "speed",
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, β = 0.1, in memory, {threads} threads; "
        f"seconds, minimum (the job's median) of {REPEATS} rounds; ratio of the minima (median "
        f"of the rounds')",
        table(
            [
                "n0",
                "dtype",
                "job",
                "half a product",
                "recursion",
                "copy",
                "job / sum of the three",
                "job / half a product",
            ],
            rows,
        ),
    )
