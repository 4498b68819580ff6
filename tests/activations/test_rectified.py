import numpy as np
import pytest
from dual_checks import angles
from mpmath import mp, mpf
from piecewise import cases

from ntk_numba import activations
from ntk_numba.activations.polynomial import HIGHEST
from ntk_numba.engine.dual import pair_dual

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {"rectified_monomial:3": lambda x: cases(x, 0 * x, 0, x**3)}
KINKS = dict.fromkeys(SIGMA, (0.0,))


def test_sigma():
    x = np.array([-2.0, 0, 3])
    assert activations.get("rectified_monomial:2")(x).tolist() == [0, 0, 9]
    assert activations.get("rectified_monomial:1") == activations.get("relu")
    assert activations.get("rectified_monomial:0") == activations.get("heaviside")
    for wrong in (-1, 1.5, HIGHEST + 1):
        with pytest.raises(ValueError, match="whole number"):
            activations.get(f"rectified_monomial:{wrong}")


def moment(n, theta):
    """Return E[max(u, 0)ⁿ max(v, 0)ⁿ], by E[r²ⁿ] = 2ⁿ n! and the angles at which u, v > 0."""
    f = lambda t: (mp.cos(t) * mp.cos(t - theta)) ** n  # noqa: E731
    return 2**n * mp.factorial(n) * mp.quad(f, [theta - mp.pi / 2, mp.pi / 2]) / (2 * mp.pi)


@pytest.mark.parametrize("n", [2, 3, 8, 20])
def test_monomials_are_integrals_over_the_angle(n):
    sigma = activations.get(f"rectified_monomial:{n}")
    one = np.ones(1)
    norm = moment(n, mpf(0))
    assert float(sigma.second_moment(one)[0]) == pytest.approx(float(norm), rel=1e-14)
    for z, w, theta in angles([0, 1e-20, 1e-7, 1e-3, 0.2, 0.4999]):
        zk, _, rate = pair_dual(sigma.dual(np.inf), one, 5 * one, z * one, w * one)
        assert abs(1 - 2 * zk[0] - moment(n, theta) / norm) < n * 1e-15
        assert abs(rate[0] - n * n * moment(n - 1, theta) / norm) < n * n * 1e-15
        if theta < 1e-3:  # z_K ~ z times the rate
            assert zk[0] == pytest.approx(z * n * n / (2 * n - 1), rel=1e-2)
    x = np.linspace(-1, 1, 9) + 0.01
    difference = (sigma(x + 1e-6) - sigma(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(sigma.derivative(x), difference, rtol=1e-6, atol=1e-9)
