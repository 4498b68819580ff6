"""The quantities of each sample: its unit vector and, layer by layer, its variance.

`Kernel.samples` computes them once for each band.

The angle θ of x and x' enters the kernels as z = sin²(θ/2) = |û − û'|²/4 of the unit vectors. Inner
products give it as (|v|² + |v'|² − 2 v·v')/4 for v = û − m with any m; the rounding errors scale
with |v||v'|, so m is chosen near the mean of the unit vectors. For images, which all lie in a small
cone, this removes most of the error and leaves few pairs for `tile.repair`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.arrays import aligned
from ntk_numba.compiled.chains import scalar_product
from ntk_numba.compiled.intrinsics import fma, larger
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at, threads_now
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import Dual
from ntk_numba.engine.products import empty_panels
from ntk_numba.engine.transpose import LINE_BYTES, transpose
from ntk_numba.extended import extended, where
from ntk_numba.function import Floats
from ntk_numba.inputs.source import Source
from ntk_numba.network import Layer

# The centre m is rounded to a grid of this many points per unit, so that it does not depend on the
# order of the rows. The number is a free choice, since m changes roundings only.
NORMALISED_BYTES = 2 << 20  # of rows that are normalised at a time, which takes temporary arrays
CENTRE_GRID = 4096.0

# The rows of the coefficients are padded by this number of bytes. Otherwise they would be multiples
# of 4 KB apart, as tiles are, and would share their places in the cache.
PADDING_BYTES = 320

# Numbers of samples whose variances and coefficients are computed at once
STATISTICS_NUMBERS, STATISTICS_ROWS = 1 << 15, 512


class Samples(NamedTuple):
    """The quantities of a band of R samples that the tiles use.

    panels : v = û − m in the result's dtype, see `products`; zeros where R exceeds the data
    spread : (R,) |v|²/4 in float64
    std : (L, R) √Σ⁽ˡ⁾(x,x)
    half_weight, half_bias : (L, R) half of weight and bias, see `recursion`
    coefficients : (sum of `Dual.count`, R and padding), see `duals.base.Dual.of_samples`
    """

    panels: Floats
    spread: NDArray[np.float64]
    std: Floats
    half_weight: Floats
    half_bias: Floats
    coefficients: Floats


@njit
def _largest(v: Floats) -> float:
    """Return the largest |v|."""
    largest = 0.0
    for k in range(v.size):
        largest = larger(largest, abs(v[k]))
    return largest


class _Rows(NamedTuple):
    """The arguments of `_normalise`: those of `normalise`, and scratch memory of each thread.

    row, ratio : (threads, n0);  block : (threads, samples in a line of the cache, n0)
    """

    x: Floats
    first: int
    centre: NDArray[np.float64]
    panels: Floats
    spread: NDArray[np.float64]
    norm: NDArray[np.float64]
    row: NDArray[np.float64]
    ratio: NDArray[np.float64]
    block: Floats


@ParallelLoop
def _normalise(rows_at: Any, thread: int, k: int) -> None:
    """Normalise the samples of the k-th line of the cache, counted from that of sample `first`."""
    rows: _Rows = arguments_at(rows_at)
    x, first, panels = rows.x, rows.first, rows.panels
    row, ratio, block = rows.row[thread], rows.ratio[thread], rows.block[thread]
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
        rows.norm[i] = math.sqrt(scalar_product(row, row)) * scale
        largest = largest / scale if largest > 0 else 1.0
        for f in range(features):
            ratio[f] = row[f] / largest
        length = math.sqrt(scalar_product(ratio, ratio))
        divisor = length if length > 0 else 1.0
        per_length = 1 / divisor
        for f in range(features):
            # The rounding errors of the ratio and of the quotient are divided by the length too.
            rest = fma(-ratio[f], largest, row[f]) / largest
            quotient = ratio[f] / divisor
            rest += fma(-quotient, divisor, ratio[f])
            v = real((quotient - rows.centre[f]) + rest * per_length)
            block[i - low, f] = v
            row[f] = v
        rows.spread[i] = scalar_product(row, row) / 4
    # Numba gives a literal 0 a type of its own, for which `transpose` would be compiled again.
    top: Any = np.int64(0)
    transpose(panels[low // width], top, low % width, block, high - low, features, features)


def normalise(
    x: Floats,
    first: int,
    centre: NDArray[np.float64],
    panels: Floats,
    spread: NDArray[np.float64],
    norm: NDArray[np.float64],
) -> None:
    """Fill panels = x/|x| − centre, spread = |panels|²/4 and norm = |x|, from sample `first` on.

    A row of very large or small entries is scaled by a power of two, so that no square overflows
    or underflows. The entries are divided by that of largest magnitude first. The quotient and its
    rest depend on the ratio of two entries alone, so rows that are exact multiples of each other
    have equal or opposite unit vectors, bit for bit.

    x : (rows, n0), the samples first, first + 1, …
    """
    features, threads = x.shape[1], threads_now()
    # Threads take whole lines of the cache: two that share a line wait for each other.
    line = LINE_BYTES // panels.itemsize
    begin, end = first // line, -(-(first + x.shape[0]) // line)
    row, ratio = np.empty((threads, features)), np.empty((threads, features))
    block = np.empty((threads, line, features), panels.dtype)
    _normalise(
        _Rows(
            x=x,
            first=first,
            centre=centre,
            panels=panels,
            spread=spread,
            norm=norm,
            row=row,
            ratio=ratio,
            block=block,
        ),
        end - begin,
    )


def centre_of(x: Source, z: Source | None, dtype: np.dtype) -> NDArray[np.float64]:
    """Return the centre m that is subtracted from all unit vectors, (n0,).

    It is the same if x and z change places, and if z is x.

    x, z : the data of rows and columns, of which some rows are read; z is x if it is None
    dtype : the dtype of the kernels, in which the unit vectors are rounded
    """
    units = [_unit_vectors(source.centre_sample(), dtype) for source in (x, z) if source]
    first, last = units[0], units[-1]
    mean = (first.mean(axis=0, dtype=float) + last.mean(axis=0, dtype=float)) / 2
    # Where all terms of an inner product are equal (rows of ±1), its rounding errors have one sign
    # and add up to more than 1e-14 from 363 terms on. They cancel if the coordinates are shifted at
    # random, by shifts with random last bits. The size of the shifts is a power of two near the
    # radius of the data.
    radius = math.sqrt((_mean_square(first - mean) + _mean_square(last - mean)) / 2)
    mantissa, exponent = math.frexp(max(radius, 1 / CENTRE_GRID))
    size = math.ldexp(1.0, exponent - (mantissa < math.sqrt(0.5))) / math.sqrt(mean.size)
    shift = np.random.default_rng(0).uniform(-0.5, 0.5, mean.shape) * size
    # in the dtype, so that `tile.repair` adds 2m without an error
    centre = np.round(mean * CENTRE_GRID) / CENTRE_GRID + shift
    return np.asarray(centre.astype(dtype), float)


def _unit_vectors(rows: Floats, dtype: np.dtype) -> Floats:
    """Return the unit vectors of rows, in a dtype, (rows, n0)."""
    unit = empty_panels(len(rows), rows.shape[1], dtype)
    spread, norm, width = np.empty(len(rows)), np.empty(len(rows)), unit.shape[2]
    origin, step = np.zeros(rows.shape[1]), max(1, NORMALISED_BYTES // rows[0].nbytes)
    for first in range(0, len(rows), step):
        normalise(rows[first : first + step], first, origin, unit, spread, norm)
    found = np.empty(rows.shape, dtype)
    for panel, some in zip(unit, np.split(found, range(width, len(rows), width)), strict=True):
        some[:] = panel[:, : len(some)].T
    return found


def _mean_square(vectors: Floats) -> float:
    """Return the mean of |v|²."""
    return float(np.mean(np.sum(vectors**2, axis=1)))


def find_underflow(
    layers: Sequence[Layer],
    std: Floats,
    norm: NDArray[np.float64],
    dtype: np.dtype,
    kept: Sequence[int],
) -> tuple[int, str] | None:
    """Return the smallest row whose kernel with itself underflows, and the text of a warning.

    It underflows if Σ(x,x) is below the normal numbers of the dtype although it is not 0. Then
    the entries of Σ and Θ with this sample are 0 or have few digits.

    std : (L, R) √Σ⁽ˡ⁾(x,x)
    norm : (R,) |x|
    kept : the layers whose kernels are wanted, counted from 1
    """
    # whether Σ(x,x) is not 0, by layer, for samples that are 0 and for others
    zero, other, positive = False, True, []
    last = kept[-1]  # the kernels of layers behind it may be too large
    for layer in layers[:last]:
        rises = layer.activation is not None and layer.activation.second_moment(np.zeros(1))[0] > 0
        zero, other = (((v or rises) and layer.w_std > 0) or layer.b_std > 0 for v in (zero, other))
        positive.append(np.where(norm > 0, other, zero))
    small = (std[:last].astype(float) ** 2 < float(np.finfo(dtype).tiny)) & np.array(positive)
    wanted = small[np.array(kept) - 1]
    if not wanted.any():
        return None
    affected = np.flatnonzero(wanted.any(axis=0))
    row = int(affected[np.argmin(norm[affected])])
    first = int(np.argmax(small[:, row])) + 1
    mend = "use float64, or " if dtype == np.float32 else ""
    return row, (
        f"has norm {norm[row]:.3g}, and its kernels are below the range of {dtype} from "
        f"layer {first} of {len(layers)} on, so that entries are 0 or have few digits; {mend}"
        "give a larger w_std or b_std (w_std of 2**0.5 keeps the size of relu)"
    )


def roots_of_variances(
    layers: Sequence[Layer], norm: NDArray[np.float64], n0: int
) -> NDArray[np.float64]:
    """Return √Σ⁽ˡ⁾(x,x) of samples, (L, R), without anything else of `layer_statistics`."""
    moment, roots = extended(norm) ** 2 / n0, []
    q = moment
    for layer in layers:
        if layer.activation:
            moment = layer.activation.moment(q)
        q = layer.variance(moment).total
        roots.append(np.sqrt(q).astype(float))
    return np.array(roots)


def _rows_at_once(coefficients: int) -> int:
    """Return the most samples of a block."""
    return max(STATISTICS_ROWS, STATISTICS_NUMBERS // (6 + coefficients))


def numbers_at_once(samples: int, coefficients: int) -> int:
    """Return how many numbers the statistics of a block of samples have."""
    return min(_rows_at_once(coefficients), samples) * (6 + coefficients)


def blocks_of(samples: int, coefficients: int) -> Iterator[slice]:
    """Yield blocks of samples, each of `numbers_at_once` numbers at most."""
    rows = _rows_at_once(coefficients)
    return (slice(i, min(i + rows, samples)) for i in range(0, samples, rows))


def layer_statistics(
    layers: Sequence[Layer],
    duals: Sequence[Dual],
    norm: NDArray[np.float64],
    n0: int,
    dtype: np.dtype,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return std, half_weight, half_bias and coefficients (see `Samples`); eq. 10, 12 at x = x'.

    They are computed in extended precision: 32 layers then add no error to that of the result, and
    a variance may leave the range of float64 as long as its root stays inside.
    """
    shape = (len(layers), len(norm))
    std, weight, bias = np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype)
    padding = PADDING_BYTES // dtype.itemsize
    coefficients = aligned((sum(d.count for d in duals), len(norm) + padding), dtype)
    for block in blocks_of(len(norm), sum(d.count for d in duals)):
        moment = extended(norm[block]) ** 2 / n0
        q, first = moment, 0
        for k, layer in enumerate(layers):
            if layer.activation:
                dual = duals[k - 1]
                moment = layer.activation.moment(q)
                coefficients[first : first + dual.count, block] = dual.of_samples(q)
                first += dual.count
            variance = layer.variance(moment)
            q = variance.total
            root = np.sqrt(q)
            half = 0.5 / where(root > 0, root, 1)
            std[k, block] = root.astype(dtype)
            weight[k, block] = (np.sqrt(variance.weights) * half).astype(dtype)
            bias[k, block] = (layer.b_std * half).astype(dtype)
    return std, weight, bias, coefficients
