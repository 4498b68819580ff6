from fractions import Fraction

import numpy as np
import pytest
from dual_checks import checks
from mpmath import mp, mpf

from ntk_numba import activations
from ntk_numba.activations.exponential import LARGEST_ROOT, split_root
from ntk_numba.extended import extended

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "exp:0.5,0.3": lambda x: 0.5 * np.exp(0.3 * x),
    "gaussian:2,-0.4": lambda x: 2 * np.exp(-0.4 * x * x),
}


def exponential(a, b):
    a, b = mpf(a), mpf(b)

    def dual(q1, q2, s):
        k = a * a * mp.exp(b * b * (q1 + q2 + 2 * s) / 2)
        return k, b * b * k

    return dual


def gaussian(a, b):
    a, b = mpf(a), mpf(b)

    def dual(q1, q2, s):
        m = (1 - 2 * b * q1) * (1 - 2 * b * q2) - 4 * b * b * s * s
        return a * a / mp.sqrt(m), 4 * a * a * b * b * s / mp.sqrt(m) ** 3

    return dual


DUALS = {
    "exp": exponential(1, 1),
    "exp:-2,0.5": exponential(-2, 0.5),
    "gaussian": gaussian(1, -1),
    "gaussian:3,-0.25": gaussian(3, -0.25),
}


TestDuals = checks(
    DUALS,
    double=3e-14,
    single=1e-5,
    scales=(1e-3, 1, 5),
    largest={"exp": 100.0, "exp:-2,0.5": 100.0},
)


def test_parameters():
    for b in (0, 1):
        with pytest.raises(ValueError, match="gaussian: b must be negative"):
            activations.get(f"gaussian:1,{b}")
    assert "350/b²" in activations.get("exp").facts.domain


@pytest.mark.parametrize("root", [0.0, 1e-300, 1e-9, 0.1, 1 / 3, 12345.678, 1e37, 1e300])
def test_a_split_root_fits_a_float32(root):
    high, low = split_root(extended(np.array([root]))).astype(float)[:, 0]
    assert Fraction(high) + Fraction(low) == Fraction(min(root, LARGEST_ROOT))
    assert root < 1e-37 or float(np.float32(high)) == high
