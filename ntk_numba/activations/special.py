"""Elementary functions without branches or library calls, so that LLVM vectorises their loops.

Numba's own ``math.acos`` is a scalar call to libm (5 to 6 ns); this takes a fraction of that.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ntk_numba.jit import fma, per_dtype, polynomial

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
