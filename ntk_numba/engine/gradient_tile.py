"""A tile of derivatives: angles, recursion with derivatives, and their sum or their output.

The tiles, strips and angles are those of `tile`. All arithmetic is in float64. A tile is computed
by one thread, and its sums run over its rows in order, so that the number of threads cannot change
a bit.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import larger
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.engine.differences import POINTS, Moved, Options, all_differences
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.recursion import cosine
from ntk_numba.engine.rows import TAU, Duals, W, Z
from ntk_numba.engine.tangents import BLOCK, SHARED, Doubles, Turns, all_tangents
from ntk_numba.engine.tile import (
    STRIP,
    StripScratch,
    Tiles,
    angles_of_row,
    is_on_diagonal,
    multiply_strip,
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

    strip : see `tile.Scratch`, with a leading axis of threads
    memory : (threads, SHARED + 2P, BLOCK), see `tangents`
    values : of cosθ and τ, (threads, 1, POINTS + 3, T), see `differences`
    rows : (threads, 4, T) factors of a sum, the derivatives of cosθ and of τ, and cosθ
    nngp, ntk : (threads, P, STRIP, T) finished strips; (threads, 0, 1, 1) if not wanted
    """

    strip: StripScratch
    memory: Doubles
    values: tuple[Doubles, Doubles]
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
def _own_scratch(scratch: StripScratch, thread: int) -> StripScratch:
    """Return the scratch memory of a thread."""
    return StripScratch(
        scratch.product[thread], scratch.working[thread],
        scratch.vector[thread], scratch.distance[thread],
    )  # fmt: skip


@njit(fastmath={"reassoc", "contract"})
def _weighted_sum(factors: Doubles, entries: _Entries, value: Doubles, slope: Doubles) -> float:
    """Return the sum of the derivatives of a block of entries times their factors, reassociated."""
    own, others, total = entries.log_root, entries.log_roots, 0.0
    for j in range(slope.size):
        total += factors[j] * (slope[j] + (own + others[j]) * value[j])
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
    own, memory, rows = _own_scratch(scratch.strip, thread), scratch.memory[thread], scratch.rows
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
                factors, value = rows[thread, 0, :n], rows[thread, 3, :n]
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
    own, rows = _own_scratch(scratch.strip, thread), scratch.rows
    strips = scratch.nngp[thread], scratch.ntk[thread]
    values = scratch.values[0][thread], scratch.values[1][thread]
    summed = wanted.weights.shape[0] > 0
    if summed:
        wanted.sums[k, :] = 0.0
    of_nngp = wanted.nngp.shape[0] > 0 or (summed and not wanted.of_ntk)
    of_ntk = wanted.ntk.shape[0] > 0 or (summed and wanted.of_ntk)
    options = Options(arguments.step[0], of_nngp, of_ntk, arguments.places)
    worst = 0.0
    for top in range(0, t.height, STRIP):
        height, across = multiply_strip(own.product, bands, t, top)
        for r in range(height):
            row, obtuse = angles_of_row(own, bands, t, top + r, common.twice_centre)
            n, scale = row.n, common.roots[0][row.i]
            place, scales = _Place(k, r, top + r, 0), common.roots[1][row.j0 : row.j0 + n]
            factors, slopes = rows[thread, 0, :n], (rows[thread, 1, :n], rows[thread, 2, :n])
            here = all_differences(
                own.working, values, slopes, row, obtuse, common.duals, moved, options
            )
            worst = larger(worst, here)
            if summed:
                _fill_factors(factors, wanted, t, place, scale, scales)
            log_roots = moved[0].log_root[row.i], moved[1].log_root[row.j0 : row.j0 + n]
            entries = _Entries(scale, scales, log_roots[0], log_roots[1])
            both = values[0][0, POINTS, :n], values[1][0, POINTS, :n]
            _finish(wanted, strips, place, 0, factors, entries, both, slopes)
        write_strip(wanted.nngp, strips[0], t, top, height, across)
        write_strip(wanted.ntk, strips[1], t, top, height, across)
    arguments.worst[k] = worst
