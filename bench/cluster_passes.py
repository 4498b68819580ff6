"""A pass of an operator and a solution for a million samples, from rates that are measured here.

The bytes of a pass are counted with the grid and the parts that such a job would have. Rates of
computing, of files and of the driver are measured on this machine, and those of a shared file
system are assumed, as in `cluster`.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import ntk_numba as nk
from bench.report import table
from bench.timing import in_turn, seconds
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.schedulers import pool_of
from ntk_numba.cluster.workers import LocalPool, Receipt
from ntk_numba.grid import Grid, Part
from ntk_numba.machine import available_threads
from ntk_numba.operators.origins import ComputedOrigin
from ntk_numba.operators.passes import add_files, rows_of
from ntk_numba.operators.sections import write_sections
from ntk_numba.sums import Sums, balanced

N, FEATURES, REPEATS = 12_000, 784, 3
NET = nk.MLP(4, b_std=0.1)
COLUMNS = 10, 110  # of nystrom_pcg for ten targets, and of block_krylov with its random columns
BYTES = 256 << 20  # of the files whose rates are measured
TINY, TINY_PARTS, MANY = 2_000, 32, 256
LARGE, NODES, CORES = 1_000_000, 100, 64
TILE, ITEMS = 512, 4  # of a million samples in float32
PASSES = 100  # of a solution
SHARED = 10e9, 100e9  # bytes a second of a file system that is shared by all nodes


def computing(folder: Path) -> tuple[dict[int, float], float]:
    """Return the seconds of a core for a pair, by K, and the bytes of X a second of a new part."""
    path = folder / "x.npy"
    x = np.random.default_rng(0).standard_normal((N, FEATURES)).astype("f4")
    np.save(path, x)
    right = np.random.default_rng(1).standard_normal((N, max(COLUMNS)))
    own = nk.kernel_operator(NET, path)
    works: dict[str, Callable[[], object]] = {
        str(k): partial(own.matmat, right[:, :k].copy()) for k in COLUMNS
    }
    best = {k: min(t) for k, t in in_turn(works, REPEATS).items()}
    pairs = N * (N + 1) / 2
    each = {k: best[str(k)] * available_threads() / pairs for k in COLUMNS}
    # a worker that gets another part reads, compares and packs its rows
    origin = ComputedOrigin.of(own.matrix)
    rows, weights = own.matrix.bounds
    scaled, _ = balanced(right[:, :1], weights)
    matrix = origin.open(None, None)

    def compute(part: Part) -> None:
        matrix.digests(part)
        matrix.add_part(scaled, part, Sums(rows, np.ones(1)))

    compute(Part(8, 8))
    rates = []
    for number in range(1, 8):
        part = Part(number, 8)
        first, again = seconds(lambda p=part: compute(p)), seconds(lambda p=part: compute(p))
        read = sum(len(run) for run in rows_of(matrix.grid, part)[0]) * FEATURES * ITEMS
        rates.append(read / max(first - again, 1e-9))
    return each, float(np.median(rates))


def files(folder: Path) -> tuple[float, float]:
    """Return the bytes a second of writing a partial product, and of reading and adding it."""
    count = BYTES // (16 * max(COLUMNS))
    sums = Sums(np.ones(count), np.ones(max(COLUMNS)))
    sums.add(0, np.random.default_rng(0).standard_normal(sums.totals.shape) / 100)
    arrays = [("totals", 0, sums.totals), ("rests", 0, sums.rests)]
    path = folder / "product"
    write = min(seconds(lambda: write_sections(path, {}, arrays)) for _ in range(REPEATS))
    total = Sums(np.ones(count), np.ones(max(COLUMNS)))
    read = min(seconds(lambda: add_files([path], total)) for _ in range(REPEATS))
    return BYTES / write, BYTES / read


def nothing(part: int) -> Receipt:
    """Compute a part without tiles."""
    return Receipt(part, "", 0, 0.0, "", False)


def overheads(folder: Path) -> tuple[float, float, float]:
    """Return seconds: starting a worker, and of a part beside its tiles: driver and worker."""
    path = folder / "tiny.npy"
    np.save(path, np.random.default_rng(0).standard_normal((TINY, 8)).astype("f4"))
    own = nk.kernel_operator(NET, path)
    column = np.ones(TINY)
    work = folder / "work"
    work.mkdir()
    with nk.distribute(own, work, parts=2, executor=partial(LocalPool, 1)) as parted:
        first = seconds(lambda: parted @ column)
        later = min(seconds(lambda: parted @ column) for _ in range(REPEATS))
    with nk.distribute(own, work, parts=TINY_PARTS) as parted:
        files = min(seconds(lambda: parted @ column) for _ in range(REPEATS))
    alone = min(seconds(lambda: own @ column) for _ in range(REPEATS))
    with pool_of(partial(LocalPool, 2)) as pool:
        run_parts(pool, nothing, range(2))
        scheduling = min(
            seconds(lambda: run_parts(pool, nothing, range(MANY))) for _ in range(REPEATS)
        )
    return first - later, scheduling / MANY, (files - alone) / TINY_PARTS


def main() -> list[str]:
    """Return the paragraphs and tables of this part of the section `cluster`."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path()) as name:
        folder = Path(name)
        each, samples = computing(folder)
        written, added = files(folder)
        start, scheduling, part_files = overheads(folder)
    lines = []
    for of in (NODES, 4 * NODES):
        grid = Grid(LARGE, LARGE, True, TILE)
        touched = [sum(map(len, rows_of(grid, Part(k + 1, of))[0])) for k in range(of)]
        tiles = max(grid.size(Part(k + 1, of)) for k in range(of))
        rounds = of // NODES
        for k in COLUMNS:
            read, sent = sum(touched) * k * 8, sum(touched) * k * 16
            compute = rounds * tiles * TILE**2 * each[k] / CORES
            pack = rounds * max(touched) * FEATURES * ITEMS / samples
            driver = LARGE * k * (8 / written + 16 / added)
            own = rounds * max(touched) * k * (16 / written + 16 / added)
            overhead = of * scheduling + rounds * part_files
            row = [f"{of}", f"{k}", f"{compute:.1f}", f"{pack:.1f}"]
            row += [f"{read / 1e9:.1f}", f"{sent / 1e9:.1f}", f"{own:.1f}", f"{driver:.1f}"]
            row += [f"{overhead:.1f}"]
            totals = [
                compute + pack + max(own, (read + 2 * sent) / speed) + driver + overhead
                for speed in SHARED
            ]
            row += [f"{total:.0f}" for total in totals]
            row += [f"{(start + PASSES * total) / 60:.1f}" for total in totals]
            lines.append(row)
    gb = [f"{s / 1e9:.0f} GB/s" for s in SHARED]
    return [
        f"Products with K columns for N = {LARGE:,}, never stored, in parts on {NODES} nodes of "
        f"{CORES} cores, by rates measured here on N = {N:,}: "
        + ", ".join(f"{1e9 * each[k]:.1f} ns a pair and core with K = {k}" for k in COLUMNS)
        + f"; rows of a new part read, compared and packed at {samples / 1e9:.2f} GB/s; partial "
        f"products written at {written / 1e9:.2f} GB/s and added at {added / 1e9:.2f} GB/s; "
        f"{1e3 * scheduling:.1f} ms of the driver to schedule a part, {1e3 * part_files:.0f} ms of "
        f"a worker for its files; "
        f"{start:.1f} s to start a worker. Seconds of the slowest node, where files are on a file "
        f"system of the speed in the head; minutes of a solution of {PASSES} passes, without the "
        f"driver's own algebra, for ten targets: K = {COLUMNS[0]} in nystrom_pcg and, with 100 "
        f"random columns, {COLUMNS[1]} in block_krylov (`larger` has the passes that 60,000 digits "
        f"need):",
        table(
            [
                "parts", "K", "compute", "rows of X", "V read, GB", "partial products, GB",
                "own files", "driver", "overhead", *(f"pass, {g}" for g in gb),
                *(f"solution, {g}, min" for g in gb),
            ],
            lines,
        ),
    ]  # fmt: skip
