import numpy as np
from dual_checks import checks
from mpmath import mp, mpf
from scipy import special

from ntk_numba import activations

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {"gelu": lambda x: x * (1 + special.erf(x / np.sqrt(2))) / 2}


def gelu(q1, q2, s):
    r = (1 + q1) * (1 + q2)
    d = mp.sqrt(r - s * s)
    angle = mp.atan2(s, d)
    k = s / 4 + ((s * s + q1 * q2 * d * d) / (r * d) + s * angle) / (2 * mp.pi)
    slope = s / d * (1 / d**2 + (1 - q1 * q2) / r + 1)
    return k, mpf(1) / 4 + (angle + slope) / (2 * mp.pi)


DUALS = {"gelu": gelu}


TestDuals = checks(DUALS)


def test_large_variances_are_those_of_relu():
    q = np.array([1e12, 1e30])
    np.testing.assert_allclose(activations.get("gelu").second_moment(q) / q, 0.5, rtol=1e-15)
