"""The tiles of a factor, and those in a file."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import FileError
from ntk_numba.gramfile.contents import FACTOR
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.grid import Grid

Floats = NDArray[np.floating]


class FactorTiles(Protocol):
    """The tiles (i, j), j ≤ i, of a factor. Any thread may call its methods.

    grid : the geometry of the tiles, of edge T
    dtype : float32 or float64
    done : (tiles down, tiles across), whether a tile has been written
    """

    grid: Grid
    dtype: np.dtype
    done: NDArray[np.bool_]

    def read(self, i: int, j: int, out: Floats) -> None:
        """Fill `out`, (T, T), with a tile that has been written, after its checksum is compared."""

    def write(self, i: int, j: int, tile: Floats) -> None:
        """Write a tile, (T, T)."""

    def commit(self) -> None:
        """Make the tiles written so far durable."""


class StoredTiles:
    """The tiles of a factor in a file.

    Parameters
    ----------
    tiles : TileFile
        The open file, which whoever opened it closes.
    name : str
        The name of the file, for errors.
    """

    def __init__(self, tiles: TileFile, name: str) -> None:
        contents = tiles.tile_map.contents
        self.grid, self.dtype, self._tiles = contents.grid, contents.dtype, tiles
        self._name = name
        self._sums = tiles.checksums()[FACTOR][0]
        self.done = self._sums != 0

    def read(self, i: int, j: int, out: Floats) -> None:
        """Fill `out` with a tile, see `FactorTiles`.

        Raises
        ------
        OSError
            If it cannot be read, or does not match its checksum.
        """
        height, width = self.grid.chunk
        whole = (height, width) == out.shape
        block = out if whole else np.empty((height, width), self.dtype)
        if why := self._tiles.fetch((FACTOR, 0, i, j), block, int(self._sums[i, j])):
            raise FileError(f"tile ({i}, {j}) of {self._name} {why}; run ntk-numba verify on it")
        if not whole:  # the only tile of a matrix that is smaller
            out[:] = 0
            out[:height, :width] = block

    def write(self, i: int, j: int, tile: Floats) -> None:
        """Write a tile; it is durable after the next `commit`."""
        height, width = self.grid.chunk
        block = np.ascontiguousarray(tile[:height, :width])
        self._sums[i, j] = self._tiles.write(FACTOR, 0, i, j, block)
        self.done[i, j] = True

    def commit(self) -> None:
        """Make the tiles written so far durable, and write their checksums."""
        self._tiles.commit()
