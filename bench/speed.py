"""A job in memory against its limit, the sum of what its three parts cost alone.

- half a product: half of NumPy's X @ X.T on all threads, the least the inner products can cost;
- the recursion: its pairs, on tiles that are already in cache, on all threads;
- the copy: as many bytes as the result has, copied in memory on all threads.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import ntk_numba as nk
from bench.recursion import T, recursion
from bench.report import spread, table
from bench.timing import in_turn
from ntk_numba.machine import available_threads

N, DEPTH, REPEATS = 10_000, 4, 7
SOME_ROWS = 4000  # of the recursion, timed for all


def main() -> str:
    """The table."""
    net = nk.MLP(DEPTH, "relu", b_std=0.1)
    threads = available_threads()
    rows = []
    with ThreadPoolExecutor(threads) as pool:
        for n0 in (64, 784, 3072):
            for dtype in ("float64", "float32"):
                x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
                out = nk.Gram(None, np.empty((N, N), dtype))
                other = x.copy()  # so that NumPy does not take the symmetric product
                copied = np.empty((N, N), dtype)
                halves = np.array_split(np.arange(N), threads)

                def job(x: np.ndarray = x, out: nk.Gram = out) -> object:
                    return nk.gram(net, x, kernels="ntk", out=out)

                def product(
                    x: np.ndarray = x, other: np.ndarray = other, out: nk.Gram = out
                ) -> object:
                    return np.matmul(x, other.T, out=out.ntk)

                def copy(
                    copied: np.ndarray = copied,
                    out: nk.Gram = out,
                    halves: list[np.ndarray] = halves,
                ) -> object:
                    assert out.ntk is not None
                    to, source = copied, out.ntk
                    parts = [slice(h[0], h[-1] + 1) for h in halves]
                    return list(pool.map(lambda p: np.copyto(to[p], source[p]), parts))

                layers = recursion(net, dtype, True, threads, SOME_ROWS)
                times = in_turn(
                    {"job": job, "product": product, "copy": copy, "recursion": layers}, REPEATS
                )
                jobs = np.array(times["job"])
                half = np.array(times["product"]) / 2
                share = N * (N + 1) / 2 / (SOME_ROWS * T * threads)
                recursed = np.array(times["recursion"]) * share
                limit = half + recursed + times["copy"]
                rows.append(
                    [
                        f"{n0}",
                        dtype,
                        spread(jobs),
                        f"{min(half):.3f}",
                        f"{min(recursed):.3f}",
                        f"{min(times['copy']):.3f}",
                        f"{np.median(jobs / limit):.2f}",
                        f"{np.median(jobs / half):.2f}",
                    ]
                )
    return (
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, β = 0.1, in memory, {threads} threads; "
        f"seconds, minimum (and the job's median) of {REPEATS}, ratios the median of "
        "rounds\n\n"
        + table(
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
        )
    )
