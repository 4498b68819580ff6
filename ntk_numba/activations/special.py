"""Elementary functions without branches or library calls, so that LLVM vectorises their loops.

Numba's own ``math.asin`` is a scalar call to libm (5 to 6 ns); this takes a fraction of that.
"""

import numpy as np

from ntk_numba.jit import polynomial

# Coefficients, highest power first, of the Chebyshev fits of (asin(√m)/√m − 1)/m on [0, ½]; the
# test of this file makes them anew with mpmath.chebyfit. Error of the fit: 3e-17 and 4e-9.
ASIN_EXCESS = {
    np.float64: (
        0.8387674099544927,
        -3.0948547605199717,
        5.436384462318588,
        -5.883233416999023,
        4.3847119392409954,
        -2.3535297860232123,
        0.952265420570822,
        -0.2809947932275328,
        0.07377343868679113,
        -0.0032941927380090922,
        0.011310924828955462,
        0.01139924601483468,
        0.013975730180211136,
        0.017352221539201188,
        0.0223721770065477,
        0.030381944084994415,
        0.04464285714665563,
        0.07499999999998412,
        0.16666666666666669,
    ),
    np.float32: (
        0.09469734959597223,
        -0.07972071595315332,
        0.06379697638268081,
        0.010435325974988746,
        0.03199023922716213,
        0.044538813973175724,
        0.07500252163633334,
        0.16666665678232892,
    ),
}

asin_excess = polynomial(ASIN_EXCESS)
"""(asin(√m)/√m − 1)/m for 0 ≤ m ≤ ½, between 1/6 and 0.23; error below 2 ulp."""
