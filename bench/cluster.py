"""Parts, their merge, the layout "lower", and an estimate for a job of a million samples.

- A job in each layout, and how fast its file is read.
- Merging parts, against a plain program that copies as many bytes to and from the same disk.
- N = 1,000,000 on 100 nodes of 64 cores: the bytes read and written, counted exactly by the grid
  that such a job would have, and the time that they take at the rates measured here.
- Products with such a matrix, and solutions, without storing it: `cluster_passes`.
"""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import ntk_numba as nk
from bench import cluster_passes
from bench.report import ratio, section, spread, table
from bench.safety import forget
from bench.timing import refresh_memory, seconds
from ntk_numba.compute.plan import make_plan
from ntk_numba.grid import Part, tile_size
from ntk_numba.inputs.source import Source, open_source
from ntk_numba.machine import available_threads

N, FEATURES = 20_000, 784
NET = nk.MLP(4, b_std=0.1)
PARTS = 8
REPEATS = 3
SETTLE = 2  # seconds in which the disk completes postponed work

LARGE, NODES, CORES = 1_000_000, 100, 64
SHARED = 10e9, 100e9  # bytes a second of a file system that is shared by all nodes


def quiet(*paths: Path) -> None:
    """Wait until pending writes are done, and drop these files from the page cache."""
    os.sync()
    time.sleep(SETTLE)
    for path in paths:
        if path.exists():
            forget(path)
    refresh_memory()


def layouts(data: Path, folder: Path) -> tuple[str, float]:
    """Return the table of both layouts, and the seconds of computing without a file."""
    output = {name: folder / f"{name}.h5" for name in ("full", "lower")}
    times: dict[str, list[float]] = {}

    def note(name: str, taken: float) -> None:
        times.setdefault(name, []).append(taken)

    for turn in range(REPEATS + 1):  # the first one is for warming up
        for name, path in output.items():
            path.unlink(missing_ok=True)
            quiet()
            taken = seconds(lambda n=name, p=path: nk.write_gram(NET, data, p, layout=n).close())
            if turn:
                note(name, taken)
    for _ in range(REPEATS):
        for name, path in output.items():
            with nk.open_gram(path) as file:
                quiet(path)
                note(f"{name} all", seconds(lambda f=file: f.ntk[:]))
                quiet(path)
                note(f"{name} rows", seconds(lambda f=file: f.ntk[N // 2 : N // 2 + 512]))
                quiet(path)
                note(f"{name} verify", seconds(file.verify))
    x = nk.gram(NET, np.load(data, mmap_mode="r"), kernels="ntk", dtype="float32")
    compute = min(
        seconds(lambda: nk.gram(NET, np.load(data, mmap_mode="r"), kernels="ntk", out=x))
        for _ in range(3)
    )
    what = {"": "job", " all": "read all", " rows": "read 512 rows", " verify": "verify"}
    lines = [
        [
            name,
            f"{path.stat().st_size / 1e9:.2f} GB",
            *(spread(times[name + key]) for key in what),
        ]
        for name, path in output.items()
    ]
    ratios = [ratio(times["lower" + key], times["full" + key]) for key in what]
    sizes = [path.stat().st_size for path in output.values()]
    lines.append(["ratio", f"{sizes[1] / sizes[0]:.2f}", *ratios])
    for path in output.values():
        path.unlink()
    return table(["layout", "file", *what.values()], lines), compute


def copy_plainly(parts: list[Path], output: Path, images: int) -> None:
    """Copy as many bytes as a merge does, in large blocks past the page cache."""
    block = np.empty((16 << 20) + 4096, np.uint8)
    block = block[-block.ctypes.data % 4096 :][: 16 << 20]
    to = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o666)
    for part in parts:
        fd = os.open(part, os.O_RDONLY | os.O_DIRECT)
        while count := os.readv(fd, [block]):
            for _ in range(images):
                os.write(to, block[: count // 4096 * 4096])
        os.close(fd)
    os.fsync(to)
    os.close(to)


def merges(data: Path, folder: Path) -> tuple[str, float]:
    """Return the table of merges, and the bytes a second of a merge into the layout "lower"."""
    output = folder / "g.h5"
    parts = []
    for number in range(1, PARTS + 1):
        with nk.write_gram(NET, data, output, part=(number, PARTS)) as file:
            parts.append(file.path)
    size = sum(path.stat().st_size for path in parts)
    works = {
        "full": (lambda: nk.merge(parts, output).close(), lambda: copy_plainly(parts, output, 2)),
        "lower": (
            lambda: nk.merge(parts, output, layout="lower").close(),
            lambda: copy_plainly(parts, output, 1),
        ),
    }
    times: dict[str, list[list[float]]] = {name: [[], []] for name in works}
    for turn in range(REPEATS + 1):
        for name, pair in works.items():
            for k, work in enumerate(pair):
                output.unlink(missing_ok=True)
                quiet(*parts)
                taken = seconds(work)
                if turn:
                    times[name][k].append(taken)
    output.unlink()
    link = [seconds(lambda: nk.merge(parts, output, link=True, overwrite=True).close())]
    lines = []
    for name, (merge, plain) in times.items():
        bytes_ = size * (3 if name == "full" else 2)
        speed = f"{bytes_ / min(merge) / 1e9:.2f} GB/s"
        lines.append([name, f"{bytes_ / 1e9:.1f} GB", spread(merge), spread(plain), speed,
                      ratio(merge, plain)])  # fmt: skip
    lines.append(["link", f"{output.stat().st_size / 1e3:.0f} kB", f"{link[0]:.3f}", "", "", ""])
    head = ["merge", "read and written", "seconds", "plain copy", "speed", "ratio"]
    return table(head, lines), size / min(times["lower"][0])


class Shape:
    """A stand-in for an array of any size, which is never read."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.dtype = shape, np.dtype(np.float32)


def large(per_pair: float, hashing: float, disk: float) -> str:
    """Return the table of a job of a million samples.

    per_pair : seconds that a core takes for a pair
    hashing, disk : bytes a second of reading and hashing X, and of copying on one disk
    """
    rows = []
    x = Source("X", Shape(LARGE, FEATURES))
    assert tile_size(LARGE, LARGE, FEATURES, 4, 2) == 512
    for of in (NODES, 10 * NODES):
        plans = [make_plan(NET, x, part=Part(k + 1, of), memory="64GiB") for k in range(of)]
        read = [
            sum(len(p.rows) + len(p.columns) for p in plan.grid.pieces(plan.part))
            * plan.grid.tile * FEATURES * 4
            for plan in plans
        ]  # fmt: skip
        written = [plan.output_bytes for plan in plans]
        rounds = of / NODES
        compute = max(plan.pairs for plan in plans) * per_pair / CORES * rounds
        hashed = max(read) / hashing * rounds
        own = sum(written) / NODES / disk
        shared = [(sum(read) + sum(written)) / speed for speed in SHARED]
        whole = [max(compute + hashed, own, s) for s in shared]
        rows.append(
            [
                f"{of:,}",
                f"{plans[0].count:,}",
                f"{sum(read) / 1e9:,.0f} GB",
                f"{of * LARGE * FEATURES * 4 / 1e9 * 2 / 3:,.0f} GB",
                f"{sum(written) / 1e12:.2f} TB",
                f"{of + 1:,}",
                f"{compute:.1f}",
                f"{hashed:.1f}",
                f"{own:.0f}",
                *(f"{s:.0f}" for s in shared),
                *(f"{s:.0f}" for s in whole),
            ]
        )
    gb = [f"{s / 1e9:.0f} GB/s" for s in SHARED]
    return table(
        [
            "parts", "tiles each", "X read", "by runs of rows", "written", "files", "compute",
            "digest", "own disk", *(f"shared, {g}" for g in gb), *(f"job, {g}" for g in gb),
        ],
        rows,
    )  # fmt: skip


def main() -> str:
    """Return the section `cluster`."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path()) as name:
        folder = Path(name)
        data = folder / "x.npy"
        np.save(data, np.random.default_rng(0).standard_normal((N, FEATURES)).astype("f4"))
        first, compute = layouts(data, folder)
        second, merging = merges(data, folder)
        hashing = data.stat().st_size / min(
            seconds(lambda: open_source(data, "X").survey(digest=True)) for _ in range(3)
        )
        probe = folder / "probe"
        source = folder / "source"
        source.write_bytes(np.random.default_rng(0).bytes(1 << 30))
        quiet(source)
        start = time.perf_counter()
        copy_plainly([source], probe, 1)
        disk = (1 << 30) / (time.perf_counter() - start)
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
            folder.mkdir()
    threads = available_threads()
    per_pair = compute * threads / (N * (N + 1) / 2)
    triangle = LARGE * (LARGE + 1) / 2 * 4
    return section(
        "cluster",
        f"Θ of N = {N:,} samples, n0 = {FEATURES}, float32, L = 4, ReLU, β = 0.1; seconds, minimum "
        f"(median) of {REPEATS} in turn, files cold; ratios of the minima, and the median of the "
        f"rounds' ratios",
        first,
        f"The merge of its {PARTS} parts, against a plain program that reads and writes as many "
        f"bytes past the page cache:",
        second,
        f"N = {LARGE:,}, the same network and features, lower triangle, on {NODES} nodes of "
        f"{CORES} cores, at the rates measured here: {1e9 * per_pair:.1f} ns a pair and core, "
        f"{hashing / 1e9:.2f} GB/s of X read and hashed, {disk / 1e9:.2f} GB/s copied. Times are "
        f"in seconds; bytes read and written are counted with the job's own grid:",
        large(per_pair, hashing, disk),
        f"One node merges its parts at {merging / 1e9:.2f} GB/s, in "
        f"{triangle / merging / 60:.0f} minutes; a link takes seconds.",
        *cluster_passes.main(),
    )
