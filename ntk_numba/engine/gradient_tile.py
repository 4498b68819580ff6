"""A tile of derivatives: angles, recursion with derivatives, and their sum or their output.

The tiles, strips and angles are those of `tile`. All arithmetic is in float64. A tile is computed
by one thread, and its sums run over its rows in order, so that the number of threads cannot change
a bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.chains import scalar_product
from ntk_numba.compiled.intrinsics import larger
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.engine.differences import (
    HIGH,
    KEPT_W,
    KEPT_Z,
    LOW,
    POINTS,
    VALUE,
    Moved,
    add_point,
    moved_band,
    slopes_of_row,
)
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.recursion import Results, cosine
from ntk_numba.engine.rows import TAU, Duals, W, Z
from ntk_numba.engine.tangents import BLOCK, SHARED, Doubles, Turns, all_tangents
from ntk_numba.engine.tile import (
    STRIP,
    StripScratch,
    Tiles,
    angles_of_row,
    is_on_diagonal,
    multiply_strip,
    pairs_of_row,
    scratch_of,
    write_strip,
)
from ntk_numba.function import Floats


class Wanted(NamedTuple):
    """What becomes of the derivatives of a call.

    nngp, ntk : (P, N, M) the outputs, C-contiguous; (0, 1, 1) where not wanted
    weights : (N, N) of the entries, C-contiguous; (0, 0) if there is no sum
    of_ntk : whether the sum is of the derivatives of Θ, or of those of Σ
    sums : (tiles, P) the sums of tiles, each with its mirror image
    """

    nngp: Floats
    ntk: Floats
    weights: Doubles
    of_ntk: bool
    sums: Doubles


class GradientScratch(NamedTuple):
    """The scratch memory of each thread.

    strip : see `tile.Scratch`
    memory : (threads, SHARED + 2P, BLOCK), see `tangents`
    pairs : (threads, PAIR_NUMBERS, STRIP, T), see `differences`;  obtuse : (threads, STRIP)
    rows : (threads, 2, 1, T) the factors of a sum or τ, and cosθ
    nngp, ntk : (threads, P, STRIP, T) finished strips; (threads, 0, 1, 1) if not wanted
    """

    strip: StripScratch
    memory: Doubles
    pairs: Doubles
    obtuse: NDArray[np.bool_]
    rows: Doubles
    nngp: Floats
    ntk: Floats


class GradientArguments(NamedTuple):
    """The arguments of a tile, which are the same for all tiles of a call.

    bands : the samples, with std = 1: the derivatives are those of cosθ and τ
    roots : √Σ⁽ᴸ⁾(x,x) of the samples of the rows and of the columns, (R,)
    """

    tiles: Tiles
    bands: Bands
    roots: tuple[Doubles, Doubles]
    twice_centre: Doubles
    duals: Duals
    wanted: Wanted
    scratch: GradientScratch


class TangentArguments(NamedTuple):
    """The arguments of `tangents_of_tile`.

    turns : those of the samples of the rows and of the columns
    first : see `tangents.first_layers`
    """

    common: GradientArguments
    turns: tuple[Turns, Turns]
    first: NDArray[np.int64]


class DifferenceArguments(NamedTuple):
    """The arguments of `differences_of_tile`, for one direction.

    moved : those of the samples of the rows and of the columns
    step : (1,) float64
    worst : (tiles,) the largest difference of two orders in each tile, see `differences.KEPT`
    places : see `recursion.Results`
    """

    common: GradientArguments
    moved: tuple[Moved, Moved]
    step: Doubles
    worst: Doubles
    places: NDArray[np.int64]


class _Place(NamedTuple):
    """A block of a row: tile k, row r of its strip and `i` of it, entries `begin` and after it."""

    k: int
    r: int
    i: int
    begin: int


class _Entries(NamedTuple):
    """The numbers of a block of entries: with P = scale · scales, K = P value, dK = P (slope + …).

    log_root, log_roots : the derivatives of ½ log q of both samples
    """

    scale: float
    scales: Doubles
    log_root: float
    log_roots: Doubles


@njit
def _weighted_sum(factors: Doubles, entries: _Entries, value: Doubles, slope: Doubles) -> float:
    """Return the sum of the derivatives of a block of entries times their factors.

    slope is overwritten.
    """
    own, others = entries.log_root, entries.log_roots
    for j in range(slope.size):
        slope[j] += (own + others[j]) * value[j]
    total: float = scalar_product(factors, slope)
    return total


@njit
def _store(out: Floats, entries: _Entries, value: Doubles, slope: Doubles) -> None:
    """Fill the derivatives of a block of entries."""
    scale, scales, own, others = entries
    for j in range(slope.size):
        out[j] = (scale * scales[j]) * (slope[j] + (own + others[j]) * value[j])


@njit
def _fill_factors(
    factors: Doubles, wanted: Wanted, t: Any, place: _Place, scale: float, scales: Doubles
) -> None:
    """Fill the factors of a block of a sum; an entry beside the diagonal stands for two."""
    weights = wanted.weights[t.to_row + place.i]
    column = t.to_column + place.begin
    for j in range(factors.size):
        factors[j] = (2 * scale) * scales[j] * weights[column + j]
    diagonal = place.i - place.begin
    if is_on_diagonal(t) and diagonal < factors.size:
        factors[diagonal] *= 0.5


@njit
def _finish(
    wanted: Wanted, strips: tuple[Floats, Floats], place: _Place, p: int, factors: Doubles,
    entries: _Entries, values: tuple[Doubles, Doubles], slopes: tuple[Doubles, Doubles],
) -> None:  # fmt: skip
    """Add a block of derivatives in direction p to the sum of its tile, or store it in strips."""
    n = entries.scales.size
    if wanted.weights.shape[0] > 0:
        which = 1 if wanted.of_ntk else 0
        part = _weighted_sum(factors, entries, values[which], slopes[which])
        wanted.sums[place.k, p] += part
        return
    for which in range(2):
        if strips[which].shape[0] > 0:
            out = strips[which][p, place.r, place.begin : place.begin + n]
            _store(out, entries, values[which], slopes[which])


@ParallelLoop
def tangents_of_tile(arguments_address: Any, thread: int, k: int) -> None:
    """Compute the derivatives of tile k of `TangentArguments`, see `tangents`."""
    arguments: TangentArguments = arguments_at(arguments_address)
    common, first_of = arguments.common, arguments.first
    t, bands, scratch, wanted = common.tiles[k], common.bands, common.scratch, common.wanted
    own, memory, rows = scratch_of(scratch.strip, thread), scratch.memory[thread], scratch.rows
    strips = scratch.nngp[thread], scratch.ntk[thread]
    working, count, summed = own.working, first_of.size, wanted.weights.shape[0] > 0
    if summed:
        wanted.sums[k, :] = 0.0
    for top in range(0, t.height, STRIP):
        height, across = multiply_strip(own.product, bands, t, top)
        for r in range(height):
            row, obtuse = angles_of_row(own, bands, t, top + r, common.twice_centre)
            scale, turns = common.roots[0][row.i], arguments.turns
            for begin in range(0, row.n, BLOCK):
                n, j0 = min(BLOCK, row.n - begin), row.j0 + begin
                z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
                if begin > 0:
                    for j in range(n):
                        z[j], w[j] = working[Z, begin + j], working[W, begin + j]
                pairs = Pairs(bands, row.i, j0, n)
                all_tangents(working, memory, pairs, obtuse, common.duals, turns, first_of)
                place, scales = _Place(k, r, top + r, begin), common.roots[1][j0 : j0 + n]
                factors, value = rows[thread, 0, 0, :n], rows[thread, 1, 0, :n]
                for j in range(n):
                    value[j] = cosine(z[j], w[j])
                if summed:
                    _fill_factors(factors, wanted, t, place, scale, scales)
                for p in range(count):
                    dz, dtau = memory[SHARED + p, :n], memory[SHARED + count + p, :n]
                    for j in range(n):
                        dz[j] *= -2
                    roots = turns[0].log_root[p, row.i], turns[1].log_root[p, j0 : j0 + n]
                    entries = _Entries(scale, scales, roots[0], roots[1])
                    _finish(
                        wanted, strips, place, p, factors, entries, (value, tau), (dz, dtau)
                    )  # fmt: skip
        write_strip(wanted.nngp, strips[0], t, top, height, across)
        write_strip(wanted.ntk, strips[1], t, top, height, across)


@ParallelLoop
def differences_of_tile(arguments_address: Any, thread: int, k: int) -> None:
    """Compute the derivatives of tile k of `DifferenceArguments`, see `differences`."""
    arguments: DifferenceArguments = arguments_at(arguments_address)
    common, moved = arguments.common, arguments.moved
    t, bands, scratch, wanted = common.tiles[k], common.bands, common.scratch, common.wanted
    own, rows = scratch_of(scratch.strip, thread), scratch.rows[thread]
    strips = scratch.nngp[thread], scratch.ntk[thread]
    pairs, obtuse = scratch.pairs[thread], scratch.obtuse[thread]
    summed, results = wanted.weights.shape[0] > 0, Results(rows[1:], rows[:1], arguments.places)
    asked = (
        wanted.nngp.shape[0] > 0 or (summed and not wanted.of_ntk),
        wanted.ntk.shape[0] > 0 or (summed and wanted.of_ntk),
    )
    if summed:
        wanted.sums[k, :] = 0.0
    worst = 0.0
    for top in range(0, t.height, STRIP):
        height, across = multiply_strip(own.product, bands, t, top)
        for r in range(height):
            row, obtuse[r] = angles_of_row(own, bands, t, top + r, common.twice_centre)
            for j in range(row.n):
                pairs[KEPT_Z, r, j] = own.working[Z, j]
                pairs[KEPT_W, r, j] = own.working[W, j]
        # All rows of a strip at one point after another: the coefficients of the samples at all
        # points together do not stay in the cache.
        for point in range(-1, POINTS):
            left = bands.rows if point < 0 else moved_band(bands.rows, moved[0], point)
            right = bands.columns if point < 0 else moved_band(bands.columns, moved[1], point)
            for r in range(height):
                row = pairs_of_row(Bands(left, right), t, top + r)
                add_point(own.working, pairs, r, point, row, obtuse[r], common.duals, results)
        for r in range(height):
            row = pairs_of_row(bands, t, top + r)
            n, j0, scale = row.n, row.j0, common.roots[0][row.i]
            place, scales = _Place(k, r, top + r, 0), common.roots[1][j0 : j0 + n]
            values = pairs[VALUE, r, :n], pairs[VALUE + 1, r, :n]
            slopes = pairs[HIGH, r, :n], pairs[HIGH + 1, r, :n]
            error, errors = moved[0].log_root_error[row.i], moved[1].log_root_error[j0 : j0 + n]
            for which in range(2):
                if asked[which]:
                    low = pairs[LOW + which, r, :n]
                    here = slopes_of_row(
                        values[which], slopes[which], low, arguments.step[0], error, errors
                    )
                    worst = larger(worst, here)
            factors = rows[0, 0, :n]
            if summed:
                _fill_factors(factors, wanted, t, place, scale, scales)
            log_roots = moved[0].log_root[row.i], moved[1].log_root[j0 : j0 + n]
            entries = _Entries(scale, scales, log_roots[0], log_roots[1])
            _finish(wanted, strips, place, 0, factors, entries, values, slopes)
        write_strip(wanted.nngp, strips[0], t, top, height, across)
        write_strip(wanted.ntk, strips[1], t, top, height, across)
    arguments.worst[k] = worst
