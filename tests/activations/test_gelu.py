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


def gelu(q1, q2, s):
    r = (1 + q1) * (1 + q2)
    d = mp.sqrt(r - s * s)
    angle = mp.atan2(s, d)
    k = s / 4 + ((s * s + q1 * q2 * d * d) / (r * d) + s * angle) / (2 * mp.pi)
    slope = s / d * (1 / d**2 + (1 - q1 * q2) / r + 1)
    return k, mpf(1) / 4 + (angle + slope) / (2 * mp.pi)


DUALS = {"gelu": gelu}


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


def test_large_variances_are_those_of_relu():
    q = np.array([1e12, 1e30], np.longdouble)
    np.testing.assert_allclose(activations.get("gelu").second_moment(q) / q, 0.5, rtol=1e-15)
