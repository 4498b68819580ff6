"""The plan of a factorisation by tiles: the edge of a tile, and panels that fit in memory.

A panel is a run of tiles, column by column; it may begin and end within a column.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import SMALLEST_TILE, TILES_ACROSS, Grid

# Products of larger tiles are faster, by 8 to 14 % for twice the edge, but fewer tiles are then in
# memory at a time, and fewer can be computed at a time.
LARGEST_TILE = 512
# From this many rows on, tiles are twice as large: a column of tiles is then a small part of the
# matrix still, and each tile is read by fewer requests.
LARGE = 15_000
AHEAD = 3  # tiles, at most, that are read before they are needed, beside those that are in use
KEPT = 1  # tile that is kept for an error
LEAST = 3 + KEPT  # tiles in memory: one that is computed, and its two operands


def factor_tile(size: int) -> int:
    """Return the edge T of a tile of the factor of an N × N matrix, a power of two.

    It depends on N alone, so that memory and threads change no bit, and is a multiple of the edge
    of a tile of any Gram file of that size.
    """
    tile = LARGEST_TILE
    while tile > SMALLEST_TILE and tile * TILES_ACROSS > size:
        tile //= 2
    return 2 * tile if size >= LARGE else tile


class Panels(NamedTuple):
    """Runs of tiles that are in memory at the same time, in their order.

    parts : the tiles (i, j) of each panel, (n, 2), column by column
    buffers : the number of tiles that are in memory, of panels and of what is read
    """

    parts: list[NDArray[np.intp]]
    buffers: int


def plan_panels(missing: NDArray[np.bool_], room: int) -> Panels | None:
    """Return the panels of a factorisation, or None if memory for `room` tiles is too little.

    They are as large as they can be. Of those rows whose numbers are columns of a panel, all tiles
    of one earlier column are in memory at a time.

    missing : (tiles down, tiles across), the tiles to compute
    """
    columns, rows = np.nonzero(missing.T)
    tiles = np.stack([rows, columns], axis=1)
    parts: list[NDArray[np.intp]] = []
    start, buffers = 0, 0
    complete = len(missing) * (len(missing) + 1) // 2
    while start < len(tiles):
        # after n tiles, as many columns have been begun
        some = columns[start : start + room + 1]
        begun = 1 + np.cumsum(np.diff(some, prepend=some[:1]) > 0)
        # a panel that begins with the first column, without any tile done, reads nothing
        whole = not parts and len(tiles) == complete
        held = np.arange(1, len(begun) + 1) + (0 if whole else begun)
        count = int(np.count_nonzero(held + (0 if whole else AHEAD) <= room))
        if count == 0:
            if room < LEAST - KEPT:
                return None
            count = max(1, int(np.count_nonzero(held + 1 <= room)))
        parts.append(tiles[start : start + count])
        streamed = 0 if whole else int(begun[count - 1]) + AHEAD
        buffers = max(buffers, min(room, count + streamed))
        start += count
    return Panels(parts, buffers)


def panels_for(grid: Grid, dtype: np.dtype, done: np.ndarray, memory: int, given: str) -> Panels:
    """Return the panels of the tiles that are missing.

    done : (tiles down, tiles across), whether a tile is finished
    memory : bytes
    given : how the limit is named in an error

    Raises
    ------
    ValueError
        If no panel fits in memory.
    """
    size = grid.tile**2 * dtype.itemsize
    found = plan_panels(np.tril(~done), memory // size - KEPT)
    if found is None:
        raise InvalidValueError(
            f"the Cholesky factor of {grid.rows:,} samples needs at least "
            f"{show_bytes(LEAST * size)} of memory, for {LEAST} tiles; {given} is "
            f"{show_bytes(memory)}"
        )
    return found
