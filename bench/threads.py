"""One thread against all of them."""

import numpy as np

import ntk_numba as nk
from bench.report import section, spread, table
from bench.timing import in_turn
from ntk_numba.machine import available_threads

N, DEPTH, REPEATS = 10_000, 4, 5
FEATURES = (64, 784)


def row(n0: int, dtype: str, most: int) -> list[str]:
    """One job, both ways."""
    net = nk.MLP(DEPTH, b_std=0.1)
    x = np.random.default_rng(0).standard_normal((N, n0)).astype(dtype)
    out = nk.Gram(None, np.empty((N, N), dtype))
    one, all_ = in_turn(
        {
            str(k): lambda k=k: nk.gram(net, x, kernels="ntk", out=out, threads=k)  # type: ignore[misc]
            for k in (1, most)
        },
        REPEATS,
    ).values()
    return [
        f"{n0}",
        dtype,
        spread(one),
        spread(all_),
        f"{np.median(np.array(one) / all_):.2f}",
    ]


def main() -> str:
    """The table."""
    most = available_threads()
    if most == 1:
        return section("threads", "There is one core only.")
    return section(
        "threads",
        f"Θ of N = {N:,} samples, L = {DEPTH}, ReLU, β = 0.1, in memory; seconds, minimum (median) "
        f"of {REPEATS}; ratio, median of the rounds'",
        table(
            ["n0", "dtype", "1 thread", f"{most} threads", "ratio"],
            [row(n0, dtype, most) for n0 in FEATURES for dtype in ("float64", "float32")],
        ),
    )
