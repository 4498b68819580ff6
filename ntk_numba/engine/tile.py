"""A tile, strip by strip: inner products, repair of nearly parallel pairs, recursion, mirror.

Assumptions, stated once. A tile is T × T entries, a strip STRIP × T; T is a multiple of STRIP and
STRIP of a panel (see `products`). Samples are held with zeros up to whole tiles. A strip's scratch
stays in the second-level cache, a row's in the first. Tiles are independent: nothing is summed
across threads, so their number cannot change a bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.compiled.intrinsics import fma, larger, smaller
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import OBTUSE
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.products import Floats, inner_products, square_distances
from ntk_numba.engine.recursion import Results, all_layers
from ntk_numba.engine.rows import Duals, W, Z
from ntk_numba.engine.transpose import copy, transpose

STRIP = 64  # rows

Tiles = NDArray[np.void]  # a table, one `TILE` a tile

# An entry of a table of tiles, see `tile_table`: where a tile takes its samples from, how many
# entries it has, and where its first entry and that of its transpose go.
FIELDS = (
    "row", "column", "height", "width", "to_row", "to_column", "mirror_row", "mirror_column",
)  # fmt: skip
TILE = np.dtype([(field, np.int64) for field in FIELDS])

# A product z is exact to about ε|v||v'|, an error of that over sinθ in the angle. Below
# z = |v|²|v'|²/16 (θ = 0.5 for unit length) the difference of the vectors is taken instead, and
# their sum where w < 1/16; the small constant catches equal vectors that lie close to the centre.
NEARLY_OPPOSITE = 1 / 16
CERTAINLY_NEAR = 2.0**-30


def tile_table(reads: ArrayLike, to: ArrayLike, mirrors: ArrayLike = (-1, -1)) -> Tiles:
    """Make the table of the tiles that `compute_tile` computes.

    Parameters
    ----------
    reads : (tiles, 4)
        The first sample among the rows and among the columns, height, and width of each. With −1
        among the columns, each row is paired with itself only, and the width is 1.
    to : (tiles, 2)
        Row and column of the output where the first entry goes.
    mirrors : (tiles, 2), optional
        The same for its transpose: −1 for none, and what `to` is for a tile on the diagonal, of
        which the lower half is computed.
    """
    reads = np.asarray(reads, np.int64).reshape(-1, 4)
    fields = np.empty((len(reads), len(FIELDS)), np.int64)
    fields[:, :4], fields[:, 4:6], fields[:, 6:] = reads, to, mirrors
    return fields.view(TILE)[:, 0]


class Scratch(NamedTuple):
    """Of each thread.

    product : (threads, STRIP, T) float64
    working : (threads, WORKING, T), see `rows`
    nngp, ntk : (threads, kept layers, STRIP, T) results; (threads, 0, 1, 1) if not wanted
    vector : (threads, n0);  distance : (threads, 1, P) float64
    """

    product: NDArray[np.float64]
    working: Floats
    nngp: Floats
    ntk: Floats
    vector: Floats
    distance: NDArray[np.float64]


@njit
def sine(spread: float, spread2: float, product: float) -> float:
    """The z = sin²(θ/2) of an inner product."""
    return (spread + spread2) - 0.5 * product


@njit
def nearness(z: float, spread: float, spread2: float) -> float:
    """At most 0 where the product has lost too much of z."""
    return z - fma(spread, spread2, CERTAINLY_NEAR)


@njit
def too_opposite(z: float) -> bool:
    """Whether the product has lost too much of w."""
    return z >= 1 - NEARLY_OPPOSITE


@njit
def half_angles(
    product: NDArray[np.float64],
    spread: float,
    spreads: NDArray[np.float64],
    z: Floats,
    w: Floats,
) -> tuple[bool, bool]:
    """Fill z and w of a row from its inner products.

    Returns whether an angle is obtuse, and whether one is to be repaired.
    """
    largest, nearest = 0.0, 1.0
    for j in range(z.size):
        s = sine(spread, spreads[j], product[j])
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
    """Replace z and w of a row, where too much is lost, by |û − û'|²/4 or |û + û'|²/4.

    A panel at once; `pairs` are those of `product`, z and w.
    vector : (n0,), distance : (1, P), scratch
    """
    (rows, columns), i, j0, n = pairs
    features, width = rows.panels.shape[1], rows.panels.shape[2]
    spread = rows.spread[i]
    for opposite in (False, True):
        made = False
        for c in range(0, n, width):
            wanted = 0
            for j in range(c, min(c + width, n)):
                s = sine(spread, columns.spread[j0 + j], product[j])
                near = nearness(s, spread, columns.spread[j0 + j]) <= 0
                wanted += too_opposite(s) if opposite else near
            if wanted == 0:
                continue
            if not made:
                made = True
                for k in range(features):
                    v = rows.panels[i // width, k, i % width]
                    vector[k] = -(v + twice_centre[k]) if opposite else v
            square_distances(distance, vector, columns.panels[(j0 + c) // width])
            for j in range(c, min(c + width, n)):
                s = sine(spread, columns.spread[j0 + j], product[j])
                small = z.dtype.type(distance[0, j - c] / 4)
                if opposite and too_opposite(s):
                    w[j], z[j] = small, 1 - small
                elif not opposite and nearness(s, spread, columns.spread[j0 + j]) <= 0:
                    z[j], w[j] = small, 1 - small


class Work(NamedTuple):
    """What the tiles of a call have in common.

    twice_centre : (n0,) 2m
    outputs : C-contiguous arrays, (0, 1, 1) where not wanted
    """

    tiles: Tiles
    bands: Bands
    twice_centre: NDArray[np.float64]
    duals: Duals
    outputs: Results
    scratch: Scratch


@ParallelLoop
def compute_tile(work_at: Any, thread: int, k: int) -> None:
    """Compute tile k of a `Work` with a thread's scratch."""
    work: Work = arguments_at(work_at)
    t, bands, scratch = work.tiles[k], work.bands, work.scratch
    i0, j0, height, width = t.row, t.column, t.height, t.width
    mirrored, alone = t.mirror_row >= 0, j0 < 0
    on_diagonal = t.mirror_row == t.to_row and t.mirror_column == t.to_column
    product = scratch.product[thread]
    working = scratch.working[thread]
    strips = Results(scratch.nngp[thread], scratch.ntk[thread], work.outputs.every)
    vector, distance = scratch.vector[thread], scratch.distance[thread]
    panel = bands.rows.panels.shape[2]
    for first in range(0, height, STRIP):
        count = min(STRIP, height - first)
        across = min(width, first + count) if on_diagonal else width
        whole = -(-count // panel) * panel, -(-across // panel) * panel
        if not alone:
            inner_products(
                product, bands.rows.panels, i0 + first, whole[0],
                bands.columns.panels, j0, whole[1],
            )  # fmt: skip
        for r in range(count):
            i = first + r
            begin = i0 + i if alone else j0
            others = 0 if alone else i if on_diagonal else width
            n = others + 1 if alone or on_diagonal else width
            z, w = working[Z, :n], working[W, :n]
            z_others, w_others, products = z[:others], w[:others], product[r, :others]
            spread = bands.rows.spread[i0 + i]
            spreads = bands.columns.spread[begin : begin + others]
            obtuse, repairs = half_angles(products, spread, spreads, z_others, w_others)
            if repairs:
                pairs = Pairs(bands, i0 + i, begin, others)
                repair(products, pairs, work.twice_centre, vector, distance, z_others, w_others)
            if others < n:
                z[others], w[others] = 0, 1
            all_layers(working, Pairs(bands, i0 + i, begin, n), obtuse, work.duals, strips, r)
        # of a row on the diagonal, as far as it was computed
        lead = first + 1 if on_diagonal else width
        for out, strip in (
            (work.outputs.nngp, strips.nngp), (work.outputs.ntk, strips.ntk)
        ):  # fmt: skip
            for layer in range(out.shape[0]):
                copy(out[layer], t.to_row + first, t.to_column, strip[layer], count, across, lead)
                if mirrored:
                    transpose(
                        out[layer], t.mirror_row, t.mirror_column + first,
                        strip[layer], count, across, lead,
                    )  # fmt: skip
