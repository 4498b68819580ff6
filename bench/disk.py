"""A job to disk against its limit, the larger of computing its entries and writing its bytes.

- Computing: the same job with the same memory limit, whose tiles are dropped when they are done.
- Writing: as many bytes by a plain program, in the faster of two ways, with one fsync at the end.

The job is the command line in a process of its own, from its start to its end: reading, checking
and hashing the data, computing, writing, fsync.
"""

import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import ntk_numba as nk
from bench.report import section, table
from bench.timing import seconds
from ntk_numba.compute.plan import make_plan
from ntk_numba.compute.stream import prepare, stream_tiles
from ntk_numba.inputs.source import open_source

N, FEATURES, DEPTH, B_STD, REPEATS = 60_000, 784, 4, 0.1, 2
MEMORY = "2GiB"
BLOCK = 16 << 20
SETTLE = 5  # seconds in which the disk and the host of a virtual machine complete postponed work

# On Linux the peak memory of a process includes that of its parent when it was started, so a small
# launcher starts the job
LAUNCHER = """
import os, subprocess, sys
job = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(job.pid, 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""


class Dropped:
    """A stand-in for a `TileFile` that drops all tiles."""

    def write(self, *tile: object, mirror: object = None) -> None:
        """Do nothing."""

    def commit(self) -> None:
        """Do nothing."""


def compute(data: Path) -> None:
    """Run the job without its file."""
    source = open_source(data, "X")
    plan = make_plan(nk.MLP(DEPTH, b_std=B_STD), source, kernels="ntk", memory=MEMORY)
    stream_tiles(plan, prepare(plan, source, None), source, None, Dropped())


def write(path: Path, size: int, direct: bool) -> None:
    """Write `size` bytes in blocks, through the page cache or past it, and one fsync."""
    block = mmap.mmap(-1, BLOCK)  # direct writing needs memory that begins at a page
    block.write(np.random.default_rng(0).bytes(BLOCK))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0)
    file = os.open(path, flags)
    try:
        os.posix_fallocate(file, 0, size)
        for at in range(0, size // BLOCK * BLOCK, BLOCK):
            os.pwrite(file, block, at)
        os.fsync(file)
    finally:
        os.close(file)


def run(data: Path, output: Path) -> int:
    """Run the job in a process of its own, and return its peak of resident memory in bytes."""
    network = ["--depth", str(DEPTH), "--b-std", str(B_STD)]
    limits = ["--memory", MEMORY, "--quiet"]
    job = [sys.executable, "-m", "ntk_numba", "gram", data, "-o", output, *network, *limits]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *job], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError("the job failed")
    return int(done.stdout) * 1024


def row(n: int, dtype: str, folder: Path) -> list[str]:
    """Return the row of one dtype."""
    size = n * n * np.dtype(dtype).itemsize
    data, output = folder / "x.npy", folder / "gram.h5"
    np.save(data, np.random.default_rng(0).standard_normal((n, FEATURES)).astype(dtype))
    nk.gram(nk.MLP(DEPTH), np.ones((3, 2), dtype))  # compile before anything is timed
    resident = []

    def measure(work: Callable[[], object]) -> float:
        output.unlink(missing_ok=True)
        os.sync()  # complete the writes of the previous work
        time.sleep(SETTLE)
        return seconds(work)

    cached = measure(lambda: write(output, size, direct=False))
    direct = measure(lambda: write(output, size, direct=True))
    plain = min(cached, direct)
    computing, job = [], []
    for _ in range(REPEATS):
        computing.append(measure(lambda: compute(data)))
        job.append(measure(lambda: resident.append(run(data, output))))
    output.unlink()
    return [
        f"{n:,}",
        dtype,
        f"{size / 1e9:.1f} GB",
        *(" ".join(f"{t:.1f}" for t in times) for times in (job, computing)),
        f"{cached:.1f}",
        f"{direct:.1f}",
        f"{size / plain / 1e9:.2f} GB/s",
        " ".join(f"{j / max(c, plain):.2f}" for j, c in zip(job, computing, strict=True)),
        f"{max(resident) / 2**30:.2f} GiB",
    ]


def main(n: int = N, folder: Path = Path()) -> str:
    """Return the section `disk`, for N = `n`, with files in `folder`."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as name:
        rows = [row(n, dtype, Path(name)) for dtype in ("float32", "float64")]
    return section(
        "disk",
        f"Θ of N samples, n0 = {FEATURES}, L = {DEPTH}, ReLU, β = {B_STD}, to a file with a "
        f"memory limit of {MEMORY}; seconds of each of {REPEATS} rounds, and of one round of "
        f"writing; the ratio is the job's time to the larger of computing and the faster way of "
        f"writing",
        table(
            ["N", "dtype", "file", "job", "computing alone", "writing, page cache",
             "writing, direct", "disk", "ratio", "most resident"],
            rows,
        ),
    )  # fmt: skip
