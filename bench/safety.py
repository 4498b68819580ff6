"""The cost of safety: a job against the same job without it, and verification against reading.

- Without safety, the same threads write the same tiles to the same places of a file of the same
  layout, without checksums, syncs before the end, a digest of the data or a lease.
- Reading is the whole file by a plain program, past the page cache or, cold, through it, whichever
  is faster.
"""

import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ntk_numba as nk
from bench.report import ratio, section, spread, table
from bench.timing import refresh_memory, seconds
from ntk_numba.compute.plan import make_plan
from ntk_numba.compute.stream import stream_tiles
from ntk_numba.compute.sweep import make_kernel
from ntk_numba.digest import Digest
from ntk_numba.engine.kernel import NUMERICS
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import HDF5, create, read_tile_map
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.inputs.source import open_source

N, FEATURES = 20_000, 784
NET = nk.MLP(4, b_std=0.1)
MEMORY = "2GiB"
REPEATS = 5
BLOCK = 16 << 20
SETTLE = 2  # seconds in which the disk completes postponed work


class Careless(TileFile):
    """A `TileFile` that writes tiles to their places and does nothing else."""

    def write(
        self, kernel: str, layer: int, i: int, j: int, block: Any, mirror: Any = None
    ) -> None:
        """Write a tile and its mirror image."""
        disk.write_at(self._fd, block, self.tile_map.tile_at(kernel, layer, i, j))
        if mirror is not None:
            disk.write_at(self._fd, mirror, self.tile_map.tile_at(kernel, layer, j, i))

    def commit(self) -> None:
        """Do nothing."""


def without(data: Path, output: Path) -> None:
    """Run the job without safety."""
    x = open_source(data, "X").check()
    plan = make_plan(NET, x, kernels="ntk", memory=MEMORY)
    contents = Contents(
        kernels=plan.kernels,
        layers=plan.layers,
        dtype=plan.dtype,
        grid=plan.grid,
        part=None,
        network=json.dumps(NET.to_dict()),
        x=Digest(x.shape, b"", ()),
        z=None,
    )
    fd = disk.create(output)
    create(fd, Header(contents, NUMERICS, ""))
    os.close(fd)
    with HDF5(output) as file:
        tile_map = read_tile_map(file, output, contents)
        tiles = Careless(file.descriptor, tile_map, write=True)
    with tiles:
        disk.allocate(tiles._fd, output.stat().st_size)
        stream_tiles(plan, make_kernel(plan, x, None), x, None, tiles)
        tiles.sync()


def read(path: Path, direct: bool) -> None:
    """Read a file in blocks, which are dropped."""
    block = mmap.mmap(-1, BLOCK)
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    try:
        while os.readv(fd, [block]) == BLOCK:
            pass
    finally:
        os.close(fd)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def verify(path: Path) -> None:
    """Verify a Gram file."""
    with nk.open_gram(path) as file:
        assert file.verify()


def rows(dtype: str, folder: Path) -> tuple[list[str], list[str]]:
    """Return the rows of a dtype in both tables."""
    data, output = folder / "x.npy", folder / "gram.h5"
    np.save(data, np.random.default_rng(0).standard_normal((N, FEATURES)).astype(dtype))
    nk.gram(NET, np.ones((3, 2), dtype))  # compile before anything is timed
    works: dict[str, Callable[[], object]] = {
        "job": lambda: nk.write_gram(NET, data, output, memory=MEMORY).close(),
        "without": lambda: without(data, output),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(REPEATS + 1):  # the first one is for warming up
        for name, work in sorted(works.items(), reverse=bool(turn % 2)):
            output.unlink(missing_ok=True)
            os.sync()
            time.sleep(SETTLE)
            refresh_memory()
            taken = seconds(work)
            if turn:
                times[name].append(taken)
    works["job"]()
    reads: dict[str, Callable[[], object]] = {
        "direct": lambda: read(output, direct=True),
        "cache": lambda: read(output, direct=False),
        "verify": lambda: verify(output),
    }
    took: dict[str, list[float]] = {name: [] for name in reads}
    for turn in range(REPEATS + 1):
        for name, work in reads.items():
            forget(output)
            taken = seconds(work)
            if turn:
                took[name].append(taken)
    size = output.stat().st_size
    raw = min(took["direct"], took["cache"], key=np.median)
    return (
        [dtype, *(spread(times[name]) for name in works), ratio(times["job"], times["without"])],
        [
            dtype,
            f"{size / 1e9:.1f} GB",
            *(spread(took[name]) for name in reads),
            f"{size / min(took['verify']) / 1e9:.2f} GB/s",
            ratio(took["verify"], raw),
        ],
    )


def main() -> str:
    """Return the section `safety`."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path()) as name:
        found = [rows(dtype, Path(name)) for dtype in ("float32", "float64")]
    return section(
        "safety",
        f"Θ of N = {N:,} samples, n0 = {FEATURES}, L = 4, ReLU, β = 0.1, to a file; seconds, "
        f"minimum (median) of {REPEATS} in turn; ratios of the minima, and the median of the "
        f"rounds' ratios",
        table(["dtype", "job", "without safety", "ratio"], [a for a, _ in found]),
        "Verification of these files, which are not in the page cache, against reading them:",
        table(
            ["dtype", "file", "reading, direct", "reading, page cache", "verify", "speed", "ratio"],
            [b for _, b in found],
        ),
    )
