"""The time of a start: help, a warm process, the first compilation, many processes on one cache."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.report import section, spread, table

REPEATS, TOGETHER = 9, 4

FIRST_TILE = """
import sys
import numpy as np
import ntk_numba as nk
x = np.random.default_rng(0).standard_normal((64, 16)).astype(sys.argv[1])
z = x[:9] if "Z" in sys.argv[3:] else None
print(nk.gram({net}, x, z, layers=sys.argv[2]).ntk.sum())
"""
NET = "nk.MLP(4, b_std=0.1)"
OTHERS = (
    ("depth 9", "nk.MLP(9, b_std=0.1)", ("last",)),
    ("β = 0, σ_w = √2", "nk.MLP(4, w_std=2**0.5)", ("last",)),
    ("leaky ReLU and abs, all layers", "nk.MLP(3, ['leaky_relu:0.2', 'abs'])", ("all",)),
    ("against Z", NET, ("last", "Z")),
)


def first_tile(dtype: str, net: str = NET, options: tuple[str, ...] = ("last",)) -> list[str]:
    """Return the arguments of a Python that computes one tile."""
    return ["-c", FIRST_TILE.format(net=net), dtype, *options]


def start(arguments: list[str], cache: Path, count: int = 1) -> tuple[float, set[str]]:
    """Start `count` Pythons at once; return their seconds and what they print."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    begin = time.perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(count)
    ]
    printed = {process.communicate()[0] for process in running}
    took = time.perf_counter() - begin
    if any(process.returncode for process in running):
        raise RuntimeError(f"failed: python {' '.join(arguments)}")
    return took, printed


def compiled(cache: Path) -> set[str]:
    """Return the names of the files of machine code in a cache."""
    return {path.name for path in cache.rglob("*.nbc")}


def cold(dtype: str, cache: Path) -> list[list[str]]:
    """Return the rows of processes that start in turn, with a cache that is empty at first."""
    rows = [[f"first ever, {dtype}", f"{start(first_tile(dtype), cache)[0]:.1f}"]]
    for what, net, options in OTHERS:
        before = compiled(cache)
        took, _ = start(first_tile(dtype, net, options), cache)
        rows.append(
            [f"then {what}", f"{took:.1f}", f"{len(compiled(cache) - before)}"],
        )
    rows[0].append(f"{len(before)}")
    return rows


def together(dtype: str, cache: Path) -> list[list[str]]:
    """Return the rows of processes that start at once with an empty cache, and of one more."""
    took, printed = start(first_tile(dtype), cache, TOGETHER)
    before = compiled(cache)
    same = "the same result" if len(printed) == 1 else f"{len(printed)} RESULTS"
    rows = [[f"{TOGETHER} at once, {dtype}, {same}", f"{took:.1f}", f"{len(before)}"]]
    took, _ = start(first_tile(dtype), cache)
    return [*rows, ["then one more", f"{took:.1f}", f"{len(compiled(cache) - before)}"]]


def warm(caches: dict[str, Path]) -> list[list[str]]:
    """Return the rows of processes for which all code is in the cache."""
    any_cache = next(iter(caches.values()))
    works = {
        "`import numpy`": (["-c", "import numpy"], any_cache),
        "`import numba`": (["-c", "import numba"], any_cache),
        "`ntk-numba --help`": (["-m", "ntk_numba", "--help"], any_cache),
        **{f"first tile, {d}": (first_tile(d), cache) for d, cache in caches.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            times[name].append(start(*work)[0])
    numba = np.array(times["`import numba`"])
    return [[name, spread(t), f"{np.median(t - numba):+.2f}"] for name, t in times.items()]


def main() -> str:
    """Return the section `start`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        caches = {dtype: Path(name) / dtype for dtype in ("float64", "float32")}
        after = [row for dtype, cache in caches.items() for row in cold(dtype, cache)]
        after += together("float64", Path(name) / "shared")
        return section(
            "start",
            f"Seconds from the start of a Python process to its end, minimum (median) of "
            f"{REPEATS} in turn; the last column is the median of the differences",
            table(["warm", "seconds", "beyond `import numba`"], warm(caches)),
            "Each once, with a cache folder (`NUMBA_CACHE_DIR`) that was empty at first:",
            table(["cold", "seconds", "functions compiled"], after),
        )
