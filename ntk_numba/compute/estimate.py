"""Estimates of how long a job takes, from a short calibration on this machine.

The command line calls `estimate` and `estimate_uses` when only the plan of a job is asked for.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.blas import blas_threads
from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.compute.plan import Plan
from ntk_numba.compute.sweep import make_kernel
from ntk_numba.engine.product_tile import WIDTH, Side
from ntk_numba.engine.tile import tile_table
from ntk_numba.gramfile.disk import read_at, set_direct, sync, write_at
from ntk_numba.inputs.source import Source

TILES_PER_THREAD = 4
PROBE_BYTES = 64 << 20
COLUMNS = 10  # of the products whose time is estimated
READERS = 4
SQUARE = 1024  # rows of the matrices whose product measures BLAS


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


class Uses(NamedTuple):
    """Estimated seconds of what is done with one kernel of a job, on all threads.

    Attributes
    ----------
    columns : K, of the product with K columns
    computing : seconds of a product that computes the tiles and stores none
    reading : seconds of a product that reads the tiles from a file, each once, past the page cache
    speed : bytes per second that the disk was read with
    cholesky : seconds of a Cholesky factorisation, N³/3 operations at the speed of matrix products;
        None if the matrix is of two data sets
    """

    columns: int
    computing: float
    reading: float
    speed: float
    cholesky: float | None

    @property
    def choice(self) -> str:
        """What is faster for products, for people."""
        if self.computing <= self.reading:
            return "computing is faster: products need no file"
        return "reading is faster: store the matrix for many products"


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
    probe = _Probe(plan, x)
    nngp, ntk = probe.kernel.outputs(2 * probe.tile * probe.count, probe.tile)
    to = np.array([(2 * k * probe.tile, 0) for k in range(probe.count)])
    mirrors = to + np.array([probe.tile, 0]) if plan.grid.symmetric else (-1, -1)
    tiles = tile_table(probe.reads, to, mirrors)
    compute = probe.seconds(
        lambda: probe.kernel.compute(tiles, probe.samples, probe.samples, nngp, ntk)
    )
    size = _probe_bytes(folder, plan.output_bytes)
    with _written(folder, size) as (_, seconds):
        return Estimate(compute * plan.pairs, plan.output_bytes * seconds / size)


def estimate_uses(plan: Plan, x: Source, folder: Path, columns: int = COLUMNS) -> Uses:
    """Estimate what is done with the last layer of a kernel, stored in `folder` or not stored.

    The estimates follow from a product of a few tiles of the data, from a read of up to
    `PROBE_BYTES` past the page cache, and from a matrix product by BLAS. A product from a file
    takes the longer of reading and multiplying. Of a symmetric matrix, one triangle is computed or
    read.

    Parameters
    ----------
    plan : the plan of a job
    x : its data
    folder : the folder of its output
    columns : K, the number of vectors that a pass multiplies

    Raises
    ------
    ValueError, OSError
        See `estimate`.
    """
    grid, real = plan.grid, plan.dtype
    one = replace(plan, kernels=plan.kernels[-1:], layers="last", part=None)
    probe = _Probe(one, x)
    height = -(-probe.head.shape[0] // grid.tile) * grid.tile
    vectors = np.ones((-(-columns // WIDTH), height, WIDTH))
    totals, rests = (np.zeros((columns, height), np.int64) for _ in range(2))
    side = Side(vectors, totals, rests, np.ones(height), np.zeros(2, np.int64))
    tiles = tile_table(probe.reads, [read[:2] for read in probe.reads])
    other = side if grid.symmetric else side._replace(vectors=vectors[:0])
    computing = probe.seconds(
        lambda: probe.kernel.multiply(tiles, probe.samples, probe.samples, side, other)
    )
    size = _probe_bytes(folder, grid.count * grid.tile**2 * real.itemsize)
    with _written(folder, size) as (file, _):
        speed = size / fastest(lambda: _read(file, size))
    block, right = np.ones((grid.tile, grid.tile)), np.ones((grid.tile, columns))
    products = 2 if grid.symmetric else 1
    with blas_threads(1):
        multiplying = products * fastest(lambda: block @ right) / block.size / plan.threads
    edge = min(SQUARE, grid.rows)
    square = np.ones((edge, edge), real)
    with blas_threads(plan.threads):
        operation = fastest(lambda: square @ square) / (2 * edge**3)
    return Uses(
        columns,
        computing * one.pairs,
        max(multiplying * one.pairs, grid.count * grid.tile**2 * real.itemsize / speed),
        speed,
        operation * grid.rows**3 / 3 if grid.symmetric else None,
    )


class _Probe:
    """A few tiles of a job: their samples, and where they are."""

    def __init__(self, plan: Plan, x: Source) -> None:
        self.head = Source(x.name, x.read(0, min(x.shape[0], 2 * plan.grid.tile))).check()
        self.kernel = make_kernel(plan, self.head, None)
        self.samples = self.kernel.samples(self.head, 0, self.head.shape[0])
        self.tile = min(plan.grid.tile, self.head.shape[0])
        self.count = TILES_PER_THREAD * plan.threads
        # The tiles are off the diagonal, as nearly all tiles of a job are.
        column = self.tile if self.head.shape[0] == 2 * self.tile else 0
        self.reads = [(0, column, self.tile, self.tile)] * self.count

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of an entry, if `work` computes all tiles."""
        return fastest(work) / (self.count * self.tile**2)


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of three calls; the first may compile."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _probe_bytes(folder: Path, most: int) -> int:
    """Return the bytes to write to a folder, for a job that writes or reads `most` there.

    They are whole pages and, of more than one MiB, whole MiB.
    """
    most = min(PROBE_BYTES, max(most, 1 << 20), shutil.disk_usage(folder).free // 2)
    return max(PAGE, most - most % (1 << 20 if most > 1 << 20 else PAGE))


def _block(size: int) -> NDArray[np.uint8]:
    """Return memory for a piece of a probe of `size` bytes."""
    return aligned((min(size, 1 << 20),), np.uint8)


@contextmanager
def _written(folder: Path, size: int) -> Iterator[tuple[int, float]]:
    """Write a file as tiles are; yield its descriptor and the seconds, and remove it.

    size : the bytes, as `_probe_bytes` returns them
    """
    block = _block(size)
    block[:] = np.random.default_rng(0).integers(256, size=block.size)
    with tempfile.TemporaryFile(dir=folder) as file:
        set_direct(file.fileno(), block.size % PAGE == 0)
        start = time.perf_counter()
        for k in range(size // block.size):
            write_at(file.fileno(), block, k * block.size)
        sync(file.fileno())
        yield file.fileno(), time.perf_counter() - start


def _read(file: int, size: int) -> None:
    """Read a file that `_written` has written, by several threads, as stored tiles are read."""
    step = _block(size).size
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(lambda at: read_at(file, _block(size), at), range(0, size, step)):
            pass
