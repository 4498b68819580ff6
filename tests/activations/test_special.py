import numba
import numpy as np
import pytest
from mpmath import mp, mpf

from ntk_numba.activations.base import OBTUSE
from ntk_numba.activations.special import ANGLE_EXCESS, ANGLE_RANGE, angle_excess


def excess(m):
    m = mpf(m)
    if m < mpf(10) ** -20:
        return mpf(2) / 3 + 8 * m / 15
    return (mp.asin(mp.sqrt(m)) / mp.sqrt(m * (1 - m)) - 1) / m


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_coefficients_are_the_fit_they_are_said_to_be(real):
    again, error = mp.chebyfit(
        excess, [0, mpf(repr(ANGLE_RANGE))], len(ANGLE_EXCESS[real]), error=True, asc=True
    )
    assert ANGLE_EXCESS[real] == tuple(float(c) for c in reversed(again))
    assert error < (3.2e-16 if real is np.float64 else 1.2e-7)


@numba.vectorize(["float32(float32)", "float64(float64)"])
def evaluate(m):
    return angle_excess(m)


@pytest.mark.parametrize(("real", "bound"), [(np.float64, 7e-16), (np.float32, 3e-7)])
def test_error_is_as_stated(real, bound):
    m = np.concatenate([[0], np.logspace(-30, -1, 200), np.linspace(0.1, ANGLE_RANGE, 200)])
    m = m.astype(real)
    got = evaluate(m)
    assert got.dtype == real
    for at, value in zip(m, got, strict=True):
        assert abs(mpf(float(value)) - excess(float(at))) < bound


def test_range_holds_all_angles_that_count_as_acute():
    assert ANGLE_RANGE > OBTUSE
