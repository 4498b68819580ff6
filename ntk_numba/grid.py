"""The geometry of a Gram matrix, in whole numbers: tiles, bands and parts.

A tile is the unit of computation and of storage. A band is a run of rows, in whole tiles, whose
samples are in memory at the same time. A part is the set of tiles that one job of a cluster
computes. The size of a tile follows from shapes and dtype alone, so that threads, memory, parts and
restarts cannot change a bit of the result.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import whole_number
from ntk_numba.errors import InvalidTypeError, InvalidValueError

LARGEST_TILE = 512  # measured: 256 costs 10 % where features are few, 1024 gains nothing
SMALLEST_TILE = 64
# Tile rows that are computed in turn, so that consecutive tiles use the same column's samples: 3 to
# 10 % faster with many features
ROWS_TOGETHER = 2
TILES_ACROSS = 8  # fewer leave cores idle at the end of a job
PANEL_BYTES = 64 << 20  # limits the samples of a tile's rows, and those of its columns
TILE_BYTES = 16 << 20  # limits all kernels and layers of a tile and its mirror image


def tile_size(rows: int, columns: int, features: int, itemsize: int, outputs: int) -> int:
    """Return the edge T of a tile, a power of two.

    itemsize : bytes of an entry
    outputs : the number of blocks that a tile writes: kernels times layers, times two if it is
        mirrored
    """
    size = LARGEST_TILE
    while size > SMALLEST_TILE and (
        size * TILES_ACROSS > max(rows, columns)
        or size * features * itemsize > PANEL_BYTES
        or size * size * itemsize * outputs > TILE_BYTES
    ):
        size //= 2
    return size


class Part(NamedTuple):
    """Part `number` of the `of` parts of a job, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_part(value: Any) -> Part:
    """Return the part that is given as ``(3, 8)`` or ``"3/8"``.

    Raises
    ------
    TypeError, ValueError
        If the value is not a part.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", value)
        if match is None:
            raise InvalidValueError(f"part must be like 3/8, the third of eight, not {value!r}")
        value = int(match[1]), int(match[2])
    try:
        number, of = value
    except (TypeError, ValueError):
        raise InvalidTypeError(
            f"part must be a pair such as (3, 8), the third of eight, not {value!r}"
        ) from None
    part = Part(whole_number("part[0]", number), whole_number("part[1]", of))
    if part.number > part.of:
        raise InvalidValueError(
            f"part must be one of 1/{part.of} to {part.of}/{part.of}, not {part}"
        )
    return part


class Piece(NamedTuple):
    """A rectangle of tiles, and in each of its columns the run of tiles that a part computes.

    rows, columns : tile rows and tile columns of the rectangle
    tops, bottoms : (columns,) the first tile row of the run in a column, and the one after its last
    """

    rows: range
    columns: range
    tops: NDArray[np.int64]
    bottoms: NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """The tiles of a matrix; of a symmetric one, those on and below the diagonal are computed.

    Attributes
    ----------
    rows, columns : int
        The shape of the matrix.
    symmetric : bool
        Whether the matrix is symmetric.
    tile : int
        The edge of a tile.
    """

    rows: int
    columns: int
    symmetric: bool
    tile: int

    @property
    def down(self) -> int:
        """The number of tiles from top to bottom."""
        return -(-self.rows // self.tile)

    @property
    def across(self) -> int:
        """The number of tiles from left to right."""
        return -(-self.columns // self.tile)

    @property
    def count(self) -> int:
        """The number of tiles to compute."""
        return self.down * (self.down + 1) // 2 if self.symmetric else self.down * self.across

    def size(self, part: Part | None) -> int:
        """Return the number of tiles that a part computes; without a part, that of all tiles."""
        first, last = self._run(part)
        return last - first

    def _run(self, part: Part | None) -> tuple[int, int]:
        """Return the first tile of a part and the one after its last, numbered as in `pieces`."""
        number, of = part or (1, 1)
        if of > max(self.count, 1):
            raise InvalidValueError(
                f"part={number}/{of}: there are {self.count:,} tiles, so at most "
                f"{self.count:,} parts are possible"
            )
        return (number - 1) * self.count // of, number * self.count // of

    @property
    def chunk(self) -> tuple[int, int]:
        """The shape of a stored tile; tiles at the edges are padded to it."""
        return min(self.tile, self.rows), min(self.tile, self.columns)

    def height(self, i: int) -> int:
        """Return the number of rows of entries in tile row i."""
        return min(self.tile, self.rows - i * self.tile)

    def width(self, j: int) -> int:
        """Return the number of columns of entries in tile column j."""
        return min(self.tile, self.columns - j * self.tile)

    def pieces(self, part: Part | None = None) -> list[Piece]:
        """Return the tiles that a part computes; without a part, all tiles.

        Tiles are numbered in horizontal strips, column by column within a strip, and the sizes of
        two parts differ by at most one tile. A strip is as high as a part is wide, so that a part
        is nearly a square and reads few rows: about 2/√(2n) of X for one of n parts.

        Raises
        ------
        ValueError
            If there are more parts than tiles.
        """
        (first, last), of = self._run(part), part.of if part else 1
        height = self.down if of == 1 else max(1, round(math.sqrt(self.count / of)))
        found, begin = [], 0
        for rows in self.bands(range(self.down), height):
            columns = np.arange(rows.stop if self.symmetric else self.across)
            tops = np.maximum(columns, rows.start) if self.symmetric else columns * 0 + rows.start
            ends = begin + np.cumsum(rows.stop - tops)
            begins, begin = ends - (rows.stop - tops), int(ends[-1])
            used = np.flatnonzero((begins < last) & (ends > first))
            if used.size:
                begins, ends, tops = begins[used], ends[used], tops[used]
                bottoms = tops + np.minimum(ends, last) - begins
                tops = tops + np.maximum(first - begins, 0)
                found.append(Piece(rows, range(used[0], used[-1] + 1), tops, bottoms))
        return found

    def mask(self, part: Part | None = None) -> NDArray[np.bool_]:
        """Return a mask (tiles down, tiles across) of the tiles that a part computes."""
        mask = np.zeros((self.down, self.across), bool)
        for rows, columns, tops, bottoms in self.pieces(part):
            i = np.arange(rows.start, rows.stop)[:, None]
            mask[rows.start : rows.stop, columns.start : columns.stop] = (i >= tops) & (i < bottoms)
        return mask

    def bands(self, tiles: range, band: int) -> list[range]:
        """Split a range of tile rows or tile columns into runs of at most `band` of them."""
        return [tiles[a : a + band] for a in range(0, len(tiles), band)]

    def tiles(self, down: range, across: range) -> Iterator[tuple[int, int]]:
        """Yield the tiles (i, j) to compute in these tile rows and columns, in computing order.

        ROWS_TOGETHER tile rows are taken together, column by column.
        """
        for first in down[::ROWS_TOGETHER]:
            rows = range(first, min(first + ROWS_TOGETHER, down.stop))
            for j in across:
                yield from ((i, j) for i in rows if not self.symmetric or j <= i)
