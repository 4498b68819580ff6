"""A tile: inner products by BLAS, repair of nearly parallel pairs, recursion, mirror.

Assumptions, stated once. A tile is T × T entries; T is a multiple of 16 and both panels have T rows
(zeros beyond the data), so that every product has one shape and an entry's bits do not depend on
its place. Tiles are independent: nothing is summed across threads, so their number
cannot change a bit. BLAS runs on one thread inside each of Numba's.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from ntk_numba.engine.recursion import Layers, all_layers
from ntk_numba.engine.samples import Floats, Samples
from ntk_numba.jit import kernel, njit

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


@njit(fastmath={"reassoc", "contract"})
def apart(u: Floats, v: Floats) -> float:
    """|u − v|²/4: sin² of half the angle between unit vectors, to full relative accuracy."""
    total = u.dtype.type(0)
    for k in range(u.size):
        d = u[k] - v[k]
        total += d * d
    return total / 4  # type: ignore[return-value]


@njit(fastmath={"reassoc", "contract"})
def together(u: Floats, v: Floats, twice_centre: Floats) -> float:
    """|u + v + 2m|²/4: cos² of half the angle, of vectors from which m was subtracted."""
    total = u.dtype.type(0)
    for k in range(u.size):
        d = (u[k] + v[k]) + twice_centre[k]
        total += d * d
    return total / 4  # type: ignore[return-value]


@njit
def half_angles(
    product: Floats,
    i: int,
    j0: int,
    rows: Samples,
    columns: Samples,
    twice_centre: Floats,
    z: Floats,
    w: Floats,
) -> None:
    """sin² and cos² of half the angles of sample i with samples j0, j0 + 1, …, into z and w."""
    real = z.dtype.type
    half, one = product.dtype.type(0.5), product.dtype.type(1)
    floor, ceiling = product.dtype.type(CERTAINLY_NEAR), product.dtype.type(1 - NEARLY_OPPOSITE)
    spread, spreads = rows.spread[i], columns.spread[j0 : j0 + z.size]
    repairs = 0
    for j in range(z.size):
        s = (spread + spreads[j]) - half * product[j]
        repairs += (s <= spread * spreads[j] + floor) | (s >= ceiling)
        z[j] = real(s)
        w[j] = real(one - s)
    if repairs == 0:
        return
    for j in range(z.size):
        s = (spread + spreads[j]) - half * product[j]
        if s <= spread * spreads[j] + floor:
            z[j] = real(apart(rows.unit[i], columns.unit[j0 + j]))
            w[j] = z.dtype.type(1) - z[j]
        elif s >= ceiling:
            w[j] = real(together(rows.unit[i], columns.unit[j0 + j], twice_centre))
            z[j] = z.dtype.type(1) - w[j]


@njit
def mirror(
    out: Floats, row: int, col: int, height: int, width: int, to_row: int, to_col: int
) -> None:
    """Write the transpose of a tile, in blocks that stay in the first-level cache."""
    block = 16
    on_diagonal = row == to_row and col == to_col
    for j0 in range(0, width, block):
        for i0 in range(j0 if on_diagonal else 0, height, block):
            for j in range(j0, min(j0 + block, width)):
                first = max(i0, j + 1) if on_diagonal else i0
                for i in range(first, min(i0 + block, height)):
                    out[to_row + j, to_col + i] = out[row + i, col + j]


@njit
def compute_tile(
    t: NDArray[np.int64],
    rows: Samples,
    columns: Samples,
    twice_centre: Floats,
    layers: Layers,
    nngp: Floats,
    ntk: Floats,
    product: Floats,
    working: Floats,
) -> None:
    """One tile, with this thread's scratch: product (T, T) and working (3, T)."""
    size = product.shape[0]
    i0, j0, height, width = t[ROW], t[COLUMN], t[HEIGHT], t[WIDTH]
    on_diagonal = t[MIRROR_ROW] == t[TO_ROW] and t[MIRROR_COLUMN] == t[TO_COLUMN]
    np.dot(rows.unit[i0 : i0 + size], columns.unit[j0 : j0 + size].T, product)
    for i in range(height):
        n = i + 1 if on_diagonal else width
        z, w, tau = working[0, :n], working[1, :n], working[2, :n]
        half_angles(product[i, :n], i0 + i, j0, rows, columns, twice_centre, z, w)
        all_layers(
            z, w, tau, i0 + i, j0, rows, columns, layers,
            t[TO_ROW] + i, nngp, ntk, t[TO_COLUMN],
        )  # fmt: skip
    if t[MIRROR_ROW] >= 0:
        for out in (nngp, ntk):
            for layer in range(out.shape[0]):
                mirror(
                    out[layer], t[TO_ROW], t[TO_COLUMN], height, width,
                    t[MIRROR_ROW], t[MIRROR_COLUMN],
                )  # fmt: skip


@kernel(parallel=True)
def compute_tiles(
    tiles: NDArray[np.int64],
    rows: Samples,
    columns: Samples,
    twice_centre: Floats,
    layers: Layers,
    nngp: Floats,
    ntk: Floats,
    product: Floats,
    working: Floats,
) -> None:
    """All tiles of a table, in parallel.

    tiles : (tiles, TILE_FIELDS) int64
    rows, columns : Samples; the same one twice for a symmetric matrix in one band
    twice_centre : (n0,) 2m
    nngp, ntk : (kept layers, ·, ·) outputs, C-contiguous; (0, 1, 1) if not wanted
    product : (threads, T, T), working : (threads, 3, T), scratch
    """
    for k in numba.prange(tiles.shape[0]):
        thread = numba.get_thread_id()  # type: ignore[attr-defined]
        compute_tile(
            tiles[k], rows, columns, twice_centre, layers,
            nngp, ntk, product[thread], working[thread],
        )  # fmt: skip


@kernel()
def compute_diagonal(
    samples: Samples,
    count: int,
    layers: Layers,
    nngp: Floats,
    ntk: Floats,
) -> None:
    """Σ(x,x) and Θ(x,x) by the same arithmetic as a tile's: outputs (layers, count, 1)."""
    working = np.empty((3, 1), samples.std.dtype)
    for i in range(count):
        working[0, 0] = 0
        working[1, 0] = 1
        all_layers(
            working[0], working[1], working[2], i, i, samples, samples, layers, i, nngp, ntk, 0,
        )  # fmt: skip
