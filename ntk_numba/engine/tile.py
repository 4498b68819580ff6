"""A tile, strip by strip: inner products, repair of nearly parallel pairs, recursion, mirror.

Assumptions, stated once. A tile is T × T entries, a strip STRIP × T; T is a multiple of STRIP and
STRIP of a panel (see `products`). Samples are held with zeros up to whole tiles. A strip's scratch
stays in the second-level cache, a row's in the first. Tiles are independent: nothing is summed
across threads, so their number cannot change a bit.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import (
    fma,
    larger,
    smaller,
    take_number,
)
from ntk_numba.compiled.policy import kernel, njit
from ntk_numba.duals.base import OBTUSE
from ntk_numba.engine.products import Floats, inner_products, square_distances
from ntk_numba.engine.recursion import all_layers
from ntk_numba.engine.rows import (
    WORKING,
    Duals,
    W,
    Z,
)
from ntk_numba.engine.samples import Samples
from ntk_numba.engine.transpose import copy, transpose

STRIP = 64  # rows

# Columns of the table of tiles: where a tile takes its samples from and where its entries go.
ROW, COLUMN = 0, 1  # its first sample in the bands `rows` and `columns`
HEIGHT, WIDTH = 2, 3  # entries
TO_ROW, TO_COLUMN = 4, 5  # its first entry in the output arrays
MIRROR_ROW, MIRROR_COLUMN = 6, 7  # of its transpose; -1 if none. Equal to TO_…: on the diagonal
TILE_FIELDS = 8

# A product z is exact to about ε|v||v'|, an error of that over sinθ in the angle. Below
# z = |v|²|v'|²/16 (θ = 0.5 for unit length) the difference of the vectors is taken instead, and
# their sum where w < 1/16; the small constant catches equal vectors that lie close to the centre.
NEARLY_OPPOSITE = 1 / 16
CERTAINLY_NEAR = 2.0**-30


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
    i: int,
    j0: int,
    rows: Samples,
    columns: Samples,
    twice_centre: NDArray[np.float64],
    vector: Floats,
    distance: NDArray[np.float64],
    z: Floats,
    w: Floats,
) -> None:
    """Mend z and w of a row where needed, by |û − û'|²/4 or |û + û'|²/4, a panel at once.

    vector : (n0,), distance : (1, P), scratch
    """
    features, width = rows.panels.shape[1], rows.panels.shape[2]
    spread = rows.spread[i]
    for opposite in (False, True):
        made = False
        for c in range(0, z.size, width):
            wanted = 0
            for j in range(c, min(c + width, z.size)):
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
            for j in range(c, min(c + width, z.size)):
                s = sine(spread, columns.spread[j0 + j], product[j])
                small = z.dtype.type(distance[0, j - c] / 4)
                if opposite and too_opposite(s):
                    w[j], z[j] = small, 1 - small
                elif not opposite and nearness(s, spread, columns.spread[j0 + j]) <= 0:
                    z[j], w[j] = small, 1 - small


@njit
def compute_tile(
    t: NDArray[np.int64],
    rows: Samples,
    columns: Samples,
    twice_centre: NDArray[np.float64],
    duals: Duals,
    every: bool,
    nngp: Floats,
    ntk: Floats,
    scratch: Scratch,
    thread: int,
) -> None:
    """One tile of `compute_tiles`, with a thread's scratch."""
    i0, j0, height, width = t[ROW], t[COLUMN], t[HEIGHT], t[WIDTH]
    mirrored = t[MIRROR_ROW] >= 0
    on_diagonal = t[MIRROR_ROW] == t[TO_ROW] and t[MIRROR_COLUMN] == t[TO_COLUMN]
    product = scratch.product[thread]
    working = scratch.working[thread]
    nngp_strip, ntk_strip = scratch.nngp[thread], scratch.ntk[thread]
    vector, distance = scratch.vector[thread], scratch.distance[thread]
    panel = rows.panels.shape[2]
    for first in range(0, height, STRIP):
        count = min(STRIP, height - first)
        across = min(width, first + count) if on_diagonal else width
        whole = -(-count // panel) * panel, -(-across // panel) * panel
        inner_products(product, rows.panels, i0 + first, whole[0], columns.panels, j0, whole[1])
        for r in range(count):
            i = first + r
            n = i + 1 if on_diagonal else width
            z, w = working[Z, :n], working[W, :n]
            others = slice(0, i if on_diagonal else width)
            z_others, w_others, products = z[others], w[others], product[r, others]
            spread = rows.spread[i0 + i]
            spreads = columns.spread[j0 : j0 + z_others.size]
            obtuse, repairs = half_angles(products, spread, spreads, z_others, w_others)
            if repairs:
                repair(
                    products, i0 + i, j0, rows, columns, twice_centre, vector, distance,
                    z_others, w_others,
                )  # fmt: skip
            if on_diagonal:
                z[i], w[i] = 0, 1
            all_layers(
                working, n, obtuse, i0 + i, j0, rows, columns, duals, every,
                r, nngp_strip, ntk_strip, 0,
            )  # fmt: skip
        # of a row on the diagonal, as far as it was computed
        lead = first + 1 if on_diagonal else width
        for out, strip in ((nngp, nngp_strip), (ntk, ntk_strip)):
            for layer in range(out.shape[0]):
                copy(
                    out[layer], t[TO_ROW] + first, t[TO_COLUMN], strip[layer], count, across, lead
                )  # fmt: skip
                if mirrored:
                    transpose(
                        out[layer], t[MIRROR_ROW], t[MIRROR_COLUMN] + first,
                        strip[layer], count, across, lead,
                    )  # fmt: skip


@kernel(parallel=True)
def compute_tiles(
    tiles: NDArray[np.int64],
    rows: Samples,
    columns: Samples,
    twice_centre: NDArray[np.float64],
    duals: Duals,
    every: bool,
    nngp: Floats,
    ntk: Floats,
    scratch: Scratch,
) -> None:
    """All tiles of a table, in parallel; a thread that is done takes the next.

    tiles : (tiles, TILE_FIELDS) int64
    rows, columns : Samples; the same one twice for a symmetric matrix in one band
    twice_centre : (n0,) 2m
    nngp, ntk : (kept layers, ·, ·) outputs, C-contiguous; (0, 1, 1) if not wanted
    """
    # Numba's own loop deals tiles out beforehand: 5 to 10 % lost, since they differ in cost
    counter = np.zeros(1, np.int64)
    for index in numba.prange(scratch.product.shape[0]):
        thread = np.int64(index)  # prange's is unsigned: its callees would be compiled for both
        k = take_number(counter)
        while k < tiles.shape[0]:
            compute_tile(
                tiles[k], rows, columns, twice_centre, duals, every,
                nngp, ntk, scratch, thread,
            )  # fmt: skip
            k = take_number(counter)


@kernel(parallel=True)
def compute_diagonal(
    samples: Samples,
    count: int,
    duals: Duals,
    every: bool,
    nngp: Floats,
    ntk: Floats,
) -> None:
    """Σ(x,x) and Θ(x,x) by the same arithmetic as a tile's: outputs (layers, count, 1)."""
    for strip in numba.prange(-(-count // STRIP)):
        first: Any = np.int64(strip) * STRIP
        working = np.empty((WORKING, 1), samples.std.dtype)
        for i in range(first, min(first + STRIP, count)):
            working[Z, 0] = 0
            working[W, 0] = 1
            all_layers(
                working, 1, False, i, i, samples, samples, duals, every,
                i, nngp, ntk, 0,
            )  # fmt: skip
