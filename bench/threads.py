"""One thread against two, four, …, all."""

import numpy as np

import ntk_numba as nk
from bench.report import ratio, section, spread, table
from bench.timing import in_turn
from ntk_numba.machine import available_threads

N, DEPTH, REPEATS = 10_000, 4, 9
FEATURES = (64, 784)


def counts() -> list[int]:
    """1, 2, 4, … and all."""
    most = available_threads()
    return sorted({min(1 << k, most) for k in range(most.bit_length() + 1)})


def times(n0: int, dtype: str) -> dict[int, list[float]]:
    """Seconds of one job with each number of threads, in turn."""
    net = nk.MLP(DEPTH, b_std=0.1)
    x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
    out = nk.gram(net, x, kernels="ntk")
    works = {
        str(k): lambda k=k: nk.gram(net, x, kernels="ntk", out=out, threads=k)  # type: ignore[misc]
        for k in counts()
    }
    return {int(k): t for k, t in in_turn(works, REPEATS).items()}


def row(n0: int, dtype: str) -> list[str]:
    """One job with each number of threads."""
    found = times(n0, dtype)
    one = np.array(found[1])
    ratios = [ratio(one, found[k]) for k in counts()[1:]]
    return [f"{n0}", dtype, *(spread(t) for t in found.values()), *ratios]


def main() -> str:
    """The table."""
    head = [f"{k} thread{'s' * (k > 1)}" for k in counts()]
    return section(
        "threads",
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, β = 0.1, in memory; seconds, minimum (median) "
        f"of {REPEATS} rounds; ratio of the minima (median of the rounds')",
        table(
            ["n0", "dtype", *head, *(f"ratio 1 : {k}" for k in counts()[1:])],
            [row(n0, dtype) for n0 in FEATURES for dtype in ("float64", "float32")],
        ),
    )
