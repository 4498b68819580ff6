"""The time of the recursion alone: nanoseconds a pair and hidden layer, in tiles of the engine.

One tile, whose samples and entries stay in the second-level cache, is computed repeatedly; the
difference of two depths is the time of the layers between them. It is measured for acute pairs, for
the first ReLU layer of rows that have obtuse pairs, and for layers that leave pairs obtuse.
"""

from collections.abc import Callable

import numpy as np

import ntk_numba as nk
from bench.report import section, table
from bench.timing import in_turn
from ntk_numba.compute.plan import find_largest_norm
from ntk_numba.engine.fitted import fit_network
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.tile import tile_table
from ntk_numba.inputs.source import open_source

T, FEATURES, TILES, REPEATS = 512, 16, 32, 15
PAIRS = TILES * T * T


def tiles(net: nk.MLP, dtype: str, obtuse: bool, threads: int = 1) -> Callable[[], object]:
    """Return a call that takes `PAIRS` pairs through a network."""
    x = np.random.default_rng(0).standard_normal((2 * T, FEATURES)).astype(dtype)
    return tiles_of(net, x if obtuse else abs(x), threads)


def tiles_of(net: nk.MLP, x: np.ndarray, threads: int = 1) -> Callable[[], object]:
    """Return a call that takes `PAIRS` pairs of the 2T samples x through a network."""
    source = open_source(x, "X")
    fitted = fit_network(net, find_largest_norm(net, source, None), FEATURES)
    kernel = Kernel(
        fitted,
        source,
        kernels=("ntk",),
        layers=(fitted.net.depth,),
        dtype=x.dtype,
        tile=T,
        threads=threads,
    )
    samples = kernel.samples(source, 0, 2 * T)
    nngp, ntk = kernel.outputs(T, T)
    table = tile_table([(0, T, T, T)] * TILES, (0, 0))
    return lambda: kernel.compute(table, samples, samples, nngp, ntk)


def main() -> str:
    """Return the section `recursion`."""
    rows = []
    for dtype in ("float64", "float32"):
        works = {
            f"{depth} {name} {obtuse}": tiles(nk.MLP(depth, name, b_std=0.1), dtype, obtuse)
            for depth, name, obtuse in (
                (1, "relu", False), (33, "relu", False), (1, "relu", True), (2, "relu", True),
                (33, "leaky_relu:0.1", True),
            )
        }  # fmt: skip
        times = {name: np.array(t) / PAIRS * 1e9 for name, t in in_turn(works, REPEATS).items()}
        for name, of in (("least", np.min), ("median", np.median)):
            ns = {work: of(t) for work, t in times.items()}
            acute = (ns["33 relu False"] - ns["1 relu False"]) / 32
            first = ns["2 relu True"] - ns["1 relu True"]
            leaky = (ns["33 leaky_relu:0.1 True"] - ns["1 relu True"]) / 32
            mean = (first + 2 * acute) / 3
            rows.append([dtype, name, *(f"{v:.2f}" for v in (acute, first, mean, leaky))])
    return section(
        "recursion",
        f"Nanoseconds a pair and hidden layer on one core, from the minima and the medians of "
        f"{REPEATS} rounds; tiles of {T}, Θ, β = 0.1",
        table(
            [
                "dtype",
                "",
                "ReLU, acute pairs",
                "first ReLU, some obtuse",
                "mean of L = 4",
                "leaky ReLU, obtuse stay so",
            ],
            rows,
        ),
    )
