import numba
import numpy as np
import pytest
from mpmath import mp, mpf

from ntk_numba.activations.special import ANGLE_EXCESS, ANGLE_RANGE, angle_excess


def excess(t):
    t = mpf(t)
    if t < mpf(10) ** -20:
        return mpf(1) / 3 + 2 * t / 15
    return (mp.acos(1 - t) / mp.sqrt(t * (2 - t)) - 1) / t


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_coefficients_are_the_fit_they_are_said_to_be(real):
    again, error = mp.chebyfit(
        excess, [0, mpf(repr(ANGLE_RANGE))], len(ANGLE_EXCESS[real]), error=True, asc=True
    )
    assert ANGLE_EXCESS[real] == tuple(float(c) for c in reversed(again))
    assert error < (1.1e-16 if real is np.float64 else 3.8e-8)


@numba.vectorize(["float32(float32)", "float64(float64)"])
def evaluate(t):
    return angle_excess(t)


@pytest.mark.parametrize(("real", "bound"), [(np.float64, 1.7e-16), (np.float32, 7e-8)])
def test_error_is_as_stated(real, bound):
    t = np.concatenate([[0], np.logspace(-30, np.log10(ANGLE_RANGE), 300)]).astype(real)
    got = evaluate(t)
    assert got.dtype == real
    for at, value in zip(t, got, strict=True):
        assert abs(mpf(float(value)) - excess(float(at))) < bound
