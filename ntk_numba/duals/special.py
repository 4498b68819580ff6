"""Elementary functions without branches or library calls, so that LLVM vectorises their loops.

Numba's own ``math.acos`` is a scalar call to libm (5 to 6 ns); this takes a fraction of that.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ntk_numba.compiled.intrinsics import (
    fma,
    larger,
    polynomial,
    smaller,
)
from ntk_numba.compiled.policy import per_dtype

LARGEST_M = 0.5001  # right angles, and what roundings make of them

# Coefficients, highest power first, for (φ/sinφ − 1)/m with m = sin²(φ/2) ≤ LARGEST_M; the test of
# this file makes them anew. In float32 a polynomial in m, mpmath.chebyfit's. In float64, where that
# would need 20, a quotient of two in c = cosφ, equal to the function at 13 Chebyshev points: the
# division waits for the same unit as the square root of a layer, which is idle half of the time.
# In c all terms are positive, so nothing cancels.
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
"""(φ/sinφ − 1)/m of m = sin²(φ/2) and c = cosφ = 1 − 2m, for m ≤ LARGEST_M; from 2/3 to 1.15.

Error of the fits 3.7e-17 in float64 and 1.2e-7 in float32, with roundings below 7e-16 and 3e-7. A
fifth of it at most is left in a kernel of the next layer.
"""


def _angle_per_sine(real: Any) -> Callable[[float, float], float]:
    one, two = real(1), real(2)

    def angle_per_sine(sine: float, cosine: float) -> float:
        m = sine * sine / (two * (one + cosine))
        return fma(m, angle_excess(m, cosine), one)

    return angle_per_sine


angle_per_sine = per_dtype("angle_per_sine", _angle_per_sine)
"""φ/sinφ of φ's sine and cosine, |φ| ≤ π/2; 1 at φ = 0, to some ulp."""


def _supplement(real: Any) -> Callable[[float, float], tuple[float, float]]:
    one, two, pi = real(1), real(2), real(math.pi)

    def supplement(z: float, w: float) -> tuple[float, float]:
        m = smaller(z, w)
        sine = two * math.sqrt(fma(-m, m, m))
        angle = sine * fma(m, angle_excess(m, fma(-two, m, one)), one)
        return (pi - angle if z <= w else angle), sine

    return supplement


supplement = per_dtype("supplement", _supplement)
"""(π − θ, sinθ) of z = sin²(θ/2) and w = cos²(θ/2)."""


# Coefficients, highest power first, for (e^r − 1 − r)/r² with |r| ≤ ½ ln 2, mpmath.chebyfit's; the
# test makes them anew.
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
# ln 2 as a number of the dtype and what that leaves
LN2_SINGLE = (0.6931471824645996, -1.904654299957768e-09)
LN2_DOUBLE = (0.6931471805599453, 2.3190468138462996e-17)
# Of x: e^x is 0 below the first, and what it is at the second above that
EXPONENT_SINGLE = (-87.0, 88.0)
EXPONENT_DOUBLE = (-708.0, 709.0)


def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """2^n of a float n + 1.5·2^(bits of the mantissa), by the last bits of which n is written."""
    bits = 23 if shifted == types.float32 else 52

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        integer = ir.IntType(32 if bits == 23 else 64)
        one = ((1 << (7 if bits == 23 else 10)) - 1) << bits  # the bits of 1.0
        n = builder.shl(builder.bitcast(args[0], integer), integer(bits))
        return builder.bitcast(builder.add(n, integer(one)), args[0].type)

    return shifted(shifted), codegen


power_of_two: Any = intrinsic(_power_of_two)


def _exponentials(real: Any) -> Callable[[float], tuple[float, float]]:
    single = real is np.float32
    rest = polynomial(EXPONENTIAL_SINGLE if single else EXPONENTIAL_DOUBLE)
    high, low = (real(v) for v in (LN2_SINGLE if single else LN2_DOUBLE))
    least, most = (real(v) for v in (EXPONENT_SINGLE if single else EXPONENT_DOUBLE))
    to_binary, shift = real(1 / math.log(2)), real(1.5 * 2.0 ** (23 if single else 52))
    one, none = real(1), real(0)

    def exponentials(x: float) -> tuple[float, float]:
        inside = smaller(larger(x, least), most)
        shifted = fma(inside, to_binary, shift)  # rounds to the nearest n
        n = shifted - shift
        r = fma(-n, low, fma(-n, high, inside))
        rise = fma(r * r, rest(r), r)  # e^r − 1
        scale = power_of_two(shifted)
        value = fma(scale, rise, scale)
        return (none if x < least else value), fma(scale, rise, scale - one)

    return exponentials


exponentials = per_dtype("exponentials", _exponentials)
"""(e^x, e^x − 1), each to 1.5 ulp of itself; x may be infinite but not NaN.

Below −708 (float32: −87) e^x is 0, above 709 (88) it stays finite. With n = round(x/ln 2) and
r = x − n ln 2 ∈ [−½ ln 2, ½ ln 2], e^x = 2^n e^r.
"""
