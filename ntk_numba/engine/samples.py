"""What is computed once a sample: its unit vector and, layer by layer, its variance.

The angle θ of x and x' enters the kernels as z = sin²(θ/2) = |û − û'|²/4 of the unit vectors. A
matrix product gives it as (|v|² + |v'|² − 2 v·v')/4 for v = û − m with any m; the rounding errors
scale with |v||v'|, so m is chosen near the middle of the data: for images, whose unit vectors all
lie in one small cone, most of the error is gone, and few pairs are left that need `tile`'s repair.

Unit vectors and their products are float64 for a float32 result too: sums of hundreds of terms lose
up to 100 ulp, which float64 has to spare under its promise and float32 has not; and OpenBLAS's
float32 product depends on an entry's place with AVX2, so that equal samples had unequal rows.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ntk_numba.files.source import Source
from ntk_numba.jit import kernel, njit
from ntk_numba.network import MLP

# Rows looked at to choose the centre m, and the grid it is rounded to, which makes m independent of
# the order of those rows. All are free choices: m changes roundings only.
CENTRE_ROWS = 1024
CENTRE_BYTES = 8 << 20

Floats = NDArray[np.floating]
CENTRE_GRID = 4096.0


class Samples(NamedTuple):
    """A band of R samples, ready for the tiles.

    unit : (R, n0) v = û − m in float64, zero rows at the end where R exceeds the data
    spread : (R,) |v|²/4
    std : (L, R) √Σ⁽ˡ⁾(x,x);  weight, bias : (L, R) the shares of `recursion`, squares adding to 1
    """

    unit: NDArray[np.floating]
    spread: NDArray[np.floating]
    std: NDArray[np.floating]
    weight: NDArray[np.floating]
    bias: NDArray[np.floating]


@njit(fastmath={"reassoc", "contract"})
def _sum_of_squares(v: Floats) -> float:
    """Σ v², reassociated into the lanes of a vector, which is faster and more exact."""
    total = 0.0
    for k in range(v.size):
        x = np.float64(v[k])
        total += x * x
    return total


@kernel(parallel=True)
def normalise(x: Floats, centre: Floats, unit: Floats, spread: Floats, norm: Floats) -> None:
    """Fill unit = x/|x| − centre, spread = |unit|²/4, norm = |x|, in float64 whatever x and unit.

    The row is scaled by a power of two, so that no square overflows or underflows.
    """
    for i in numba.prange(x.shape[0]):
        largest = 0.0
        for k in range(x.shape[1]):
            largest = max(largest, abs(np.float64(x[i, k])))
        scale = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0
        scaled = np.empty(x.shape[1])
        for k in range(x.shape[1]):
            scaled[k] = np.float64(x[i, k]) / scale
        length = math.sqrt(_sum_of_squares(scaled))
        norm[i] = length * scale
        divisor = length if largest > 0 else 1.0
        for k in range(x.shape[1]):
            unit[i, k] = scaled[k] / divisor - centre[k]
        spread[i] = _sum_of_squares(unit[i]) / 4


def centre_of(x: Source) -> NDArray[np.float64]:
    """The point m to subtract from all unit vectors: (n0,)."""
    rows = x.sample(min(CENTRE_ROWS, max(1, CENTRE_BYTES // (x.shape[1] * 8))))
    unit = np.empty(rows.shape)
    spread, norm = np.empty(len(rows)), np.empty(len(rows))
    normalise(rows, np.zeros(rows.shape[1]), unit, spread, norm)
    mean = unit.mean(axis=0)
    # Where all terms of an inner product are equal (rows of ±1), its rounding errors have one sign
    # and add up, past 1e-14 from 363 terms on. Coordinates shifted at random make them cancel, if
    # the shifts have random last bits; their size is a power of two near the data's radius.
    radius = np.sqrt(np.mean(np.sum((unit - mean) ** 2, axis=1)))
    size = 2.0 ** np.round(np.log2(max(radius, 1 / CENTRE_GRID))) / np.sqrt(mean.size)
    shift = np.random.default_rng(0).uniform(-0.5, 0.5, mean.shape) * size
    return np.asarray(np.round(mean * CENTRE_GRID) / CENTRE_GRID + shift)


def layer_statistics(
    net: MLP, norm: NDArray[np.float64], n0: int, dtype: np.dtype
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """std, weight and bias (see `Samples`) of samples of given norms; eq. 10 and 12 at x = x'.

    In extended precision where the machine has it (x86): 32 layers then add no error of their own,
    and a variance may leave float64's range on the way as long as its root stays inside.
    """
    real = np.longdouble
    shape = (net.depth, len(norm))
    std, weight, bias = np.empty(shape, dtype), np.empty(shape, dtype), np.empty(shape, dtype)
    moment = norm.astype(real) ** 2 / n0
    for layer in range(net.depth):
        a = real(net.w_std[layer]) ** 2 * moment
        beta = real(net.b_std[layer])
        q = a + beta**2
        root = np.sqrt(q)
        divisor = np.where(root > 0, root, 1)
        std[layer], weight[layer], bias[layer] = root, np.sqrt(a) / divisor, beta / divisor
        if layer + 1 < net.depth:
            moment = net.activation[layer].second_moment(q)
    return std, weight, bias
