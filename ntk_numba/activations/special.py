"""Elementary functions without branches or library calls, so that LLVM vectorises their loops.

Numba's own ``math.acos`` is a scalar call to libm (5 to 6 ns); this takes a fraction of that.
"""

import numpy as np

from ntk_numba.jit import polynomial

ANGLE_RANGE = 0.293  # of t: just over 1 − √½

# Coefficients, highest power first, of the Chebyshev fits of (arccos(y)/√(1−y²) − 1)/t, t = 1 − y,
# on [0, ANGLE_RANGE]; the test of this file makes them anew with mpmath.chebyfit. Error of the fit:
# 1.1e-16 and 3.8e-8, of which a factor t is left in arccos. In t the series converges twice as fast
# as in m = 1 − y²: its nearest singularity, y = −1, is farther away.
ANGLE_EXCESS = {
    np.float64: (
        0.0002863339278238725,
        0.00013551992038074762,
        0.0006083633780464058,
        0.0011563058656135872,
        0.0024886196088720097,
        0.005327777947780929,
        0.011544026000511083,
        0.025396824862785185,
        0.05714285715294316,
        0.13333333333325922,
        0.3333333333333334,
    ),
    np.float32: (
        0.016507109038176534,
        0.024029538288548903,
        0.05729060000828851,
        0.13332784323191102,
        0.3333333655938191,
    ),
}

angle_excess = polynomial(ANGLE_EXCESS)
"""(arccos(1−t)/√(t(2−t)) − 1)/t for 0 ≤ t ≤ ANGLE_RANGE, from 1/3 to 0.38.

Error below 1.7e-16 in float64 and 7e-8 in float32.
"""
