"""What a node of a cluster gains by threads: a simulation from parts that are measured here.

A job of P threads takes its serial part, which is measured outside of all parallel loops; the loops
over samples, divided by P; and the tiles, which are assigned to P threads one by one as the engine
does, with the engine's tile size for P threads, or as long as the node's memory takes to receive
the result.

Two other costs are measured, which the simulation leaves out: taking the number of a tile from the
counter that all threads share, and rows that do not begin with a line of the cache, so that two
threads write the lines at the edges of their tiles.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

import ntk_numba as nk
from bench.report import section, table
from bench.timing import in_turn, seconds
from ntk_numba.compiled import parallel
from ntk_numba.compiled.parallel import ParallelLoop
from ntk_numba.compute.plan import make_plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.inputs.source import open_source
from ntk_numba.machine import available_threads

THREADS = (2, 4, 8, 16, 32, 64)
JOBS = ((10_000, 64, "float32"), (10_000, 784, "float32"), (10_000, 784, "float64"),
        (40_000, 784, "float32"))  # fmt: skip
BANDWIDTH = 200e9  # bytes a second that the memory of the node takes: eight channels of DDR4-3200
REPEATS, NUMBERS = 3, 1_000_000
NET = nk.MLP(4, b_std=0.1)


class _Numbered(NamedTuple):
    """The arguments of a loop that does nothing."""

    nothing: np.ndarray


@ParallelLoop
def _nothing(arguments: Any, thread: int, k: int) -> None:
    """Do nothing."""


@contextmanager
def timed(owner: Any, name: str) -> Iterator[list[float]]:
    """Record the seconds of each call of a function meanwhile."""
    found: list[float] = []
    run = getattr(owner, name)
    setattr(owner, name, lambda *arguments: found.append(seconds(lambda: run(*arguments))))
    try:
        yield found
    finally:
        setattr(owner, name, run)


class Parts(NamedTuple):
    """The seconds of the parts of a job on one thread, and those of the job on all threads."""

    serial: float
    samples: float
    tiles: float
    on_all: float


def parts_of(n: int, n0: int, dtype: str) -> Parts:
    """Measure the parts of a job."""
    x = np.random.default_rng(0).standard_normal((n, n0)).astype(dtype)
    out = nk.gram(NET, x, kernels="ntk")
    runs = []
    for _ in range(REPEATS):
        with timed(parallel, "_in_parallel") as loops, timed(Kernel, "compute") as batches:
            took = seconds(lambda: nk.gram(NET, x, kernels="ntk", out=out, threads=1))
        runs.append((took, sum(loops), sum(batches)))
    total, in_loops, tiles = min(runs)
    on_all = min(in_turn({"": lambda: nk.gram(NET, x, kernels="ntk", out=out)}, REPEATS)[""])
    return Parts(total - in_loops, in_loops - tiles, tiles, on_all)


def makespan(costs: list[float], threads: int) -> float:
    """Return the time until the last of pieces of work, each taken by the thread that is free."""
    free = [0.0] * threads
    for cost in costs:
        heapq.heappush(free, heapq.heappop(free) + cost)
    return max(free)


def expected(job: tuple[int, int, str], parts: Parts, threads: int) -> float:
    """Return the seconds that a job is expected to take on a node."""
    n, n0, dtype = job
    source = open_source(np.zeros((n, n0), dtype), "X")
    plan = make_plan(
        NET, source, None, kernels="ntk", layers="last", dtype=dtype, threads=threads,
        in_memory=True, up_to=None,
    )  # fmt: skip
    grid = plan.grid
    pairs = [
        (i, j, grid.height(i) * grid.width(j) / (2 if i == j else 1))
        for i in range(grid.down)
        for j in range(i + 1)
    ]
    per_pair = parts.tiles / sum(pair for *_, pair in pairs)
    costs = [pair * per_pair for *_, pair in pairs]
    tiles = sum(
        makespan(costs[k : k + plan.batch], threads) for k in range(0, len(costs), plan.batch)
    )
    written = n**2 * np.dtype(dtype).itemsize
    return parts.serial + parts.samples / threads + max(tiles, written / BANDWIDTH)


def row(job: tuple[int, int, str]) -> list[str]:
    """Return the row of a job: its parts, and its efficiency by the number of threads."""
    n, n0, dtype = job
    parts = parts_of(*job)
    one = parts.serial + parts.samples + parts.tiles
    rate = n**2 * np.dtype(dtype).itemsize / parts.tiles / 1e9
    return [
        f"{n:,}", f"{n0}", dtype, f"{1e3 * parts.serial:.1f}", f"{1e3 * parts.samples:.1f}",
        f"{parts.tiles:.3f}", f"{rate:.2f}", f"{one / (available_threads() * parts.on_all):.0%}",
        *(f"{one / (p * expected(job, parts, p)):.0%}" for p in THREADS),
    ]  # fmt: skip


def counter() -> float:
    """Return the nanoseconds in which a thread takes a number, while all others do so too."""
    arguments = _Numbered(np.zeros(1))
    _nothing(arguments, 1)
    taken = min(in_turn({"": lambda: _nothing(arguments, NUMBERS)}, REPEATS)[""])
    return taken / NUMBERS * available_threads() * 1e9


def shared_lines() -> float:
    """Return the time of a job whose rows share lines of the cache, relative to one without."""
    works: dict[str, Callable[[], object]] = {}
    for n in (10_000, 10_001):
        x = np.random.default_rng(0).standard_normal((n, 64)).astype("float32")
        out = nk.gram(NET, x, kernels="ntk")
        works[str(n)] = lambda x=x, out=out: nk.gram(NET, x, kernels="ntk", out=out)
    times = in_turn(works, 9)
    return float(np.median(np.array(times["10001"]) / times["10000"]))


def main() -> str:
    """Return the section `node`."""
    threads = available_threads()
    return section(
        "node",
        f"Θ, L = 4, ReLU, β = 0.1, in memory: the parts on one thread, and the efficiency (time on "
        f"one thread / threads / time) as measured on {threads} threads, and as expected on a node "
        f"whose cores are like these and whose memory takes {BANDWIDTH / 1e9:.0f} GB/s. Not in the "
        f"simulation: a thread takes a number from the shared counter in {counter():.0f} ns, "
        f"{threads} threads at once; a job of 10,001 samples in float32, whose rows do not begin "
        f"with lines of the cache, takes {shared_lines():.2f} times as long as one of 10,000",
        table(
            [
                "N", "n0", "dtype", "serial, ms", "samples, ms", "tiles, s",
                "GB/s a thread writes", f"{threads} threads, measured",
                *(f"{p}" for p in THREADS),
            ],
            [row(job) for job in JOBS],
        ),
    )  # fmt: skip
