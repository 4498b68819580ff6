import numpy as np
import pytest
from dual_checks import checks
from mpmath import mp, mpf

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.duals.curve import Curve

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "sin:2,1.5,0.3": lambda x: 2 * np.sin(1.5 * x + 0.3),
    "cos:1,2,0": lambda x: np.cos(2 * x),
    "rbf:0.7": lambda x: np.sqrt(2) * np.sin(np.sqrt(1.4) * x + np.pi / 4),
}


def sinusoid(a, b, phase):
    """Return the dual of σ(x) = a·sin(bx + phase)."""
    a, b, turned = mpf(a), mpf(b), mp.cos(2 * phase)

    def dual(q1, q2, s):
        minus, plus = (mp.exp(-b * b * (q1 + q2 - 2 * t) / 2) for t in (s, -s))
        return a * a / 2 * (minus - turned * plus), (a * b) ** 2 / 2 * (minus + turned * plus)

    return dual


RIGHT = mp.pi / 2
DUALS = {
    "sin": sinusoid(1, 1, 0),
    "cos": sinusoid(1, 1, RIGHT),
    "sin:2,0.5,0.3": sinusoid(2, 0.5, mpf(0.3)),
    "sin:1,1,1e-3": sinusoid(1, 1, mpf(1e-3)),
    "cos:1,-1.5,-1": sinusoid(1, -1.5, RIGHT - 1),
    "rbf": sinusoid(mp.sqrt(2), mp.sqrt(2), mp.pi / 4),
    "rbf:0.1": sinusoid(mp.sqrt(2), mp.sqrt(2 * mpf(0.1)), mp.pi / 4),
}


TestDuals = checks(DUALS, pair=5e-14, double=2e-14, single=3e-5)


def test_the_kernel_of_rbf():
    k, k_dot = nk.dual("rbf:0.3", 2.0, 1.0, 0.5)
    s = 0.5 * np.sqrt(2)
    assert k == pytest.approx(np.exp(-0.3 * (3 - 2 * s)), rel=1e-14)
    assert k_dot == pytest.approx(0.6 * k, rel=1e-14)


@pytest.mark.parametrize(
    ("spec", "parity"),
    [("sin", -1), ("cos", 1), (f"sin:1,1,{np.pi}", -1), (f"sin:1,1,{np.pi / 2}", 1),
     (f"cos:1,1,{-np.pi / 2}", -1), (f"cos:1,1,{7 * np.pi}", 1), ("sin:1,1,1e-17", 0), ("rbf", 0)],
)  # fmt: skip
def test_multiples_of_a_right_angle_are_exact(spec, parity):
    assert activations.get(spec).dual(1.0).parity == parity


def test_parameters():
    for gamma in (0, -1):
        with pytest.raises(ValueError, match="rbf: gamma must be positive"):
            activations.get(f"rbf:{gamma}")


@pytest.mark.parametrize("spec", ["sin", "cos", "sin:1,1,0.3"])
def test_the_curve_is_that_of_the_function(spec):
    """Compare the closed form with the quadrature that serves any function."""
    q = np.array([1e-4, 0.01, 0.3, 2, 17, 60])
    activation = activations.get(spec)
    closed, general = activation.dual(np.inf).curve(q), Curve(activation)(q)
    np.testing.assert_allclose(np.diff(closed[0]), np.diff(general[0]), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(closed[1], general[1], rtol=1e-4, atol=1e-4)


def test_the_curve_of_a_large_variance_is_in_closed_form():
    closed = activations.get("sin").dual(np.inf).curve(np.array([1e6, 1.01e6, 1e20]))
    assert closed[0, 1] - closed[0, 0] == pytest.approx(1e3 * (np.sqrt(1.01) - 1), rel=1e-10)
    np.testing.assert_allclose(closed[1], 0.5, rtol=1e-6)
