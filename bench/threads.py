"""The time of a job on one thread against two, four, …, all.

The limit of the gain is that of the machine: it is measured by the same threads on tiles that stay
in each core's cache, with many layers, so that hardly anything is written.
"""

from collections.abc import Callable

import numpy as np

import ntk_numba as nk
from bench.recursion import tiles
from bench.report import ratio, section, spread, table
from bench.timing import in_turn
from ntk_numba.machine import available_threads

N, DEPTH, REPEATS = 10_000, 4, 9
FEATURES = (64, 784)
LAYERS_IN_CACHE = 33
DTYPES = ("float64", "float32")


def counts() -> list[int]:
    """Return the numbers of threads: 1, 2, 4, … and all."""
    cores = available_threads()
    return sorted({min(1 << k, cores) for k in range(cores.bit_length() + 1)})


def times(work: Callable[[int], object]) -> dict[int, list[float]]:
    """Time work(threads) with each number of threads, in turn."""
    works = {str(k): lambda k=k: work(k) for k in counts()}  # type: ignore[misc]
    return {int(k): t for k, t in in_turn(works, REPEATS).items()}


def job(n0: int, dtype: str) -> Callable[[int], object]:
    """Return a call of a whole job."""
    net = nk.MLP(DEPTH, b_std=0.1)
    x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
    out = nk.gram(net, x, kernels="ntk")
    return lambda threads: nk.gram(net, x, kernels="ntk", out=out, threads=threads)


def in_cache(dtype: str) -> Callable[[int], object]:
    """Return a call that computes tiles in each core's cache."""
    works = {k: tiles(nk.MLP(LAYERS_IN_CACHE, b_std=0.1), dtype, False, k) for k in counts()}
    return lambda threads: works[threads]()


def row(name: str, dtype: str, work: Callable[[int], object]) -> list[str]:
    """Return the row of one piece of work with each number of threads."""
    found = times(work)
    ratios = [ratio(found[1], found[k]) for k in counts()[1:]]
    return [name, dtype, *(spread(t) for t in found.values()), *ratios]


def main() -> str:
    """Return the section `threads`."""
    head = [f"{k} thread{'s' * (k > 1)}" for k in counts()]
    return section(
        "threads",
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, β = 0.1, in memory; seconds, minimum (median) "
        f"of {REPEATS} rounds; ratio of the minima (median of the rounds'). The last rows, for "
        f"tiles of L = {LAYERS_IN_CACHE} that stay in each core's cache, show what the machine "
        f"allows",
        table(
            ["n0", "dtype", *head, *(f"ratio 1 : {k}" for k in counts()[1:])],
            [row(f"{n0}", dtype, job(n0, dtype)) for n0 in FEATURES for dtype in DTYPES]
            + [row("in cache", dtype, in_cache(dtype)) for dtype in DTYPES],
        ),
    )
