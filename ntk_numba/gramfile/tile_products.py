"""Products of tiles with vectors, by several threads that read and multiply at the same time."""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.blas import blas_threads
from ntk_numba.grid import Grid
from ntk_numba.machine import threads_to_use
from ntk_numba.pool import in_order

Doubles = NDArray[np.float64]
Places = NDArray[np.intp]
Kept: TypeAlias = dict[tuple[int, int], NDArray[np.floating]]
Blocks: TypeAlias = list[tuple[int, Doubles]]
Result = TypeVar("Result")

READERS = 4  # threads that read, at least: they wait for the disk most of the time
# Tiles are multiplied by few vectors in strips of so many rows, which the first-level caches hold
# together with the product: up to 2.5 times as fast as at once, while more vectors are slower
STRIP, FEW = 64, 16


class Tiles(Protocol):
    """What tiles are read from, by any thread."""

    @property
    def grid(self) -> Grid: ...

    def buffer(self) -> NDArray[np.floating]:
        """Return an array that `read` fills."""
        ...

    def read(self, i: int, j: int, out: NDArray[np.floating]) -> NDArray[np.floating]:
        """Fill an array with a tile, and return the part of it that lies in the matrix."""
        ...


def tile_products(
    tiles: Tiles,
    places: Places,
    columns: Doubles,
    take: Callable[[tuple[int, int], Blocks], Result],
    *,
    transpose: bool = False,
    threads: int | None = None,
    kept: Kept | None = None,
) -> Iterator[Result]:
    """Yield what `take` returns for the products of each tile, in the order of the tiles.

    The products of a tile K_ij are K_ij V_j, which belongs to the rows of i, and, if the matrix is
    symmetric and i ≠ j, K_ijᵀ V_i, which belongs to the rows of j. Each is one product, or 8 for
    few columns, on one thread of BLAS, so that its bits do not depend on the number of threads.

    Parameters
    ----------
    places : (n, 2), the (i, j) of the tiles
    columns : (M, K) float64; in the order of Fortran they are not copied
    take : is called by the thread that has multiplied, with (i, j) and the products: of each, its
        first row and a block (rows, K), which is valid until the thread multiplies another tile
    transpose : compute only K_ijᵀ V_i, of a matrix that is not symmetric
    threads : the number of threads that multiply at the same time; by default all
    kept : tiles that need not be read, which are removed when they have been multiplied
    """
    grid, own = tiles.grid, threading.local()
    count = threads_to_use(threads)
    cores = threading.Semaphore(count)  # a thread that reads takes none
    rows = np.ascontiguousarray(columns.T)
    edge, held = grid.tile, {} if kept is None else kept

    def multiply(place: Places) -> Result:
        i, j = map(int, place)
        if not hasattr(own, "tile"):
            own.tile = tiles.buffer()
            own.strip = np.empty((STRIP if len(rows) <= FEW else edge, edge))
            own.products = [np.empty(len(rows) * edge) for _ in range(2)]
        block = held.pop((i, j), None)
        if block is None:
            block = tiles.read(i, j, own.tile)
        height, width = block.shape
        first, second = (
            memory[: len(rows) * n].reshape(len(rows), n)
            for memory, n in zip(own.products, block.shape, strict=True)
        )
        down, across = i * edge, j * edge
        right = left = None
        found = []
        if not transpose:
            right = rows[:, across : across + width]
            found.append((down, first.T))
        if transpose or (grid.symmetric and i != j):
            left = rows[:, down : down + height]
            found.append((across, second.T))
        with cores:
            _multiply(block, own.strip, (right, first), (left, second))
            return take((i, j), found)

    workers = max(count, READERS)
    with blas_threads(1):
        for result in in_order(multiply, places, workers, ahead=2 * workers, name="product"):
            stopping.check()
            yield result


def _multiply(
    block: NDArray[np.floating],
    strip: Doubles,
    straight: tuple[Doubles | None, Doubles],
    mirrored: tuple[Doubles | None, Doubles],
) -> None:
    """Compute rows of vectors @ blockᵀ, and others @ block, in float64.

    Vectors are rows in memory: with columns, thin products take one and a half times as long.

    strip : (n, T) memory for n rows of a tile, which are multiplied at a time
    straight, mirrored : the vectors of each product, or None, and the product
    """
    (right, first), (left, second) = straight, mirrored
    height, width = block.shape
    step = len(strip)
    for a in range(0, height, step):
        b = min(a + step, height)
        part: Doubles = block[a:b]  # type: ignore[assignment]
        if part.dtype != np.float64:
            part = strip[: b - a, :width]
            part[...] = block[a:b]
        if right is not None:
            np.matmul(right, part.T, out=first[:, a:b])
        if left is not None and a == 0:
            np.matmul(left[:, a:b], part, out=second)
        elif left is not None:
            second += left[:, a:b] @ part
