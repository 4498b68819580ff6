import numpy as np
import pytest
from duals import (
    agrees_with_quadrature,
    is_finite_everywhere,
    network_error,
    pair_error,
    parity_and_signs_are_true,
)
from mpmath import mp, mpf

from ntk_numba import activations


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


@pytest.mark.parametrize("spec", DUALS)
def test_the_oracle_agrees_with_quadrature_of_sigma_itself(spec):
    agrees_with_quadrature(spec, DUALS[spec])


@pytest.mark.parametrize("spec", DUALS)
def test_parity_and_signs(spec):
    parity_and_signs_are_true(spec, DUALS[spec])


@pytest.mark.parametrize("spec", DUALS)
def test_single_pairs_are_exact(spec):
    value, rate = pair_error(spec, DUALS[spec], 1e4)
    assert value < 3e-15
    assert rate < 3e-15


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-14), (np.float32, 3e-6)])
@pytest.mark.parametrize("spec", DUALS)
def test_near_duplicates_stay_apart(spec, dtype, bound, beta):
    """Behind a ReLU, whose K̇ shows them, angles are right to some 1e-13, see `NEAR`."""
    own, behind = network_error(spec, DUALS[spec], dtype, beta)
    assert own < bound
    assert behind < 50 * bound


@pytest.mark.parametrize("spec", DUALS)
def test_extremes(spec):
    is_finite_everywhere(spec)


def test_values():
    x = np.array([-1.0, 0.0, 2.0])
    cdf = [float(mp.ncdf(v)) for v in x]
    np.testing.assert_allclose(activations.get("normal_cdf")(x), cdf, rtol=1e-15)
    sigmoid = [float(mp.erf(v * LIKE) / 2 + 0.5) for v in x]
    np.testing.assert_allclose(activations.get("sigmoid_like")(x), sigmoid, rtol=1e-15)


def test_a_steep_one_has_the_curve_of_a_flat_one():
    """Whatever b is: panels of a quadrature would not resolve it."""
    q = np.array([0.1, 2.0, 30.0])
    steep, flat = (activations.get(f"erf:1,{b}").curve(q / b**2) for b in (300, 1))
    np.testing.assert_allclose(steep, flat, rtol=1e-13)
