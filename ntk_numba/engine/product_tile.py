"""A tile that is multiplied in the cache and never stored: Y += K V and, mirrored, Y' += Kᵀ V'.

The tiles, strips and angles are those of `tile`. A finished strip is converted to float64 and
multiplied with both blocks of vectors while it is in the second-level cache. Each sum runs over the
entries of a strip, or of a column of a tile, in order, by fused multiply-adds, so that its bits
depend neither on the number of vectors nor on the processor. It is then rounded to a multiple of a
power of two and added as a whole number (see `ntk_numba.sums`), so that the order of the tiles
cannot change a bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import lock, unlock
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.engine.products import ROWS, multiply, panel_width, sums_of
from ntk_numba.engine.tile import STRIP, TileArguments, compute_strip, is_on_diagonal, scratch_of
from ntk_numba.sums import MORE

Doubles = NDArray[np.float64]

WIDTH = panel_width(float)  # the vectors in a panel
# vectors that are zero, for sums that are not wanted
NO_VECTORS: Doubles = np.zeros((0, 1, WIDTH))
NO_TOTALS: NDArray[np.int64] = np.zeros((0, 0), np.int64)

_sums = sums_of(multiply, ROWS)


class Side(NamedTuple):
    """One of the two products of a tile: with K, or with Kᵀ.

    vectors : (panels, R, P) the vectors that are multiplied, in panels of P, one below the other
    totals, rests : (K, N) the sums so far, as whole numbers, see `Sums`
    scale : (N,) powers of two by which the sums are multiplied before they are rounded
    locks : (tiles,) 0 for a tile's rows of the sums that no thread adds to
    """

    vectors: Doubles
    totals: NDArray[np.int64]
    rests: NDArray[np.int64]
    scale: Doubles
    locks: NDArray[np.int64]


class ProductArguments(NamedTuple):
    """The arguments of `multiply_tile`, which are the same for all tiles of a call.

    tiles : the tiles' places `to_row`, `to_column` are those in the whole matrix
    down : the product K V, whose sums are of the rows of the matrix
    across : the product Kᵀ V; without vectors if it is not wanted
    strip_sums : (threads, panels, STRIP, P);  tile_sums : (threads, panels, T, P)
    """

    tile: TileArguments
    down: Side
    across: Side
    strip_sums: Doubles
    tile_sums: Doubles


@njit
def _add(side: Side, first: int, count: int, sums: Doubles, tile: int) -> None:
    """Add sums (panels, ≥ count, P), as `Sums` does, to rows `first` on, of tile `tile`."""
    last = first + count
    scale = side.scale[first:last]
    lock(side.locks, tile)
    for k in range(side.totals.shape[0]):
        totals, rests = side.totals[k, first:last], side.rests[k, first:last]
        panel, lane = sums[k // WIDTH], k % WIDTH
        for r in range(count):
            term = panel[r, lane] * scale[r]
            units = np.rint(term)
            totals[r] += np.int64(units)
            rests[r] += np.int64((term - units) * 2.0**MORE)
    unlock(side.locks, tile)


@njit
def _fill(strip: Doubles, entries: Any, t: Any, first: int, count: int, across: int) -> int:
    """Fill a strip with the entries of a tile as float64, and with zeros beside them.

    Return its width, a multiple of `ROWS`.
    """
    width = -(-across // ROWS) * ROWS
    for r in range(-(-count // ROWS) * ROWS):
        n = 0 if r >= count else first + r + 1 if is_on_diagonal(t) else t.width
        for c in range(n):
            strip[r, c] = entries[r, c]
        for c in range(n, width):
            strip[r, c] = 0.0
    return width


@ParallelLoop
def multiply_tile(arguments_address: Any, thread: int, k: int) -> None:
    """Compute tile k of `ProductArguments`, and add its products to the totals."""
    arguments: ProductArguments = arguments_at(arguments_address)
    common, down, across_side = arguments.tile, arguments.down, arguments.across
    t, results = common.tiles[k], common.outputs
    own = scratch_of(common.scratch.strip, thread)
    strip, size = own.product, own.product.shape[1]  # free after the angles of its last row
    flat = strip.reshape(-1)
    strip_sums, tile_sums = arguments.strip_sums[thread], arguments.tile_sums[thread]
    diagonal, mirrored = is_on_diagonal(t), across_side.vectors.shape[0] > 0
    if mirrored and diagonal:
        tile_sums[:, :, :] = 0.0
    for first in range(0, t.height, STRIP):
        count, across = compute_strip(common, own, t, thread, first)
        entries = (
            common.scratch.ntk[thread, 0]
            if results.ntk.shape[0] > 0
            else common.scratch.nngp[thread, 0]
        )
        width = _fill(strip, entries, t, first, count, across)
        for p in range(down.vectors.shape[0]):
            panel = down.vectors[p, t.to_column :]
            for r in range(0, count, ROWS):
                _sums(strip_sums[p], r, 0, flat, r * size, 1, size, panel, 0, across)
        if down.vectors.shape[0] > 0:
            _add(down, t.to_row + first, count, strip_sums, t.to_row // size)
        if not mirrored:
            continue
        if diagonal:
            for r in range(count):
                strip[r, first + r] = 0.0
        for p in range(across_side.vectors.shape[0]):
            panel = across_side.vectors[p, t.to_row :]
            for c in range(0, width, ROWS):
                start = c - first * size
                _sums(tile_sums[p], c, 0, flat, start, size, 1, panel, first, first + count)
    if mirrored:
        _add(across_side, t.to_column, t.width, tile_sums, t.to_column // size)
