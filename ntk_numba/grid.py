"""Tiles, bands, parts and budgets: whole numbers only.

A tile is the unit of compute and of storage. A band is a run of rows, whole tiles of them, that is
held in memory at a time. A part is the tiles that one job of a cluster computes. Tile size follows
from shapes and dtype alone, so that neither threads nor memory nor parts nor restarts can change a
bit of the result.
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
ROWS_TOGETHER = 2  # tiles in turn share the samples of a column, 3 to 10 % with many features
TILES_ACROSS = 8  # fewer leave cores idle at the end of a job
PANEL_BYTES = 64 << 20  # a tile reads two panels of its height
TILE_BYTES = 16 << 20  # all kernels and layers of a tile and its mirror image


def tile_size(rows: int, columns: int, features: int, itemsize: int, outputs: int) -> int:
    """The edge T of a tile, a power of two.

    outputs : matrices a tile is part of: kernels times layers, twice if it is mirrored
    itemsize : bytes of an entry
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
    """The `number`-th of `of` parts of a job, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_part(value: Any) -> Part:
    """Return the part that ``(3, 8)`` or ``"3/8"`` stands for.

    Raises
    ------
    TypeError, ValueError
        It stands for none.
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
    """A rectangle of the grid, and of each of its columns the tiles that a part has.

    rows, columns : of tiles
    tops, bottoms : (columns,) the first tile row of a column, and the one after its last
    """

    rows: range
    columns: range
    tops: NDArray[np.int64]
    bottoms: NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """The tiles of a rows × columns matrix; if symmetric, those on and below the diagonal."""

    rows: int
    columns: int
    symmetric: bool
    tile: int

    @property
    def down(self) -> int:
        """Tiles from top to bottom."""
        return -(-self.rows // self.tile)

    @property
    def across(self) -> int:
        """Tiles from left to right."""
        return -(-self.columns // self.tile)

    @property
    def count(self) -> int:
        """Tiles to compute."""
        return self.down * (self.down + 1) // 2 if self.symmetric else self.down * self.across

    def size(self, part: Part | None) -> int:
        """Tiles that a part computes; without one, all."""
        first, last = self._run(part)
        return last - first

    def _run(self, part: Part | None) -> tuple[int, int]:
        """The tiles of a part, numbered as `pieces` says, and the one after them."""
        number, of = part or (1, 1)
        if of > max(self.count, 1):
            raise InvalidValueError(
                f"part={number}/{of}: there are {self.count:,} tiles; make at most so many parts"
            )
        return (number - 1) * self.count // of, number * self.count // of

    @property
    def chunk(self) -> tuple[int, int]:
        """Entries of a stored tile; those at the edges are padded."""
        return min(self.tile, self.rows), min(self.tile, self.columns)

    @property
    def stored(self) -> int:
        """Entries that all stored tiles have, padding and mirror images included."""
        return self.down * self.across * self.chunk[0] * self.chunk[1]

    def height(self, i: int) -> int:
        """Rows of entries in tile row i."""
        return min(self.tile, self.rows - i * self.tile)

    def width(self, j: int) -> int:
        """Columns of entries in tile column j."""
        return min(self.tile, self.columns - j * self.tile)

    def pieces(self, part: Part | None = None) -> list[Piece]:
        """What a part computes; without one, all there is to compute.

        Tiles are numbered in horizontal strips, column by column within a strip, and each part has
        as many as the others, or one less. A strip is as high as a part is wide, so that a part is
        nearly a square and reads few rows: of X, about 2/√(2n) and not all of it.

        Raises
        ------
        ValueError
            More parts than tiles.
        """
        (first, last), of = self._run(part), part.of if part else 1
        height = self.down if of == 1 else max(1, round(math.sqrt(self.count / of)))
        found, at = [], 0
        for rows in self.bands(range(self.down), height):
            columns = np.arange(rows.stop if self.symmetric else self.across)
            tops = np.maximum(columns, rows.start) if self.symmetric else columns * 0 + rows.start
            ends = at + np.cumsum(rows.stop - tops)
            begins, at = ends - (rows.stop - tops), int(ends[-1])
            some = np.flatnonzero((begins < last) & (ends > first))
            if some.size:
                begins, ends, tops = begins[some], ends[some], tops[some]
                bottoms = tops + np.minimum(ends, last) - begins
                tops = tops + np.maximum(first - begins, 0)
                found.append(Piece(rows, range(some[0], some[-1] + 1), tops, bottoms))
        return found

    def mask(self, part: Part | None = None) -> NDArray[np.bool_]:
        """(tiles down, tiles across), those that a part computes."""
        mask = np.zeros((self.down, self.across), bool)
        for rows, columns, tops, bottoms in self.pieces(part):
            i = np.arange(rows.start, rows.stop)[:, None]
            mask[rows.start : rows.stop, columns.start : columns.stop] = (i >= tops) & (i < bottoms)
        return mask

    def bands(self, tiles: range, band: int) -> list[range]:
        """Tile rows or columns in runs of at most `band`."""
        return [tiles[a : a + band] for a in range(0, len(tiles), band)]

    def tiles(self, down: range, across: range) -> Iterator[tuple[int, int]]:
        """The tiles (i, j) to compute of those rows and columns, row by row, some rows together."""
        for first in down[::ROWS_TOGETHER]:
            rows = range(first, min(first + ROWS_TOGETHER, down.stop))
            for j in across:
                yield from ((i, j) for i in rows if not self.symmetric or j <= i)
