"""What is computed once a sample: its unit vector and, layer by layer, its variance.

The angle θ of x and x' enters the kernels as z = sin²(θ/2) = |û − û'|²/4 of the unit vectors. Inner
products give it as (|v|² + |v'|² − 2 v·v')/4 for v = û − m with any m; the rounding errors scale
with |v||v'|, so m is chosen near the middle of the data: for images, whose unit vectors all lie in
one small cone, most of the error is gone, and few pairs are left that need `tile`'s repair.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.arrays import aligned
from ntk_numba.compiled.intrinsics import larger
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import Dual
from ntk_numba.engine.products import Floats, empty_panels
from ntk_numba.engine.transpose import LINE_BYTES, transpose
from ntk_numba.inputs.source import Source
from ntk_numba.network import Layer

# The grid that the centre m is rounded to, which makes it independent of the order of the rows that
# it is made of. A free choice: m changes roundings only.
CENTRE_GRID = 4096.0

# Between a coefficient of all samples and the next: whole tiles are multiples of 4 KB, and what is
# that far apart shares a place in the cache
PADDING_BYTES = 320

STATISTICS_ROWS = 1024  # samples whose variances and coefficients are computed at once


class Samples(NamedTuple):
    """A band of R samples, ready for the tiles.

    panels : v = û − m in the result's dtype, see `products`; zeros where R exceeds the data
    spread : (R,) |v|²/4 in float64
    std : (L, R) √Σ⁽ˡ⁾(x,x);  half_weight, half_bias : (L, R) half the shares of `recursion`
    coefficients : (those of all duals, R and some), see `duals.base.Dual.of_samples`
    """

    panels: Floats
    spread: NDArray[np.float64]
    std: Floats
    half_weight: Floats
    half_bias: Floats
    coefficients: Floats


@njit(fastmath={"reassoc", "contract"})
def _sum_of_squares(v: Floats) -> float:
    """Σ v², reassociated into the lanes of a vector, which is faster and more exact."""
    total = 0.0
    for k in range(v.size):
        total += v[k] * v[k]
    return total


@njit
def _largest(v: Floats) -> float:
    """The largest |v|."""
    largest = 0.0
    for k in range(v.size):
        largest = larger(largest, abs(v[k]))
    return largest


class _Rows(NamedTuple):
    """What `_normalise` works on: the arguments of `normalise`, and scratch of each thread.

    row : (threads, n0);  some : (threads, samples in a line of the cache, n0)
    """

    x: Floats
    first: int
    centre: NDArray[np.float64]
    panels: Floats
    spread: NDArray[np.float64]
    norm: NDArray[np.float64]
    row: NDArray[np.float64]
    some: Floats


@ParallelLoop
def _normalise(rows_at: Any, thread: int, k: int) -> None:
    """Normalise the samples of line k of those that the first one is in."""
    rows: _Rows = arguments_at(rows_at)
    x, first, panels, row, some = (
        rows.x,
        rows.first,
        rows.panels,
        rows.row[thread],
        rows.some[thread],
    )
    features, width = x.shape[1], panels.shape[2]
    real = panels.dtype.type
    line = LINE_BYTES // panels.itemsize
    start = (first // line + k) * line
    low, high = max(first, start), min(first + x.shape[0], start + line)
    for i in range(low, high):
        for f in range(features):
            row[f] = x[i - first, f]
        largest = _largest(row)
        scale = 1.0
        if largest > 0 and not 2.0**-400 < largest < 2.0**400:
            scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
            for f in range(features):
                row[f] /= scale
        length = math.sqrt(_sum_of_squares(row))
        rows.norm[i] = length * scale
        divisor = length if largest > 0 else 1.0
        for f in range(features):
            v = real(row[f] / divisor - rows.centre[f])
            some[i - low, f] = v
            row[f] = v
        rows.spread[i] = _sum_of_squares(row) / 4
    # a plain 0 is of a type of its own in Numba, for which all would be compiled a second time
    top: Any = np.int64(0)
    transpose(panels[low // width], top, low % width, some, high - low, features, features)


def normalise(
    x: Floats,
    first: int,
    centre: NDArray[np.float64],
    panels: Floats,
    spread: NDArray[np.float64],
    norm: NDArray[np.float64],
) -> None:
    """Fill panels = x/|x| − centre, spread = |panels|²/4, norm = |x| of samples first, first + 1, …

    A row of very large or small entries is scaled by a power of two, so that no square overflows
    or underflows.
    """
    features, threads = x.shape[1], numba.get_num_threads()
    # by lines of the cache: with fewer rows, threads would wait for each other's
    line = LINE_BYTES // panels.itemsize
    begin, end = first // line, -(-(first + x.shape[0]) // line)
    row, some = np.empty((threads, features)), np.empty((threads, line, features), panels.dtype)
    _normalise(_Rows(x, first, centre, panels, spread, norm, row, some), end - begin)


def centre_of(x: Source, dtype: np.dtype) -> NDArray[np.float64]:
    """The point m to subtract from all unit vectors, (n0,), of a result in `dtype`."""
    rows = x.evenly()
    unit = empty_panels(len(rows), rows.shape[1], dtype)
    spread, norm = np.empty(len(rows)), np.empty(len(rows))
    normalise(rows, 0, np.zeros(rows.shape[1]), unit, spread, norm)
    unit = unit.transpose(0, 2, 1).reshape(-1, rows.shape[1])[: len(rows)]
    mean = unit.mean(axis=0, dtype=float)
    # Where all terms of an inner product are equal (rows of ±1), its rounding errors have one sign
    # and add up, past 1e-14 from 363 terms on. Coordinates shifted at random make them cancel, if
    # the shifts have random last bits; their size is a power of two near the data's radius.
    radius = np.sqrt(np.mean(np.sum((unit - mean) ** 2, axis=1)))
    size = 2.0 ** np.round(np.log2(max(radius, 1 / CENTRE_GRID))) / np.sqrt(mean.size)
    shift = np.random.default_rng(0).uniform(-0.5, 0.5, mean.shape) * size
    return np.asarray(np.round(mean * CENTRE_GRID) / CENTRE_GRID + shift)


def layer_statistics(
    layers: Sequence[Layer],
    duals: Sequence[Dual],
    norm: NDArray[np.float64],
    n0: int,
    dtype: np.dtype,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return std, half_weight, half_bias and coefficients (see `Samples`); eq. 10, 12 at x = x'.

    In extended precision where the machine has it (x86): 32 layers then add no error of their own,
    and a variance may leave float64's range on the way as long as its root stays inside.
    """
    shape = (len(layers), len(norm))
    std, weight, bias = np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype)
    padding = PADDING_BYTES // dtype.itemsize
    coefficients = aligned((sum(d.count for d in duals), len(norm) + padding), dtype)
    for start in range(0, len(norm), STATISTICS_ROWS):
        some = slice(start, min(start + STATISTICS_ROWS, len(norm)))
        moment = norm[some].astype(np.longdouble) ** 2 / n0
        q, first = moment, 0
        for k, layer in enumerate(layers):
            if layer.activation:
                dual = duals[k - 1]
                moment = layer.activation.second_moment(q)
                coefficients[first : first + dual.count, some] = dual.of_samples(q)
                first += dual.count
            variance = layer.variance(moment)
            q = variance.total
            root = np.sqrt(q)
            half = np.longdouble(0.5) / np.where(root > 0, root, 1)
            std[k, some] = root
            weight[k, some] = np.sqrt(variance.weights) * half
            bias[k, some] = np.longdouble(layer.b_std) * half
    return std, weight, bias, coefficients
