"""Derivatives of Σ and Θ by w_std and b_std for any network, by central differences.

The parameters move along a direction, log σ_w + t c and log β + t c', and the whole recursion of
`recursion` runs for each of ten values of t, with the angles of the samples and the fitted duals of
the network itself. The differences are those of cosθ and of τ = Θ/P, which neither overflow nor
grow with the variances, and of log P = ½ log qq', whose difference is one of samples:

    f'(0) ≈ Σ_k c_k [f(kh) − f(−kh)]/h,   k = 1 … 5

with an error of h¹⁰ f⁽¹¹⁾/2772. If f has singularities at a distance r in the complex plane, this
is about 14400 (h/r)¹⁰/r; for σ_w of one layer r is π/2, and for that of all L layers as little as
π/2L. A rounding error ε of f becomes 2.3 ε/h. The difference of order 8 of the same values has an
error of about 576 (h/r)⁸/r, so how much the two differ tells how exact the one of order 10 is. The
first tile of a job finds the step, and tiles for which it is too long are computed again with a
shorter one. The errors of a series move with its parameters as smoothly as the series itself, so
that derivatives have about the tolerance of the kernels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import larger
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import Dual
from ntk_numba.engine.pairs import Pairs
from ntk_numba.engine.recursion import Results, all_layers
from ntk_numba.engine.rows import Duals, W, Z
from ntk_numba.engine.samples import Samples, layer_statistics
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import extended, product
from ntk_numba.network import MLP, Layer

Doubles = NDArray[np.float64]

# The coefficients c_k of orders 10 and 8
ORDER_10 = (5 / 6, -5 / 21, 5 / 84, -5 / 504, 1 / 1260)
ORDER_8 = (4 / 5, -1 / 5, 4 / 105, -1 / 280, 0.0)
SIDE = len(ORDER_10)
POINTS = 2 * SIDE  # t = h, −h, 2h, −2h, …; one more run is at t = 0

# The largest step, for a direction in which one parameter changes, and the smallest one
STEP, SMALLEST = 0.03, 1e-4
# The largest difference of orders 8 and 10 at which a step is kept, relative to the larger of the
# value, the derivative and 1. The error of order 10 is then at most about a tenth of it.
KEPT = 1e-10


class Moved(NamedTuple):
    """The numbers of a band of R samples in the networks along a direction, at all `POINTS`.

    half_weight, half_bias : (POINTS, L, R);  coefficients : (POINTS, ·, R and padding)
        see `Samples`
    log_root : (R,) the derivative of ½ log q of the last layer
    log_root_error : (R,) the difference of that of order 8
    """

    half_weight: Doubles
    half_bias: Doubles
    coefficients: Doubles
    log_root: Doubles
    log_root_error: Doubles


def first_step(direction: Doubles) -> float:
    """Return the largest step of a direction, (2, L), whose largest coefficient is 1."""
    return STEP / max(1.0, float(np.abs(direction).sum()) / 2)


def next_step(step: float, worst: float) -> float:
    """Return a step at which the difference of orders 8 and 10, now `worst`, is about `KEPT`."""
    return step / 2 ** max(1, math.ceil(math.log2(worst / KEPT) / 8))


def _exponentials(x: Doubles) -> Doubles:
    """Return e^x."""
    return np.exp(extended(x)).astype(float)


def moved_layers(layers: Sequence[Layer], direction: Doubles, t: float) -> tuple[Layer, ...]:
    """Return layers whose log σ_w and log β are moved by t times a direction, (2, L)."""
    factors = _exponentials(t * direction)
    return tuple(
        replace(layer, w_std=layer.w_std * w, b_std=layer.b_std * b)
        for layer, w, b in zip(layers, *factors.tolist(), strict=True)
    )


def farthest_networks(net: MLP, direction: Doubles) -> list[MLP]:
    """Return the two networks that are farthest along a direction and against it."""
    t = SIDE * first_step(direction)
    factors = (_exponentials(sign * t * direction).tolist() for sign in (1, -1))
    return [
        net.replace(
            w_std=[value * f for value, f in zip(net.w_std, w, strict=True)],
            b_std=[value * f for value, f in zip(net.b_std, b, strict=True)],
        )
        for w, b in factors
    ]


def move_samples(
    layers: Sequence[Layer], duals: Sequence[Dual], norm: Doubles, n0: int, direction: Doubles,
    step: float,
) -> Moved:  # fmt: skip
    """Return the numbers of samples along a direction, (2, L), at multiples of a step.

    norm : (R,) |x|

    Raises
    ------
    ValueError
        If a variance is too large for float64 in one of the networks.
    """
    roots, found = [], []
    for k in range(1, SIDE + 1):
        for sign in (1, -1):
            moved = moved_layers(layers, direction, sign * k * step)
            with np.errstate(over="ignore", invalid="ignore"):
                std, *others = layer_statistics(moved, duals, norm, n0, np.dtype(float))
            if not np.isfinite(std).all():
                largest = math.exp(SIDE * step)
                raise InvalidValueError(
                    f"the derivatives take kernels at w_std and b_std up to {largest:.3g} times "
                    "these, and there a variance is too large for float64; scale the data down"
                )
            roots.append(std[-1])
            found.append(others)
    weight, bias, coefficients = (np.stack(arrays) for arrays in zip(*found, strict=True))
    up, down = np.array(roots[::2]), np.array(roots[1::2])
    ratios = np.divide(up, down, out=np.ones_like(up), where=down > 0)
    logs = np.log(extended(np.where(ratios > 0, ratios, 1.0))).astype(float)
    root, lower = (product(np.array([c]), logs)[0] / step for c in (ORDER_10, ORDER_8))
    return Moved(weight, bias, coefficients, root, np.abs(root - lower))


# The numbers that a strip keeps of each of its pairs: the angles of the samples, z and w; cosθ and
# τ at t = 0; and the sums of the differences of orders 10 and 8, of cosθ and of τ.
KEPT_Z, KEPT_W, VALUE, HIGH, LOW = 0, 1, 2, 4, 6
PAIR_NUMBERS = 8


@njit
def moved_band(band: Samples, moved: Moved, point: int) -> Samples:
    """Return the samples of a band in the network at a point of the differences."""
    return Samples(
        band.panels, band.spread, band.std,
        moved.half_weight[point], moved.half_bias[point], moved.coefficients[point],
    )  # fmt: skip


@njit
def add_point(
    working: Doubles, strip: Doubles, row: int, point: int, pairs: Pairs, obtuse: bool,
    duals: Duals, results: Results,
) -> None:  # fmt: skip
    """Run the recursion for a row of pairs at one point, and add its values to the differences.

    working : (WORKING, ·), see `rows`
    strip : (PAIR_NUMBERS, STRIP, ·), whose row `row` is that of the pairs
    point : −1 for t = 0, which comes first
    pairs : with the samples at this point
    results : (1, 1, ·) arrays of the values
    """
    n = pairs.n
    z, w = working[Z, :n], working[W, :n]
    z_kept, w_kept = strip[KEPT_Z, row, :n], strip[KEPT_W, row, :n]
    for j in range(n):
        z[j], w[j] = z_kept[j], w_kept[j]
    all_layers(working, pairs, obtuse, duals, results, 0)
    for which, found in ((0, results.nngp[0, 0, :n]), (1, results.ntk[0, 0, :n])):
        value = strip[VALUE + which, row, :n]
        high, low = strip[HIGH + which, row, :n], strip[LOW + which, row, :n]
        if point < 0:
            for j in range(n):
                value[j], high[j], low[j] = found[j], 0.0, 0.0
        else:
            sign = 1 - 2 * (point % 2)
            c_high, c_low = sign * ORDER_10[point // 2], sign * ORDER_8[point // 2]
            for j in range(n):
                high[j] += c_high * found[j]
                low[j] += c_low * found[j]


@njit
def slopes_of_row(
    value: Doubles, high: Doubles, low: Doubles, step: float, error: float, errors: Doubles
) -> float:
    """Divide the differences of cosθ or τ of a row by the step, in place.

    error, errors : `Moved.log_root_error` of the samples

    Return the largest difference of orders 8 and 10 of an entry, see `KEPT`.
    """
    worst = 0.0
    for j in range(value.size):
        slope, here = high[j] / step, abs(value[j])
        difference = abs(slope - low[j] / step) + here * (error + errors[j])
        worst = larger(worst, difference / larger(1.0, larger(here, abs(slope))))
        high[j] = slope
    return worst
