import numba
import numpy as np
import pytest
from mpmath import mp, mpf

from ntk_numba.activations.special import ASIN_EXCESS, asin_excess


def excess(m):
    m = mpf(m)
    if m < mpf(10) ** -20:
        return mpf(1) / 6 + 3 * m / 40
    return (mp.asin(mp.sqrt(m)) / mp.sqrt(m) - 1) / m


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_coefficients_are_the_fit_they_are_said_to_be(real):
    again, error = mp.chebyfit(
        excess, [0, mpf(1) / 2], len(ASIN_EXCESS[real]), error=True, asc=True
    )
    assert ASIN_EXCESS[real] == tuple(float(c) for c in reversed(again))
    assert error < (3e-17 if real is np.float64 else 2e-8)


@numba.vectorize(["float32(float32)", "float64(float64)"])
def evaluate(m):
    return asin_excess(m)


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_error_is_below_two_ulp(real):
    m = np.concatenate([[0], np.logspace(-30, np.log10(0.5), 300)]).astype(real)
    got = evaluate(m)
    assert got.dtype == real
    for at, value in zip(m, got, strict=True):
        assert abs(mpf(float(value)) - excess(float(at))) <= 2 * float(np.spacing(value))
