"""One thread against all of them."""

import numpy as np

import ntk_numba as nk
from bench.report import spread, table
from bench.timing import in_turn
from ntk_numba.machine import available_threads

N, DEPTH, REPEATS = 10_000, 4, 5


def main() -> str:
    """The table."""
    net, most = nk.MLP(DEPTH, b_std=0.1), available_threads()
    rows = []
    for n0 in (64, 784):
        for dtype in ("float64", "float32"):
            x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
            out = nk.Gram(None, np.empty((N, N), dtype))

            def job(threads: int, x: np.ndarray = x, out: nk.Gram = out) -> object:
                return nk.gram(net, x, kernels="ntk", out=out, threads=threads)

            times = in_turn({"1": lambda job=job: job(1), "all": lambda job=job: job(most)}, REPEATS)
            ratio = np.median(np.array(times["1"]) / times["all"])
            rows.append([n0, dtype, spread(times["1"]), spread(times["all"]), f"{ratio:.2f}"])
    return (
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, in memory; seconds, minimum (median) of "
        f"{REPEATS}\n\n" + table(["n0", "dtype", "1 thread", f"{most} threads", "ratio"], rows)
    )
