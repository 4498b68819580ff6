"""Elementary functions without branches or library calls, so that LLVM vectorises their loops.

Numba's own ``math.acos`` is a scalar call to libm (5 to 6 ns); this takes a fraction of that.
"""

import numpy as np

from ntk_numba.jit import polynomial

ANGLE_RANGE = 0.5001  # of m: right angles, and what roundings make of them

# Coefficients, highest power first, of the Chebyshev fits of (φ/sinφ − 1)/m, m = sin²(φ/2), on
# [0, ANGLE_RANGE]; the test of this file makes them anew with mpmath.chebyfit. Error of the fit:
# 3.2e-16 and 1.2e-7, a fifth of which at most is left in a kernel of the next layer.
ANGLE_EXCESS = {
    np.float64: (
        93.36492548819815,
        -371.8610737772257,
        701.430175727216,
        -818.7371312510801,
        659.7862606853444,
        -386.6818924903162,
        170.6940391760383,
        -57.1492565936783,
        15.134556248436018,
        -2.7212671666835204,
        0.7284751445279266,
        0.23020413399007203,
        0.30421842342532435,
        0.3179617226038469,
        0.34100563458469935,
        0.36940797551299936,
        0.40634921346106995,
        0.45714285707511676,
        0.5333333333335888,
        0.6666666666666665,
    ),
    np.float32: (
        4.22768740082691,
        -5.111669020699577,
        3.615590085689646,
        -0.7447698089534002,
        0.571249544384946,
        0.3857866461580037,
        0.45817403031418,
        0.5333136980109097,
        0.6666667274629177,
    ),
}

angle_excess = polynomial(ANGLE_EXCESS)
"""(φ/sinφ − 1)/m, m = sin²(φ/2), for 0 ≤ m ≤ ANGLE_RANGE, from 2/3 to 1.15.

Error below 7e-16 in float64 and 3e-7 in float32.
"""
