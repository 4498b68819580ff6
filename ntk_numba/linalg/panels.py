"""The plan of a factorisation by tiles: the edge of a tile, and panels that fit in memory."""

from typing import NamedTuple

import numpy as np

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import SMALLEST_TILE, TILES_ACROSS, Grid

LARGEST_TILE = 512  # products of smaller tiles are slower, of larger ones hardly faster: measured
# From this many rows on, tiles are twice as large: a column of tiles is then a small part of the
# matrix still, and each tile is read by fewer requests.
LARGE = 1 << 15
AHEAD = 4  # tiles, at most, that are read before they are needed, beside those that are in use
KEPT = 1  # tile that is kept for an error


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
    """Runs of tile columns that are in memory at the same time, in their order.

    runs : the tile columns of each panel
    buffers : the number of tiles that are in memory, of panels and of what is read
    """

    runs: list[range]
    buffers: int


def plan_panels(down: int, columns: list[int], room: int) -> Panels | None:
    """Return the panels of a factorisation, or None if memory for `room` tiles is too little.

    Panels are as wide as they can be, and wider where their columns are shorter.

    down : the number of tiles from top to bottom
    columns : the tile columns to compute, in increasing order
    """

    def needed(run: range, ahead: int) -> int:
        streamed = len(run) + ahead if run.start else 0
        return sum(down - j for j in run) + min(streamed, run.start * (down - run.start))

    runs: list[range] = []
    for column in columns:
        wider = range(runs[-1].start if runs else 0, column + 1)
        if runs and runs[-1].stop == column and needed(wider, AHEAD) <= room:
            runs[-1] = wider
        else:
            runs.append(range(column, column + 1))
            if needed(runs[-1], 1) > room:
                return None
    return Panels(runs, min(room, max((needed(run, AHEAD) for run in runs), default=0)))


def panels_for(grid: Grid, dtype: np.dtype, done: np.ndarray, memory: int, given: str) -> Panels:
    """Return the panels of the columns of which tiles are missing.

    done : (tiles down, tiles across), whether a tile is finished
    memory : bytes
    given : how the limit is named in an error

    Raises
    ------
    ValueError
        If a panel does not fit in memory.
    """
    missing = np.tril(~done).any(axis=0)
    columns = [int(j) for j in np.flatnonzero(missing)]
    size = grid.tile**2 * dtype.itemsize
    found = plan_panels(grid.down, columns, memory // size - KEPT)
    if found is None:
        tiles = max((grid.down - j) + (2 if j else 0) for j in columns) + KEPT
        least = show_bytes(tiles * size)
        raise InvalidValueError(
            f"the Cholesky factor of {grid.rows:,} samples needs at least {least} of memory, for "
            f"a column of its tiles; {given} is {show_bytes(memory)}"
        )
    return found
