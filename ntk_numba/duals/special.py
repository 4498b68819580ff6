"""Elementary functions without branches or library calls, so that LLVM vectorises loops over them.

Numba's ``math.acos`` is a scalar call to libm of 5 to 6 ns; these take a fraction of that.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ntk_numba.compiled.intrinsics import (
    fma,
    larger,
    polynomial,
    power_of_two,
    smaller,
)
from ntk_numba.compiled.policy import per_dtype

LARGEST_M = 0.5001  # a right angle has ½, which rounding may exceed

# The coefficients, highest power first, of (φ/sinφ − 1)/m with m = sin²(φ/2) ≤ LARGEST_M;
# tests/duals/test_special.py derives them again. In float32 they are of a polynomial in m, by
# mpmath.chebyfit. In float64, where a polynomial would need 20 terms, they are of a quotient of two
# polynomials in c = cosφ, which equals the function at 13 Chebyshev points: the division uses the
# same unit as the square root of a layer, which is idle half of the time. In c all terms are
# positive, so nothing cancels.
SINGLE = (
    4.22768740082691,
    -5.111669020699577,
    3.615590085689646,
    -0.7447698089534002,
    0.571249544384946,
    0.3857866461580037,
    0.45817403031418,
    0.5333136980109097,
    0.6666667274629177,
)
NUMERATOR = (
    2.6015489999144517e-06,
    0.008080325242166692,
    0.15803263507494858,
    0.9662753894482765,
    2.480267962568431,
    2.7962872853455227,
    1.1415926535897931,
)
DENOMINATOR = (
    0.004148008988459797,
    0.09416451436328842,
    0.7030840411392343,
    2.367148745509548,
    3.955863047579185,
    3.201399921647493,
    1.0,
)


def _angle_excess(real: Any) -> Callable[[float, float], float]:
    if real is np.float32:
        single = polynomial(SINGLE)

        def angle_excess(m: float, c: float) -> float:
            return single(m)
    else:
        numerator, denominator = polynomial(NUMERATOR), polynomial(DENOMINATOR)

        def angle_excess(m: float, c: float) -> float:
            return numerator(c) / denominator(c)

    return angle_excess


angle_excess = per_dtype("angle_excess", _angle_excess)
"""(m, c) → (φ/sinφ − 1)/m, m = sin²(φ/2) ≤ LARGEST_M, c = cosφ = 1 − 2m; from 2/3 to 1.15.

The error of the fits is 3.7e-17 in float64 and 1.2e-7 in float32, with rounding below 7e-16 and
3e-7. At most a fifth of it enters a kernel of the next layer.
"""


def _angle_per_sine(real: Any) -> Callable[[float, float], float]:
    one, two = real(1), real(2)

    def angle_per_sine(sine: float, cosine: float) -> float:
        m = sine * sine / (two * (one + cosine))
        return fma(m, angle_excess(m, cosine), one)

    return angle_per_sine


angle_per_sine = per_dtype("angle_per_sine", _angle_per_sine)
"""(sinφ, cosφ) → φ/sinφ for |φ| ≤ π/2, to a few ulp; 1 at φ = 0."""


def _supplement(real: Any) -> Callable[[float, float], tuple[float, float]]:
    one, two, pi = real(1), real(2), real(math.pi)

    def supplement(z: float, w: float) -> tuple[float, float]:
        m = smaller(z, w)
        sine = two * math.sqrt(fma(-m, m, m))
        angle = sine * fma(m, angle_excess(m, fma(-two, m, one)), one)
        return (pi - angle if z <= w else angle), sine

    return supplement


supplement = per_dtype("supplement", _supplement)
"""(z, w) → (π − θ, sinθ), z = sin²(θ/2) and w = cos²(θ/2)."""


# The coefficients, highest power first, of (e^r − 1 − r)/r² with |r| ≤ ½ ln 2, by mpmath.chebyfit;
# tests/duals/test_special.py derives them again.
EXPONENTIAL_SINGLE = (
    0.0013926176191150312,
    0.00836317313152351,
    0.04166655466162291,
    0.16666577025255677,
    0.5,
)
EXPONENTIAL_DOUBLE = (
    2.5100375924709717e-08,
    2.762007599981065e-07,
    2.7557268480116333e-06,
    2.4801521322116825e-05,
    0.0001984126986304067,
    0.0013888888917196881,
    0.008333333333330065,
    0.041666666666624164,
    0.16666666666666669,
    0.5000000000000001,
)
# ln 2 as a sum of two numbers, the first of which is ln 2 rounded to the dtype
LN2_SINGLE = (0.6931471824645996, -1.904654299957768e-09)
LN2_DOUBLE = (0.6931471805599453, 2.3190468138462996e-17)
# For x below the first, e^x is 0; for x above the second, it is e^x at the second
EXPONENT_SINGLE = (-87.0, 88.0)
EXPONENT_DOUBLE = (-708.0, 709.0)


def _exponentials(real: Any) -> Callable[[float], tuple[float, float]]:
    single = real is np.float32
    series = polynomial(EXPONENTIAL_SINGLE if single else EXPONENTIAL_DOUBLE)
    high, low = (real(v) for v in (LN2_SINGLE if single else LN2_DOUBLE))
    smallest, largest = (real(v) for v in (EXPONENT_SINGLE if single else EXPONENT_DOUBLE))
    to_binary, shift = real(1 / LN2_DOUBLE[0]), real(1.5 * 2.0 ** (23 if single else 52))
    one, zero = real(1), real(0)

    def exponentials(x: float) -> tuple[float, float]:
        inside = smaller(larger(x, smallest), largest)
        shifted = fma(inside, to_binary, shift)  # rounds to the nearest n
        n = shifted - shift
        r = fma(-n, low, fma(-n, high, inside))
        e_r_minus_one = fma(r * r, series(r), r)
        scale = power_of_two(shifted)
        value = fma(scale, e_r_minus_one, scale)
        return (zero if x < smallest else value), fma(scale, e_r_minus_one, scale - one)

    return exponentials


exponentials = per_dtype("exponentials", _exponentials)
"""x → (e^x, e^x − 1), each to 1.5 ulp of its value; x may be infinite but not NaN.

Below −708 (float32: −87) e^x is 0, above 709 (88) it stays finite. With n = round(x/ln 2) and
r = x − n ln 2 ∈ [−½ ln 2, ½ ln 2], e^x = 2^n e^r.
"""
