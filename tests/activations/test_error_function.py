import numpy as np
from dual_checks import checks
from mpmath import mp, mpf
from scipy import special

from ntk_numba import activations

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "erf:1.5,0.7,0.2": lambda x: 1.5 * special.erf(0.7 * x) + 0.2,
    "normal_cdf": lambda x: (1 + special.erf(x / np.sqrt(2))) / 2,
    "sigmoid_like": lambda x: (1 + special.erf(x / 2.4020563531719796)) / 2,
}


def error_function(a, b, c):
    a, b, c = mpf(a), mpf(b), mpf(c)

    def dual(q1, q2, s):
        both = (1 + 2 * b * b * q1) * (1 + 2 * b * b * q2)
        k = 2 * a * a / mp.pi * mp.asin(2 * b * b * s / mp.sqrt(both)) + c * c
        return k, 4 * (a * b) ** 2 / mp.pi / mp.sqrt(both - 4 * b**4 * s * s)

    return dual


LIKE = 1 / mpf(2.4020563531719796)
DUALS = {
    "erf": error_function(1, 1, 0),
    "erf:-2,0.3,1": error_function(-2, 0.3, 1),
    "normal_cdf": error_function(0.5, mp.sqrt(0.5), 0.5),
    "sigmoid_like": error_function(0.5, LIKE, 0.5),
}


TestDuals = checks(DUALS)


def test_values():
    x = np.array([-1.0, 0.0, 2.0])
    cdf = [float(mp.ncdf(v)) for v in x]
    np.testing.assert_allclose(activations.get("normal_cdf")(x), cdf, rtol=1e-15)
    sigmoid = [float(mp.erf(v * LIKE) / 2 + 0.5) for v in x]
    np.testing.assert_allclose(activations.get("sigmoid_like")(x), sigmoid, rtol=1e-15)


def test_a_steep_one_has_the_curve_of_a_flat_one():
    """The panels of a quadrature would not resolve a large b."""
    q = np.array([0.1, 2.0, 30.0])
    steep, flat = (activations.get(f"erf:1,{b}").dual(np.inf).curve(q / b**2) for b in (300, 1))
    np.testing.assert_allclose(steep, flat, rtol=1e-13)
