"""The way a file stores the tiles of a matrix: its layout, and what follows from it.

There are three layouts. "full" is the whole matrix, mirror images included. "lower" is the tiles of
a symmetric matrix on and below the diagonal, one after another. "part" is the tiles of one part of
a job, one after another. To add a layout, change this file, and add its name to `arguments.Layout`
and to the option --layout.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import Grid, Part


def parse_layout(layout: str, symmetric: bool) -> Part | None:
    """Return the part whose tiles a whole file stores one after another.

    For "lower" these are all tiles, the part 1/1; for "full" there is no such part.

    Raises
    ------
    ValueError
        `layout` is another word, or "lower" for a matrix of two data sets.
    """
    if layout not in ("full", "lower"):
        raise InvalidValueError(f"layout must be 'full' or 'lower', not {layout!r}")
    if layout == "lower" and not symmetric:
        raise InvalidValueError("a matrix of two data sets has no triangle: layout must be 'full'")
    return Part(1, 1) if layout == "lower" else None


@dataclass(frozen=True)
class Storage:
    """The way the tiles of a grid are stored in a file.

    part : the part whose tiles are stored one after another; None for the whole matrix as it is
    """

    grid: Grid
    part: Part | None

    @property
    def layout(self) -> Literal["full", "lower", "part"]:
        """The name of the layout."""
        if self.part is None:
            return "full"
        return "lower" if self.part.of == 1 and self.grid.symmetric else "part"

    @property
    def is_part(self) -> bool:
        """Whether the tiles are those of one part of a job, not of the whole matrix."""
        return self.layout == "part"

    @property
    def label(self) -> str:
        """The text that tells this matrix from a full one: "", "lower" or, say, "part 1/3"."""
        return {"full": "", "lower": "lower", "part": f"part {self.part}"}[self.layout]

    @property
    def packed(self) -> bool:
        """Whether tiles are stored one after another, not at their places in the matrix."""
        return self.part is not None

    @property
    def images(self) -> int:
        """The number of copies of a tile off the diagonal: 2 if its mirror image is stored too."""
        return 2 if self.grid.symmetric and not self.packed else 1

    @property
    def count(self) -> int:
        """The number of tiles to compute."""
        return self.grid.size(self.part)

    @property
    def axes(self) -> tuple[int, ...]:
        """The shape of an array with one entry for each stored tile of a matrix."""
        return (self.count,) if self.packed else (self.grid.down, self.grid.across)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The tiles that are computed, as an array of (tiles down, tiles across)."""
        return self.grid.mask(self.part)

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """The slot of each packed tile, counted row by row, or −1: (tiles down, tiles across)."""
        return np.where(self.mask, np.cumsum(self.mask).reshape(self.mask.shape) - 1, -1)

    def slot(self, i: int, j: int) -> int:
        """Return the slot of packed tile (i, j), or −1 if it is not stored."""
        if self.layout == "lower":  # without an array of all tiles, of which there may be many
            return i * (i + 1) // 2 + j if j <= i else -1
        return int(self.slots[i, j])

    @property
    def places(self) -> NDArray[np.uint32]:
        """The (i, j) of packed tiles in the order of their slots, as an array of (tiles, 2)."""
        return np.argwhere(self.mask).astype("<u4")

    def number(self, layer: int, i: int, j: int) -> int:
        """Return how many tiles are stored before tile (i, j) of a layer."""
        if self.packed:
            return layer * self.count + self.slot(i, j)
        return (layer * self.grid.down + i) * self.grid.across + j

    def spread(self, values: NDArray[Any], matrices: int) -> NDArray[Any]:
        """Arrange one value for each stored tile as (matrices, tiles down, tiles across).

        Tiles that are not stored, and mirror images, get 0.
        """
        shape = (matrices, self.grid.down, self.grid.across)
        if not self.packed:
            matrix = values.reshape(shape)
            return np.tril(matrix) if self.grid.symmetric else matrix
        found = np.zeros(shape, values.dtype)
        found[:, self.slots >= 0] = values.reshape(matrices, -1)
        return found
