"""Tiles, bands and budgets: whole numbers only.

A tile is the unit of compute and of storage. A band is a run of rows, whole tiles of them, that is
held in memory at a time. Tile size follows from shapes and dtype alone, so that neither threads nor
memory nor restarts can change a bit of the result.
"""

import math
import numbers
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LARGEST_TILE = 512  # measured: 256 costs 10 % where features are few, 1024 gains nothing
SMALLEST_TILE = 64
ROWS_TOGETHER = 2  # tiles in turn share the samples of a column, 3 to 10 % with many features
TILES_ACROSS = 8  # fewer leave cores idle at the end of a job
PANEL_BYTES = 64 << 20  # a tile reads two panels of its height
TILE_BYTES = 16 << 20  # all kernels and layers of a tile and its mirror image


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The argument `name`, if it is a whole number of at least `least`.

    Raises
    ------
    TypeError, ValueError
        It is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def number_between(name: str, value: Any, low: float, high: float) -> float:
    """The argument `name`, if it is a number more than `low` and less than `high`.

    Raises
    ------
    TypeError, ValueError
        It is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not low < float(value) < high:
        below = f"less than {high:g}" if high < math.inf else "finite"
        raise ValueError(f"{name} must be more than {low:g} and {below}, not {value!r}")
    return float(value)


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

    def bands(self, length: int, band: int) -> list[range]:
        """`length` tile rows or columns in runs of at most `band`."""
        return [range(a, min(a + band, length)) for a in range(0, length, band)]

    def tiles(self, down: range, across: range) -> Iterator[tuple[int, int]]:
        """The tiles (i, j) to compute of those rows and columns, row by row, some rows together."""
        for first in down[::ROWS_TOGETHER]:
            rows = range(first, min(first + ROWS_TOGETHER, down.stop))
            for j in across:
                yield from ((i, j) for i in rows if not self.symmetric or j <= i)


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{prefix}i": 1 << (10 * power) for power, prefix in enumerate("kmgt", start=1)
}


def parse_bytes(size: int | str, name: str) -> int:
    """Bytes of ``2147483648``, ``"2GiB"``, ``"500 MB"``; `name` is how errors call it."""
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(size).lower())
        if match is None or match[2] not in UNITS:
            raise ValueError(
                f"{name} must be a number of bytes such as 2GiB or 500MB, not {size!r}"
            )
        value = int(float(match[1]) * UNITS[match[2]])
    if value <= 0:
        raise ValueError(f"{name} must be more than 0 bytes, not {size!r}")
    return value


def show_bytes(size: float) -> str:
    """``1.5 GiB``: three significant digits and a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
