"""A matrix of a Gram file that is read tile by tile: its products, diagonal and tiles.

Each stored tile is read once in a pass, past HDF5, by a few threads, and compared with its
checksum. A tile of a symmetric matrix is multiplied for itself and for its mirror image.
"""

import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.blas import blas_threads
from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.sources import Source
from ntk_numba.grid import Grid, Part
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.pool import in_order
from ntk_numba.sums import Sums, balanced

Doubles = NDArray[np.float64]
Places = NDArray[np.intp]
Kept: TypeAlias = dict[tuple[int, int], NDArray[np.floating]]
Products: TypeAlias = tuple[tuple[int, int], list[tuple[int, Doubles]]]

READERS = 4  # threads that read, at least: they wait for the disk most of the time
# Tiles are multiplied by few columns in strips of so many rows, which the first-level caches hold
# together with the product: up to 2.5 times as fast as at once, while more columns are slower
STRIP, FEW = 64, 16
KEPT_BYTES = 64 << 20  # of diagonal tiles, which the first pass reads first, to use them again


class MatrixOfFile:
    """One kernel and layer of an open Gram file. Any thread may use it.

    Parameters
    ----------
    path, contents : the path of the file, for errors, and its contents
    kernel, layer : "nngp" or "ntk", and the number of the matrix of this kernel, from 0
    source : reads its tiles

    Attributes
    ----------
    grid : Grid
    dtype : float32 or float64
    places : (n, 2), the (i, j) of all tiles that are stored, in the order in which they are read.
        Of a symmetric matrix these are tiles on and below the diagonal.
    direct : bool
        Whether tiles are read past the page cache. They are if the matrix does not fit into half
        of the memory that is available: then no tile would still be there in the next pass.
    """

    def __init__(
        self, path: Path, contents: Contents, kernel: str, layer: int, source: Source
    ) -> None:
        self.path, self.contents, self.kernel, self.layer = path, contents, kernel, layer
        self.grid: Grid = contents.grid
        self.dtype = contents.dtype
        self._source = source
        self._diagonal: Doubles | None = None
        self._lock = threading.Lock()
        self.direct = contents.count * contents.tile_bytes > available_memory() // 2

    @cached_property
    def places(self) -> Places:
        """The (i, j) of the tiles that are stored."""
        return self._source.in_order(np.argwhere(self.contents.storage.mask))

    @property
    def name(self) -> str:
        """The name of the matrix for people, such as "ntk" or "ntk layer 2"."""
        return self.contents.matrix_name(self.kernel, self.layer)

    @cached_property
    def identity(self) -> str:
        """A hex digest that changes if any entry may have changed."""
        c = self.contents
        about = c.network, c.grid, c.part, c.x.hex, c.z and c.z.hex, str(c.dtype)
        digest = xxhash.xxh3_128(repr((about, self.kernel, self.layer)).encode())
        digest.update(self._source.fingerprint(self.kernel, self.layer))
        return digest.hexdigest()

    def buffer(self) -> NDArray[np.floating]:
        """Return an array for `read`."""
        return aligned(self.grid.chunk, self.dtype)

    def read(self, i: int, j: int, out: NDArray[np.floating]) -> NDArray[np.floating]:
        """Fill an array with a stored tile, and return the part that lies in the matrix.

        out : what `buffer` returns, or another C-contiguous array of a stored tile's shape; the
            page cache is bypassed only if it begins at a page of memory

        Raises
        ------
        ValueError
            The tile is damaged, or was changed since the file was opened.
        """
        direct = self.direct and out.ctypes.data % PAGE == 0
        self._source.read((self.kernel, self.layer, i, j), out, direct=direct)
        return out[: self.grid.height(i), : self.grid.width(j)]

    def blocks(self) -> Iterator[tuple[slice, slice, NDArray[np.floating]]]:
        """Yield the rows, the columns and the entries of each stored tile once."""
        tile = self.grid.tile

        def load(place: NDArray[np.intp]) -> tuple[slice, slice, NDArray[np.floating]]:
            i, j = map(int, place)
            block = self.read(i, j, self.buffer())
            height, width = block.shape
            rows = slice(i * tile, i * tile + height)
            return rows, slice(j * tile, j * tile + width), block

        yield from in_order(load, self.places, READERS, name="reader")

    def diagonal(self, kept: Kept | None = None) -> Doubles:
        """Return the diagonal (N,) of a symmetric matrix, which is read once.

        kept : is filled with diagonal tiles that had to be read, up to KEPT_BYTES
        """
        grid = self.grid
        self._refuse_rectangular("diagonal")
        with self._lock:
            if self._diagonal is None:
                found = np.empty(grid.rows)
                most = 0 if kept is None else KEPT_BYTES // self.contents.tile_bytes

                def load(i: int) -> None:
                    block = self.read(i, i, self.buffer())
                    found[i * grid.tile : (i + 1) * grid.tile] = np.diagonal(block)
                    if kept is not None and i < most:
                        kept[i, i] = block

                for _ in in_order(load, range(grid.down), READERS, name="reader"):
                    pass
                self._diagonal = found
            return self._diagonal

    def columns(self, indices: Places) -> Doubles:
        """Return K[:, indices] in float64, (N, m); each tile that has some of them is read once.

        indices : (m,) from 0 to M − 1, in any order, with repeats
        """
        grid, tile = self.grid, self.grid.tile
        found = np.empty((grid.rows, len(indices)))
        at = {int(t): np.flatnonzero(indices // tile == t) for t in np.unique(indices // tile)}
        down, across = self.places.T
        wanted = np.isin(across, [*at]) | (np.isin(down, [*at]) & grid.symmetric)

        def load(place: Places) -> None:
            i, j = map(int, place)
            block = self.read(i, j, self.buffer())
            rows = slice(i * tile, i * tile + block.shape[0])
            columns = slice(j * tile, j * tile + block.shape[1])
            if j in at:
                found[rows, at[j]] = block[:, indices[at[j]] - columns.start]
            if grid.symmetric and i != j and i in at:
                found[columns, at[i]] = block[indices[at[i]] - rows.start].T

        for _ in in_order(load, self.places[wanted], READERS, name="reader"):
            pass
        return found

    @property
    def bounds(self) -> tuple[Doubles, Doubles]:
        """Two vectors a, b (N,) with |K_ij| ≤ a_i b_j: √K_ii of a symmetric matrix.

        Raises
        ------
        ValueError
            The matrix is of two data sets, or it is no kernel: its diagonal has a number < 0.
        """
        diagonal = self.diagonal()
        wrong = ~(np.isfinite(diagonal) & (diagonal >= 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise InvalidValueError(
                f"{self.path}: the diagonal of {self.name} is {diagonal[row]} in row {row} "
                f"(counted from 0), so that it is no kernel; compute the file again"
            )
        return (np.sqrt(diagonal),) * 2

    def _refuse_rectangular(self, what: str) -> None:
        """Raise an error if the matrix is of two data sets."""
        if not self.grid.symmetric:
            raise InvalidValueError(
                f"{self.path} is of two data sets, {self.grid.rows} × {self.grid.columns}, and has "
                f"no {what}"
            )

    def multiply(
        self, columns: Doubles, *, transpose: bool = False, threads: int | None = None
    ) -> Doubles:
        """Return K @ columns, or Kᵀ @ columns, in float64.

        The bits do not depend on `threads`, and for a symmetric matrix neither on the layout of
        the file or the order of its tiles.

        Parameters
        ----------
        columns : (M, K) finite
        threads : the number of threads that multiply; by default all

        Raises
        ------
        ValueError
            A tile is damaged, or was changed since the file was opened.
        """
        grid = self.grid
        if not grid.symmetric:
            length = grid.columns if transpose else grid.rows
            product = np.zeros((length, columns.shape[1]), order="F")
            scaled, exponents = balanced(columns, np.ones(len(columns)))
            for _, found in self._products(scaled, self.places, transpose, threads, {}):
                for start, block in found:
                    product[start : start + len(block)] += block
            return np.asarray(np.ldexp(product, exponents))
        kept: Kept = {}
        self.diagonal(kept)
        rows, weights = self.bounds
        scaled, exponents = balanced(columns, weights)
        sums = Sums(rows, np.ones(columns.shape[1]))
        self._add(scaled, sums, self.places, threads, kept)
        return np.asarray(np.ldexp(sums.result(), exponents))

    def add_part(
        self,
        scaled: Doubles,
        part: Part | None,
        sums: Sums,
        transpose: bool = False,
        *,
        threads: int | None = None,
    ) -> None:
        """Add the products of the tiles of a part of a symmetric matrix to sums.

        The sums of all parts, merged, have the bits of the sums of `multiply`.

        Parameters
        ----------
        scaled : (N, K)
            The columns as `balanced` scales them by `bounds`; rows that the part does not need may
            be 0.
        part : the part of a job with this grid; None for all tiles
        sums : with the `bounds` of the rows, and 1 for each column
        transpose : makes no difference, since the matrix is symmetric
        """
        self._refuse_rectangular("products in parts")
        wanted = self.grid.mask(part)
        self._add(scaled, sums, self.places[wanted[tuple(self.places.T)]], threads, {})

    def _add(
        self, scaled: Doubles, sums: Sums, places: Places, threads: int | None, kept: Kept
    ) -> None:
        """Add the products of some tiles to sums; those that are kept need not be read."""
        for (i, j), found in self._products(scaled, places, False, threads, kept):
            try:
                for start, block in found:
                    sums.add(start, block)
            except InvalidValueError as error:
                raise InvalidValueError(
                    f"{self.path}: tile ({i}, {j}) of {self.name} has entries that are larger "
                    f"than the diagonal allows, so that it is no kernel ({error}); run "
                    f"ntk-numba verify on the file"
                ) from None

    def _products(
        self,
        scaled: Doubles,
        places: Places,
        transpose: bool,
        threads: int | None,
        kept: Kept,
    ) -> Iterator[Products]:
        """Yield, of each tile in order, the first row and the block (n, K) of its products."""
        grid, own = self.grid, threading.local()
        count = threads_to_use(threads)
        cores = threading.Semaphore(count)  # a thread that reads takes none
        rows = np.ascontiguousarray(scaled.T)

        def multiply(place: Places) -> Products:
            i, j = map(int, place)
            block = kept.pop((i, j), None)
            if block is None:
                if not hasattr(own, "buffer"):
                    own.buffer = self.buffer()
                block = self.read(i, j, own.buffer)
            if not hasattr(own, "strip"):
                own.strip = np.empty((STRIP if len(rows) <= FEW else grid.tile, grid.tile))
            down = slice(i * grid.tile, i * grid.tile + block.shape[0])
            across = slice(j * grid.tile, j * grid.tile + block.shape[1])
            straight = not transpose
            mirrored = transpose or (grid.symmetric and i != j)
            with cores:
                first, second = _product(
                    block,
                    rows[:, across] if straight else None,
                    rows[:, down] if mirrored else None,
                    own.strip,
                )
            found = [(down.start, first.T)] if straight else []
            return (i, j), found + ([(across.start, second.T)] if mirrored else [])

        workers = max(count, READERS)
        with blas_threads(1):
            for found in in_order(multiply, places, workers, ahead=2 * workers, name="product"):
                stopping.check()
                yield found


def _product(
    block: NDArray[np.floating], right: Doubles | None, left: Doubles | None, strip: Doubles
) -> tuple[Any, Any]:
    """Return right @ blockᵀ and left @ block, in float64, for rows of vectors.

    Vectors are rows in memory: with columns, thin products take one and a half times as long.

    strip : (n, T) memory for n rows of a tile, which are multiplied at a time
    """
    height, width = block.shape
    step = len(strip)
    first = None if right is None else np.empty((len(right), height))
    second = None if left is None else np.zeros((len(left), width))
    for a in range(0, height, step):
        b = min(a + step, height)
        part = block[a:b]
        if part.dtype != np.float64:
            part = strip[: b - a, :width]
            part[...] = block[a:b]
        if right is not None and first is not None:
            np.matmul(right, part.T, out=first[:, a:b])
        if left is not None and second is not None:
            second += left[:, a:b] @ part
    return first, second
