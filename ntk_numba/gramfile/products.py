"""A matrix of a Gram file that is read tile by tile: its products, diagonal and tiles.

Each stored tile is read once in a pass, past HDF5, by a few threads, and compared with its
checksum. A tile of a symmetric matrix is multiplied for itself and for its mirror image.
"""

import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.sources import Source
from ntk_numba.gramfile.tile_products import READERS, Blocks, Kept, Places, tile_products
from ntk_numba.grid import Grid, Part
from ntk_numba.machine import available_memory
from ntk_numba.pool import in_order
from ntk_numba.sums import Sums, balanced, unbalanced

Doubles = NDArray[np.float64]

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
    places : (n, 2), the (i, j) of all tiles that are stored and done, in the order in which they
        are read. Of a symmetric matrix these are tiles on and below the diagonal.
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

    @property
    def paths(self) -> list[Path]:
        """The file and, if it is linked, its parts."""
        return [self.path, *self._source.paths]

    @cached_property
    def places(self) -> Places:
        """The (i, j) of the tiles that are stored and done."""
        return self._source.places(self.kernel, self.layer)

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

    def read(
        self, i: int, j: int, out: NDArray[np.floating], *, once: bool = False
    ) -> NDArray[np.floating]:
        """Fill an array with a stored tile, and return the part that lies in the matrix.

        out : what `buffer` returns, or another C-contiguous array of a stored tile's shape; the
            page cache is bypassed only if it begins at a page of memory
        once : whether the tile is not read again soon, so that nothing is gained by the page cache

        Raises
        ------
        ValueError
            The tile is damaged, or was changed since the file was opened.
        """
        direct = (once or self.direct) and out.ctypes.data % PAGE == 0
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
        # Where K_ii has underflowed, other entries of the row may not have.
        least = np.finfo(self.dtype).tiny
        return (np.sqrt(np.maximum(diagonal, least)),) * 2

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

            def copied(place: tuple[int, int], found: Blocks) -> Blocks:
                return [(start, block.copy()) for start, block in found]

            for found in tile_products(
                self, self.places, scaled, copied, transpose=transpose, threads=threads
            ):
                for start, block in found:
                    product[start : start + len(block)] += block
            return unbalanced(product, exponents)
        kept: Kept = {}
        self.diagonal(kept)
        rows, weights = self.bounds
        scaled, exponents = balanced(columns, weights)
        sums = Sums(rows, np.ones(columns.shape[1]))
        self._add(scaled, sums, self.places, threads, kept)
        return unbalanced(sums.result(), exponents)

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
        tile = self.grid.tile
        locks = [threading.Lock() for _ in range(self.grid.down)]

        def add(place: tuple[int, int], found: Blocks) -> None:
            try:
                for start, block in found:
                    with locks[start // tile]:
                        sums.add(start, block)
            except InvalidValueError as error:
                raise InvalidValueError(
                    f"{self.path}: tile {place} of {self.name} has entries that are larger than "
                    f"the diagonal allows, so that it is no kernel ({error}); run ntk-numba "
                    f"verify on the file"
                ) from None

        for _ in tile_products(self, places, scaled, add, threads=threads, kept=kept):
            pass
