"""Estimates of how long a job takes, from a short calibration on this machine.

The command line calls `estimate` when only the plan of a job is asked for.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.compute.plan import Plan
from ntk_numba.compute.sweep import make_kernel
from ntk_numba.engine.tile import tile_table
from ntk_numba.gramfile.disk import set_direct, write_at
from ntk_numba.inputs.source import Source

TILES_PER_THREAD = 4
PROBE_BYTES = 64 << 20


class Estimate(NamedTuple):
    """Estimated seconds of a job, which computes and writes at the same time.

    compute : seconds of computing on all threads
    write : seconds of writing
    """

    compute: float
    write: float

    @property
    def total(self) -> float:
        """The seconds of the job, which are those of the slower of the two."""
        return max(self.compute, self.write)


def estimate(plan: Plan, x: Source, folder: Path) -> Estimate:
    """Estimate the time of a job from a few tiles of its data, and from a write to `folder`.

    The write takes up to `PROBE_BYTES`. It bypasses the page cache as the job does.

    Raises
    ------
    ValueError
        If the rows of these tiles hold NaN or infinity, or are too large for the dtype.
    OSError
        If the rows cannot be read, or the folder cannot be written.
    """
    head = Source(x.name, x.read(0, min(x.shape[0], 2 * plan.grid.tile))).check()
    kernel = make_kernel(plan, head, None)
    samples = kernel.samples(head, 0, head.shape[0])
    tile = min(plan.grid.tile, head.shape[0])
    count = TILES_PER_THREAD * plan.threads
    # The tiles are off the diagonal, as nearly all tiles of a job are.
    column = tile if head.shape[0] == 2 * tile else 0
    nngp, ntk = kernel.outputs(2 * tile * count, tile)
    to = np.array([(2 * k * tile, 0) for k in range(count)])
    mirrors = to + np.array([tile, 0]) if plan.grid.symmetric else (-1, -1)
    tiles = tile_table([(0, column, tile, tile)] * count, to, mirrors)
    seconds = []
    for _ in range(3):  # the first may compile
        start = time.perf_counter()
        kernel.compute(tiles, samples, samples, nngp, ntk)
        seconds.append(time.perf_counter() - start)
    compute = min(seconds) / (count * tile * tile) * plan.pairs
    free = shutil.disk_usage(folder).free
    probe = max(1, min(PROBE_BYTES, max(plan.output_bytes, 1 << 20), free // 2))
    return Estimate(compute, plan.output_bytes / _write_speed(folder, probe))


def _write_speed(folder: Path, size: int) -> float:
    """Return the bytes per second that a disk takes, if they are written as tiles are."""
    block = aligned((min(size, 1 << 20),), np.uint8)
    block[:] = np.random.default_rng(0).integers(256, size=block.size)
    with tempfile.TemporaryFile(dir=folder) as file:
        set_direct(file.fileno(), block.size % PAGE == 0)
        start = time.perf_counter()
        for k in range(size // block.size):
            write_at(file.fileno(), block, k * block.size)
        os.fsync(file.fileno())
        return size / (time.perf_counter() - start)
