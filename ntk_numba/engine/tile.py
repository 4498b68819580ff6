"""A tile, strip by strip: inner products, repair of nearly parallel pairs, recursion, mirror image.

The code relies on these sizes: a tile has T × T entries and a strip STRIP × T; T is a multiple of
STRIP, and STRIP of the width P of a panel (see `products`). The vectors of samples are padded with
zeros to whole panels, their other numbers to whole tiles. A strip's scratch stays in the
second-level cache, a row's in the first. Tiles are independent: nothing is summed across threads,
so their number cannot change a bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.compiled.intrinsics import fma, larger, smaller
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import OBTUSE
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.products import inner_products, square_distances, square_sums
from ntk_numba.engine.recursion import Results, all_layers
from ntk_numba.engine.rows import Duals, W, Z
from ntk_numba.engine.transpose import copy, transpose
from ntk_numba.function import Floats

STRIP = 64  # rows

Tiles = NDArray[np.void]  # a table with one `TILE` per tile

# The fields of a table of tiles, see `tile_table`: the first sample of the rows and of the columns,
# the size, and the places in the output of the first entry and of that of the transpose.
FIELDS = (
    "row", "column", "height", "width", "to_row", "to_column", "mirror_row", "mirror_column",
)  # fmt: skip
TILE = np.dtype([(field, np.int64) for field in FIELDS])

# z of an inner product has an error of about ε|v||v'|, and so the angle one of ε|v||v'|/sinθ. Below
# z = |v|²|v'|²/16 (θ = 0.5 for unit length) z is computed from the difference of the vectors, and
# where w < 1/16, w is computed from their sum. The small constant ensures that this is done for
# equal vectors that are close to the centre.
OPPOSITE_W = 1 / 16
ALWAYS_NEAR_Z = 2.0**-30
# The rounding errors of v, v', their sum and 2m (which the dtype holds exactly) are at most these
# fractions of |v|, |v'| and 2|m|. So that of |(v + v') + 2m|² is at most
# 3u²(|v|² + |v'|² + 4|m|²) = 12u²(|v|²/4 + |v'|²/4 + |m|²).
ROUNDOFF, ROUNDOFF_SINGLE = 2.0**-53, 2.0**-24


def tile_table(reads: ArrayLike, to: ArrayLike, mirrors: ArrayLike = (-1, -1)) -> Tiles:
    """Make the table of the tiles that `compute_tile` computes.

    Parameters
    ----------
    reads : (tiles, 4)
        The first sample among the rows, the first among the columns, the height and the width. If
        the second is −1, each row is paired with itself only, and the width is 1.
    to : (tiles, 2)
        The row and the column of the output that the first entry is written to.
    mirrors : (tiles, 2), optional
        The same for the transpose; −1 if it is not written. For a tile on the diagonal, of which
        only the lower half is computed, it equals `to`.
    """
    reads = np.asarray(reads, np.int64).reshape(-1, 4)
    fields = np.empty((len(reads), len(FIELDS)), np.int64)
    fields[:, :4], fields[:, 4:6], fields[:, 6:] = reads, to, mirrors
    return fields.view(TILE)[:, 0]


class StripScratch(NamedTuple):
    """The scratch memory that one thread takes for the angles of a strip.

    product : (STRIP, T) float64
    working : (WORKING, T), see `rows`
    vector : (2·n0,);  distance : (1, P) float64
    """

    product: NDArray[np.float64]
    working: Floats
    vector: Floats
    distance: NDArray[np.float64]


class Scratch(NamedTuple):
    """The scratch memory of each thread.

    strip : see `StripScratch`, with a leading axis of threads
    nngp, ntk : (threads, kept layers, STRIP, T) results; (threads, 0, 1, 1) if not wanted
    """

    strip: StripScratch
    nngp: Floats
    ntk: Floats


@njit
def scratch_of(strip: StripScratch, thread: int) -> StripScratch:
    """Return the scratch memory of a thread, from that of all threads."""
    return StripScratch(
        strip.product[thread], strip.working[thread], strip.vector[thread], strip.distance[thread]
    )


@njit
def sin2_of_product(spread: float, spread2: float, product: float) -> float:
    """Return z = sin²(θ/2) from an inner product v·v' and the two |v|²/4."""
    return (spread + spread2) - 0.5 * product


@njit
def nearness(z: float, spread: float, spread2: float) -> float:
    """Return a number that is at most 0 if z of an inner product is too inexact, else above 0."""
    return z - fma(spread, spread2, ALWAYS_NEAR_Z)


@njit
def too_opposite(z: float) -> bool:
    """Return whether w = 1 − z of an inner product is too inexact."""
    return z >= 1 - OPPOSITE_W


@njit
def half_angles(
    product: NDArray[np.float64],
    spread: float,
    spreads: NDArray[np.float64],
    z: Floats,
    w: Floats,
) -> tuple[bool, bool]:
    """Fill z and w of a row from its inner products.

    Return whether an angle is obtuse, and whether an angle has to be repaired.
    """
    largest, nearest = 0.0, 1.0
    for j in range(z.size):
        s = sin2_of_product(spread, spreads[j], product[j])
        largest = larger(largest, s)
        nearest = smaller(nearest, nearness(s, spread, spreads[j]))
        z[j] = s
        w[j] = 1 - s
    return largest > OBTUSE, nearest <= 0 or too_opposite(largest)


@njit
def repair(
    product: NDArray[np.float64],
    pairs: Pairs,
    twice_centre: NDArray[np.float64],
    vector: Floats,
    distance: NDArray[np.float64],
    z: Floats,
    w: Floats,
) -> None:
    """Replace inexact z of a row by |û − û'|²/4, and inexact w by |û + û'|²/4.

    The distances are computed for a panel at a time. A difference v − v', or a sum (v + v') + 2m,
    that is within the rounding error of its terms is taken as 0: its angle cannot be told from 0,
    or from π.

    product, z, w : (n,), of the row of pairs `pairs`
    vector, distance : (2·n0,) and (1, P), scratch memory
    """
    (rows, columns), i, j0, n = pairs
    features, width = rows.panels.shape[1], rows.panels.shape[2]
    spread = rows.spread[i]
    unit_roundoff = ROUNDOFF if z.itemsize == 8 else ROUNDOFF_SINGLE
    centre_spread = 0.0  # |m|²
    for k in range(features):
        centre_spread = fma(0.25 * twice_centre[k], twice_centre[k], centre_spread)
    for opposite in (False, True):
        vector_filled = False
        for c in range(0, n, width):
            inexact = 0
            for j in range(c, min(c + width, n)):
                s = sin2_of_product(spread, columns.spread[j0 + j], product[j])
                near = nearness(s, spread, columns.spread[j0 + j]) <= 0
                inexact += too_opposite(s) if opposite else near
            if inexact == 0:
                continue
            if not vector_filled:
                vector_filled = True
                for k in range(features):
                    v = rows.panels[i // width, k, i % width]
                    if opposite:
                        vector[2 * k], vector[2 * k + 1] = v, twice_centre[k]
                    else:
                        vector[k] = v
            panel = columns.panels[(j0 + c) // width]
            if opposite:
                square_sums(distance, vector, panel)
            else:
                square_distances(distance, vector, panel)
            for j in range(c, min(c + width, n)):
                s = sin2_of_product(spread, columns.spread[j0 + j], product[j])
                quarter = z.dtype.type(distance[0, j - c] / 4)
                if opposite and too_opposite(s):
                    spreads = (spread + columns.spread[j0 + j]) + centre_spread
                    if distance[0, j - c] <= 12 * unit_roundoff**2 * spreads:
                        quarter = z.dtype.type(0)
                    w[j], z[j] = quarter, 1 - quarter
                elif not opposite and nearness(s, spread, columns.spread[j0 + j]) <= 0:
                    spreads = spread + columns.spread[j0 + j]
                    if distance[0, j - c] <= 12 * unit_roundoff**2 * spreads:
                        quarter = z.dtype.type(0)
                    z[j], w[j] = quarter, 1 - quarter


@njit
def is_on_diagonal(t: Any) -> bool:
    """Return whether only the lower half of a tile is computed."""
    return t.mirror_row == t.to_row and t.mirror_column == t.to_column


@njit
def multiply_strip(
    product: NDArray[np.float64], bands: Bands, t: Any, first: int
) -> tuple[int, int]:
    """Fill the inner products of the strip of a tile that begins at row `first` of it.

    Return the numbers of rows and of columns of the strip that are computed.
    """
    panel = bands.rows.panels.shape[2]
    count = min(STRIP, t.height - first)
    across = min(t.width, first + count) if is_on_diagonal(t) else t.width
    padded = -(-count // panel) * panel, -(-across // panel) * panel
    if t.column >= 0:
        inner_products(
            product, bands.rows.panels, t.row + first, padded[0],
            bands.columns.panels, t.column, padded[1],
        )  # fmt: skip
    return count, across


@njit
def pairs_of_row(bands: Bands, t: Any, i: int) -> Pairs:
    """Return the pairs of row i of a tile: those up to the diagonal if the tile is on it."""
    if t.column < 0:
        return Pairs(bands, t.row + i, t.row + i, 1)
    return Pairs(bands, t.row + i, t.column, i + 1 if is_on_diagonal(t) else t.width)


@njit
def angles_of_row(
    scratch: StripScratch, bands: Bands, t: Any, i: int, twice_centre: NDArray[np.float64]
) -> tuple[Pairs, bool]:
    """Fill the rows Z and W of the working memory with the angles of row i of a tile.

    Return the pairs of the row, and whether one of their angles is obtuse.
    """
    row = pairs_of_row(bands, t, i)
    begin, n = row.j0, row.n
    others = n - 1 if t.column < 0 or is_on_diagonal(t) else n  # all but a sample with itself
    z, w = scratch.working[Z, :n], scratch.working[W, :n]
    z_others, w_others, products = z[:others], w[:others], scratch.product[i % STRIP, :others]
    spread = bands.rows.spread[t.row + i]
    spreads = bands.columns.spread[begin : begin + others]
    obtuse, repairs = half_angles(products, spread, spreads, z_others, w_others)
    if repairs:
        pairs = Pairs(bands, t.row + i, begin, others)
        repair(products, pairs, twice_centre, scratch.vector, scratch.distance, z_others, w_others)
    if others < n:
        z[others], w[others] = 0, 1
    return row, obtuse


@njit
def write_strip(out: Floats, strip: Floats, t: Any, first: int, count: int, across: int) -> None:
    """Write a finished strip of a tile, and its mirror image, to their places in the output.

    out, strip : (matrices, ·, ·)
    first : the first row of the strip in the tile; `multiply_strip` returned the other two numbers
    """
    # Rows of a tile on the diagonal are written up to the diagonal.
    lead = first + 1 if is_on_diagonal(t) else t.width
    for layer in range(out.shape[0]):
        copy(out[layer], t.to_row + first, t.to_column, strip[layer], count, across, lead)
        if t.mirror_row >= 0:
            transpose(
                out[layer], t.mirror_row, t.mirror_column + first,
                strip[layer], count, across, lead,
            )  # fmt: skip


class TileArguments(NamedTuple):
    """The arguments of `compute_tile`, which are the same for all tiles of a call.

    twice_centre : (n0,) 2m
    outputs : C-contiguous arrays, (0, 1, 1) where not wanted
    """

    tiles: Tiles
    bands: Bands
    twice_centre: NDArray[np.float64]
    duals: Duals
    outputs: Results
    scratch: Scratch


@njit
def compute_strip(
    arguments: TileArguments, own: StripScratch, t: Any, thread: int, first: int
) -> tuple[int, int]:
    """Compute the strip of a tile that begins at row `first` of it, into a thread's scratch.

    Return the numbers of rows and of columns of the strip that are computed.
    """
    scratch = arguments.scratch
    strips = Results(scratch.nngp[thread], scratch.ntk[thread], arguments.outputs.places)
    count, across = multiply_strip(own.product, arguments.bands, t, first)
    for r in range(count):
        pairs, obtuse = angles_of_row(own, arguments.bands, t, first + r, arguments.twice_centre)
        all_layers(own.working, pairs, obtuse, arguments.duals, strips, r)
    return count, across


@ParallelLoop
def compute_tile(arguments_address: Any, thread: int, k: int) -> None:
    """Compute tile k of `TileArguments` with the scratch memory of a thread."""
    arguments: TileArguments = arguments_at(arguments_address)
    t, scratch = arguments.tiles[k], arguments.scratch
    own = scratch_of(scratch.strip, thread)
    for first in range(0, t.height, STRIP):
        count, across = compute_strip(arguments, own, t, thread, first)
        write_strip(arguments.outputs.nngp, scratch.nngp[thread], t, first, count, across)
        write_strip(arguments.outputs.ntk, scratch.ntk[thread], t, first, count, across)
