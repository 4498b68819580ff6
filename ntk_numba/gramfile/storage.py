"""How a file stores the tiles of a matrix, and what follows from that.

There are three layouts: "full", the matrix as it is, mirror images included; "lower", of a
symmetric matrix the tiles on and below the diagonal, one after another; and "part", one after
another the tiles of a part of a job. A new layout is a change of this file.
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
        Another word, or "lower" for a matrix of two data sets.
    """
    if layout not in ("full", "lower"):
        raise InvalidValueError(f"layout must be 'full' or 'lower', not {layout!r}")
    if layout == "lower" and not symmetric:
        raise InvalidValueError("a matrix of two data sets has no triangle: layout must be 'full'")
    return Part(1, 1) if layout == "lower" else None


@dataclass(frozen=True)
class Storage:
    """How the tiles of a grid are stored.

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
    def packed(self) -> bool:
        """Whether tiles are stored one after another, and not as the matrix is."""
        return self.part is not None

    @property
    def images(self) -> int:
        """The number of times that a tile off the diagonal is stored: 2 with its mirror image."""
        return 2 if self.grid.symmetric and not self.packed else 1

    @property
    def count(self) -> int:
        """The number of tiles to compute."""
        return self.grid.size(self.part)

    @property
    def axes(self) -> tuple[int, ...]:
        """The shape of an array that has an entry for each stored tile of a matrix."""
        return (self.count,) if self.packed else (self.grid.down, self.grid.across)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(tiles down, tiles across), the tiles that are computed."""
        return self.grid.mask(self.part)

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(tiles down, tiles across), the places of packed tiles, row by row; −1 for none."""
        return np.where(self.mask, np.cumsum(self.mask).reshape(self.mask.shape) - 1, -1)

    @property
    def places(self) -> NDArray[np.uint32]:
        """(tiles, 2), the (i, j) of packed tiles in the order of their slots."""
        return np.argwhere(self.mask).astype("<u4")

    def number(self, layer: int, i: int, j: int) -> int:
        """Return how many tiles are stored before tile (i, j) of a layer."""
        if self.packed:
            return layer * self.count + int(self.slots[i, j])
        return (layer * self.grid.down + i) * self.grid.across + j

    def spread(self, values: NDArray[Any], matrices: int) -> NDArray[Any]:
        """Arrange what is stored for each tile as (matrices, tiles down, tiles across).

        Entries without a value are 0: tiles that are not stored, and mirror images.
        """
        shape = (matrices, self.grid.down, self.grid.across)
        if not self.packed:
            matrix = values.reshape(shape)
            return np.tril(matrix) if self.grid.symmetric else matrix
        found = np.zeros(shape, values.dtype)
        found[:, self.slots >= 0] = values.reshape(matrices, -1)
        return found
