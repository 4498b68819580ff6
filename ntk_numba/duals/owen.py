"""Probabilities of quadrants under the bivariate normal distribution, by one table.

`activations.kinked` uses them. For numbers h, k and (X, Y) ~ N(0, [[1, ρ], [ρ, 1]]), ρ = cosθ,

    d_h = (k − ρh)/sinθ,  d_k = (h − ρk)/sinθ
    E sgn(X − h) sgn(Y − k) = 1 − 2θ/π + 4F(h, d_h) + 4F(k, d_k)
    F(h, d) = (h/2π) ∫_0^d (1 − exp(−(h² + y²)/2))/(h² + y²) dy = atan(d/h)/2π − T(h, d/h)

F is Owen's T function with its non-smooth part removed; it is entire, and odd in both arguments.
Source: Owen 1956, *Tables for computing bivariate normal probabilities*. Let R² be
h² + d_h² = k² + d_k². If it is larger than `FAR`, the probability of the quadrant at (h, k) that is
farthest from 0 is negligible, and the expectation is that of the other three quadrants.

F/hd and G(d)/d, G = Φ − ½, are polynomials in u = (2 + 2c/FAR) d²/(d² + c) − 1 to 2e-17, and so is
F in the u of h: the coefficients of F(h, ·) belong to a sample, and a pair takes two polynomials.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import polynomial
from ntk_numba.compiled.policy import per_dtype
from ntk_numba.duals.quadrature import gauss_legendre
from ntk_numba.extended import PI, Extended, extended
from ntk_numba.extended.chebyshev import points, series, to_coefficients, to_powers

Array = NDArray[np.float64]

FAR = 69.0  # exp(−FAR/2) is 1e-15
CENTRE = 48.0  # c
SLOPE = 2 + 2 * CENTRE / FAR
TERMS, TERMS_SINGLE = 26, 18

STEPS = 12  # the pieces of the integral, each by a rule of 16 points

# The coefficients of G(d)/d, highest power of u first, by mpmath.chebyfit;
# tests/activations/test_kinked.py derives them again.
GAUSS_SINGLE = (
    1.0479202402612998e-05,
    -8.704293166598073e-05,
    8.159508782220518e-05,
    0.0007618830922821805,
    -0.003443630869229687,
    0.008383768506639445,
    -0.015110848074366431,
    0.022444462220130825,
    -0.0293298619435715,
    0.03548323830734821,
    -0.04246036162907452,
    0.05098145168208561,
    -0.0791220484205102,
    0.11159984168093208,
)
GAUSS_DOUBLE = (
    -4.475848592022532e-10,
    -5.214017064955926e-10,
    5.0611750906037735e-09,
    8.677956460544164e-09,
    -3.278489785960222e-08,
    -8.432273931012863e-08,
    1.8392493023922406e-07,
    6.541906956992357e-07,
    -1.2327505531796141e-06,
    -4.443104897010873e-06,
    1.1457091359275082e-05,
    2.2070753606293495e-05,
    -0.00011978033491912739,
    6.725226387183065e-05,
    0.0008039351370251381,
    -0.0034343408315443635,
    0.008356005704785658,
    -0.015114008557891741,
    0.022454009773834452,
    -0.02932934362094192,
    0.03548166274781812,
    -0.04246039376285424,
    0.05098154966713208,
    -0.07912204809313404,
    0.11159984068205361,
)


def _gauss(real: Any) -> Callable[[float], float]:
    series = polynomial(GAUSS_SINGLE if real is np.float32 else GAUSS_DOUBLE, 2)

    def gauss(u: float) -> float:
        value: float = series(u)
        return value

    return gauss


gauss = per_dtype("gauss", _gauss)
"""u → G(d)/d, where u is `variable` of d."""


def variable(d: Any) -> Any:
    """Return the u of each |d| ≤ √FAR, from −1 to 1."""
    return SLOPE * (d**2 / (d**2 + CENTRE)) - 1


@cache
def _table() -> Extended:
    """Return the table of 4F/hd, (TERMS, TERMS).

    It has the Chebyshev coefficients, in the u of h, of the coefficients of powers of the u of d.
    """
    fraction = (points(TERMS) + 1) / SLOPE
    square = CENTRE * fraction / (1 - fraction)
    nodes, weights = gauss_legendre()
    total = extended(np.zeros((TERMS, TERMS)))
    for step in range(STEPS):
        for node, weight in zip(nodes, weights, strict=True):
            y = (step + (node + 1) / 2) / STEPS
            half = (square.reshape(TERMS, 1) + square * y * y) / 2
            total = total + weight / 2 / STEPS * (-np.expm1(-half) / half)
    matrix = to_coefficients(TERMS)
    return matrix @ (total / PI) @ matrix.T @ to_powers(TERMS).T


def coefficients(h: Extended) -> Extended:
    """Return the coefficients of 4F(h, d)/d by powers u⁰, u¹, … of the u of d, (TERMS, N).

    They are in extended precision, since those for large h are small against those for small h.

    h : (N,) 0 ≤ h ≤ √FAR
    """
    return h * series(variable(h), _table())
