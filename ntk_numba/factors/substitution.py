"""Substitution with a factor whose tiles are read one after another: L⁻¹Y and L⁻ᵀY, in place.

Each tile is read once for all right-hand sides in memory. A part of a right-hand side is changed by
calls of BLAS of one shape, in an order that neither threads nor memory change.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.blas import blas_threads
from ntk_numba.compiled.arrays import aligned
from ntk_numba.factors import tile_blas
from ntk_numba.factors.factor_tiles import FactorTiles

Floats = NDArray[np.floating]

READERS = 4  # threads that read, so that several requests are on their way to the disk
AHEAD = 6  # tiles that are read before they are needed


class Block(NamedTuple):
    """Right-hand sides that are changed at once.

    first : the first tile row of which entries are not zero
    parts : (tiles down − first, T, K), their entries from there on, in the dtype of the factor
    """

    first: int
    parts: Floats

    def part(self, i: int) -> Floats:
        """Return the entries of tile row i."""
        return self.parts[i - self.first]


class _Reading:
    """Tiles that are read in a given order, some of them ahead.

    Parameters
    ----------
    pool : the threads that read
    count : the number of tiles in memory
    """

    def __init__(
        self,
        store: FactorTiles,
        places: Iterator[tuple[int, int]],
        pool: ThreadPoolExecutor,
        count: int,
    ) -> None:
        self._store, self._places, self._pool = store, places, pool
        self._coming: SimpleQueue[Future[Floats]] = SimpleQueue()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        for buffer in aligned((count, store.grid.tile, store.grid.tile), store.dtype):
            self._next(buffer)

    def _next(self, buffer: Floats) -> None:
        """Have one more tile read, if any is left."""
        with self._lock:
            for i, j in self._places:
                try:
                    coming = self._pool.submit(self._read, i, j, buffer)
                except BaseException as error:  # no thread can be started: whoever waits sees it
                    self._failure, coming = error, Future()
                    coming.set_result(buffer)
                self._coming.put(coming)
                break

    def _read(self, i: int, j: int, buffer: Floats) -> Floats:
        try:
            self._store.read(i, j, buffer)
        except BaseException as error:
            self._failure = error
        return buffer

    def use(self, work: Callable[[Floats], object]) -> Callable[[], None]:
        """Return a call that does work with the next tile, as soon as it has been read."""
        coming = self._coming.get()

        def do() -> None:
            buffer = coming.result()
            try:
                if self._failure:
                    raise self._failure
                work(buffer)
            finally:
                self._next(buffer)

        return do


@contextmanager
def _reading(
    store: FactorTiles, places: Iterator[tuple[int, int]], threads: int
) -> Iterator[tuple[_Reading, ThreadPoolExecutor]]:
    """Begin to read tiles; a context of them, and of threads to compute with them."""
    with (
        blas_threads(1),
        ThreadPoolExecutor(READERS, "reader") as readers,
        ThreadPoolExecutor(threads, "worker") as workers,
    ):
        yield _Reading(store, places, readers, buffers(threads)), workers


def buffers(threads: int) -> int:
    """Return the number of tiles in memory, beside the right-hand sides."""
    return threads + AHEAD


def forward(
    store: FactorTiles,
    blocks: Sequence[Block],
    threads: int,
    finished: Callable[[int, int], object] | None = None,
) -> None:
    """Replace the parts Y of each block by L⁻¹Y.

    finished : is called with (n, j) when part j of block n is right
    """
    down, begin = store.grid.down, min(block.first for block in blocks)
    places = ((i, j) for j in range(begin, down) for i in range(j, down))
    with _reading(store, places, threads) as (reading, pool):
        for j in range(begin, down):
            active = [n for n, block in enumerate(blocks) if block.first <= j]

            def solve(n: int, tile: Floats, j: int = j) -> None:
                tile_blas.solve(tile, blocks[n].part(j), transpose=False)
                if finished:
                    finished(n, j)

            def subtract(tile: Floats, i: int, j: int = j, active: list[int] = active) -> None:
                for n in active:
                    block = blocks[n]
                    tile_blas.subtract(block.part(i), tile, block.part(j), transpose=False)

            _solve(pool, reading, partial(_pad, store, j), solve, active)
            _subtract(pool, reading, [partial(subtract, i=i) for i in range(j + 1, down)])


def backward(store: FactorTiles, blocks: Sequence[Block], threads: int) -> None:
    """Replace the parts Y of each block, which begins at tile row 0, by L⁻ᵀY."""
    down = store.grid.down
    places = ((i, j) for i in reversed(range(down)) for j in reversed(range(i + 1)))
    with _reading(store, places, threads) as (reading, pool):
        for i in reversed(range(down)):

            def solve(n: int, tile: Floats, i: int = i) -> None:
                tile_blas.solve(tile, blocks[n].part(i), transpose=True)

            def subtract(tile: Floats, j: int, i: int = i) -> None:
                for block in blocks:
                    tile_blas.subtract(block.part(j), tile, block.part(i), transpose=True)

            _solve(pool, reading, partial(_pad, store, i), solve, range(len(blocks)))
            _subtract(pool, reading, [partial(subtract, j=j) for j in reversed(range(i))])


def _solve(
    pool: ThreadPoolExecutor,
    reading: _Reading,
    prepare: Callable[[Floats], object],
    solve: Callable[[int, Floats], None],
    blocks: Iterable[int],
) -> None:
    """Solve with a tile of the diagonal for each block."""
    stopping.check()

    def work(tile: Floats) -> None:
        prepare(tile)
        list(pool.map(lambda n: solve(n, tile), blocks))

    reading.use(work)()


def _subtract(
    pool: ThreadPoolExecutor, reading: _Reading, works: Sequence[Callable[[Floats], None]]
) -> None:
    """Do works with the next tiles, one each."""
    tasks: list[Future[None]] = []
    try:
        for work in works:
            tasks.append(pool.submit(reading.use(work)))
    finally:
        for task in tasks:
            task.result()


def _pad(store: FactorTiles, i: int, tile: Floats) -> None:
    """Put ones on the diagonal beyond the matrix, so that a tile of the diagonal is invertible."""
    size = store.grid.height(i)
    np.fill_diagonal(tile[size:, size:], 1)
