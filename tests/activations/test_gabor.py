import numpy as np
import pytest
from duals import (
    agrees_with_quadrature,
    is_finite_everywhere,
    network_error,
    pair_error,
    parity_and_signs_are_true,
)
from mpmath import mp


def gabor(q1, q2, s):
    """E[exp(−u² − v²) sin u sin v] by the covariance M = (Σ⁻¹ + 2)⁻¹ of the tilted Gaussian."""

    def k(s):
        det = (1 + 2 * q1) * (1 + 2 * q2) - 4 * s * s  # of 1 + 2Σ
        d = q1 * q2 - s * s
        m11, m22, m12 = (q1 + 2 * d) / det, (q2 + 2 * d) / det, s / det
        # sin u sin v = [cos(u − v) − cos(u + v)]/2
        return mp.exp(-(m11 + m22) / 2) * mp.sinh(m12) / mp.sqrt(det)

    det = (1 + 2 * q1) * (1 + 2 * q2) - 4 * s * s
    d = q1 * q2 - s * s
    both = q1 + q2 + 4 * d
    # K̇ = ∂K/∂s, by the chain rule
    of_det, of_both = -8 * s, -8 * s
    exponent = -both / (2 * det)
    of_exponent = -of_both / (2 * det) + both * of_det / (2 * det**2)
    of_m12 = 1 / det - s * of_det / det**2
    slope = mp.sinh(s / det) * (of_exponent - of_det / (2 * det)) + mp.cosh(s / det) * of_m12
    return k(s), mp.exp(exponent) / mp.sqrt(det) * slope


DUALS = {"gabor": gabor}


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
