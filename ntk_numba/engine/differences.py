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
step is halved where that is not enough.
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
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.recursion import Results, all_layers
from ntk_numba.engine.rows import Duals, W, Z
from ntk_numba.engine.samples import Samples, layer_statistics
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


def moved_layers(layers: Sequence[Layer], direction: Doubles, t: float) -> tuple[Layer, ...]:
    """Return layers whose log σ_w and log β are moved by t times a direction, (2, L)."""
    factors = np.exp(t * direction)
    return tuple(
        replace(layer, w_std=layer.w_std * w, b_std=layer.b_std * b)
        for layer, w, b in zip(layers, *factors.tolist(), strict=True)
    )


def farthest_networks(net: MLP, direction: Doubles) -> list[MLP]:
    """Return the two networks that are farthest along a direction and against it."""
    t = SIDE * first_step(direction)
    factors = (np.exp(sign * t * direction).tolist() for sign in (1, -1))
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
    """
    roots, found = [], []
    for k in range(1, SIDE + 1):
        for sign in (1, -1):
            moved = moved_layers(layers, direction, sign * k * step)
            std, *others = layer_statistics(moved, duals, norm, n0, np.dtype(float))
            roots.append(std[-1])
            found.append(others)
    weight, bias, coefficients = (np.stack(arrays) for arrays in zip(*found, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.array(roots[::2]) / np.array(roots[1::2])
    logs = np.log(ratios, out=np.zeros_like(ratios), where=(ratios > 0) & (ratios < np.inf))
    root, lower = (np.array(order) @ logs / step for order in (ORDER_10, ORDER_8))
    return Moved(weight, bias, coefficients, root, np.abs(root - lower))


class Options(NamedTuple):
    """The step of a call, whether those of Σ and of Θ are wanted, and `Results.places`."""

    step: float
    nngp: bool
    ntk: bool
    places: NDArray[np.int64]


@njit
def all_differences(
    working: Doubles,
    values: tuple[Doubles, Doubles],
    slopes: tuple[Doubles, Doubles],
    pairs: Pairs,
    obtuse: bool,
    duals: Duals,
    moved: tuple[Moved, Moved],
    options: Options,
) -> float:
    """Compute the derivatives of cosθ and of τ of a row of pairs along a direction.

    working : (WORKING, ·), see `rows`; the first n columns of Z and W hold the angles
    values : of cosθ and τ, (1, POINTS + 2, ·), at all points, and at t = 0 in row POINTS; the last
        row is scratch memory
    slopes : of cosθ and τ, (·,)
    moved : those of the samples of the rows and of the columns

    Return the largest difference of orders 8 and 10 of an entry, see `KEPT`.
    """
    (rows, columns), i, j0, n = pairs
    z, w = working[Z, :n], working[W, :n]
    z_kept, w_kept = values[0][0, POINTS + 1, :n], values[1][0, POINTS + 1, :n]
    for j in range(n):
        z_kept[j], w_kept[j] = z[j], w[j]
    results = Results(values[0], values[1], options.places)
    mine, others = moved
    for point in range(POINTS + 1):
        if point > 0:
            for j in range(n):
                z[j], w[j] = z_kept[j], w_kept[j]
        k = max(point - 1, 0)
        left = rows if point == 0 else Samples(
            rows.panels, rows.spread, rows.std,
            mine.half_weight[k], mine.half_bias[k], mine.coefficients[k],
        )  # fmt: skip
        right = columns if point == 0 else Samples(
            columns.panels, columns.spread, columns.std,
            others.half_weight[k], others.half_bias[k], others.coefficients[k],
        )  # fmt: skip
        row = POINTS if point == 0 else k
        all_layers(working, Pairs(Bands(left, right), i, j0, n), obtuse, duals, results, row)
    worst, own, step = 0.0, mine.log_root_error[i], options.step
    for wanted, value, slope in (
        (options.nngp, values[0], slopes[0]), (options.ntk, values[1], slopes[1])
    ):  # fmt: skip
        if not wanted:
            continue
        for j in range(n):
            high, low = 0.0, 0.0
            for k in range(SIDE):
                difference = value[0, 2 * k, j] - value[0, 2 * k + 1, j]
                high += ORDER_10[k] * difference
                low += ORDER_8[k] * difference
            high, low = high / step, low / step
            here = abs(value[0, POINTS, j])
            error = abs(high - low) + here * (own + others.log_root_error[j0 + j])
            slope[j] = high
            worst = larger(worst, error / larger(1.0, larger(here, abs(high))))
    return worst
