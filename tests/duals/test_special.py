import numba
import numpy as np
import pytest
from mpmath import mp, mpf

from ntk_numba.duals.base import OBTUSE
from ntk_numba.duals.special import (
    DENOMINATOR,
    EXPONENTIAL_DOUBLE,
    EXPONENTIAL_SINGLE,
    LARGEST_M,
    NUMERATOR,
    SINGLE,
    angle_excess,
    exponentials,
)


@pytest.fixture(autouse=True)
def digits_of_mpmath():
    with mp.workdps(60):
        yield


def excess(m):
    m = mpf(m)
    if m < mpf(10) ** -20:
        return mpf(2) / 3 + 8 * m / 15
    return (mp.asin(mp.sqrt(m)) / mp.sqrt(m * (1 - m)) - 1) / m


def test_the_polynomial_is_the_stated_fit():
    again, error = mp.chebyfit(excess, [0, mpf(repr(LARGEST_M))], len(SINGLE), error=True, asc=True)
    assert tuple(float(c) for c in reversed(again)) == SINGLE
    assert error < 1.2e-7


def test_the_quotient_is_the_stated_fit():
    """P(c) = excess·Q(c) holds at Chebyshev points of [1 − 2·LARGEST_M, 1], one per unknown."""
    up, down = len(NUMERATOR), len(DENOMINATOR) - 1  # Q(0) = 1
    with mp.workdps(60):
        low = 1 - 2 * mpf(repr(LARGEST_M))
        points = [
            (1 + low) / 2 + (1 - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * (up + down)))
            for k in range(up + down)
        ]
        values = [excess((1 - c) / 2) for c in points]
        rows = [
            [c**k for k in range(up)] + [-v * c**k for k in range(1, down + 1)]
            for c, v in zip(points, values, strict=True)
        ]
        again = list(mp.lu_solve(mp.matrix(rows), mp.matrix(values)))
    assert tuple(float(c) for c in reversed(again[:up])) == NUMERATOR
    assert tuple(float(c) for c in [*reversed(again[up:]), 1]) == DENOMINATOR
    for m in np.linspace(0, LARGEST_M, 500):
        c = 1 - 2 * mpf(float(m))
        quotient = mp.polyval(again[:up], c, asc=True) / mp.polyval([1, *again[up:]], c, asc=True)
        assert abs(quotient - excess(float(m))) < 3.7e-17


@numba.vectorize(["float32(float32, float32)", "float64(float64, float64)"])
def evaluate(m, c):
    return angle_excess(m, c)


@pytest.mark.parametrize(("real", "bound"), [(np.float64, 7e-16), (np.float32, 3e-7)])
def test_error_is_as_stated(real, bound):
    m = np.concatenate([[0], np.logspace(-30, -1, 200), np.linspace(0.1, LARGEST_M, 200)])
    m = m.astype(real)
    got = evaluate(m, (1 - 2 * m.astype(float)).astype(real))
    assert got.dtype == real
    for at, value in zip(m, got, strict=True):
        assert abs(mpf(float(value)) - excess(float(at))) < bound


def test_range_holds_all_angles_that_count_as_acute():
    assert LARGEST_M > OBTUSE


@numba.njit
def evaluate_exponentials(x, value, less):
    for j in range(x.size):
        value[j], less[j] = exponentials(x[j])


@pytest.mark.parametrize(
    ("real", "least", "most"), [(np.float64, -708, 709), (np.float32, -87, 88)]
)
def test_exponentials(real, least, most):
    eps = np.finfo(real).eps
    half = np.log(2) / 2
    x = np.concatenate([
        np.linspace(least, most, 4001), np.linspace(-1, 1, 2001), half * np.arange(-9, 10, 2),
        10.0 ** -np.arange(30), -(10.0 ** -np.arange(30)), [0],
    ]).astype(real)  # fmt: skip
    value, less = np.empty_like(x), np.empty_like(x)
    evaluate_exponentials(x, value, less)
    for at, v, m in zip(x, value, less, strict=True):
        assert abs(mpf(float(v)) / mp.exp(mpf(float(at))) - 1) < 1.5 * eps
        exact = mp.expm1(mpf(float(at)))
        assert abs(mpf(float(m)) - exact) <= 1.5 * eps * abs(exact)
    beyond = np.array(
        [np.nextafter(real(least), real(-np.inf)), -1e30, -np.inf, 1e30, np.inf], real
    )
    evaluate_exponentials(beyond, value[:5], less[:5])
    assert (value[:3] == 0).all() and (less[:3] == -1).all()
    assert (value[3:5] > np.finfo(real).max / 8).all() and np.isfinite(value[3:5]).all()


def test_the_exponential_is_the_stated_fit():
    def remainder(r):
        return (mp.expm1(r) - r) / r**2 if abs(r) > mpf(10) ** -12 else mpf(1) / 2 + r / 6

    half = mp.log(2) / 2 * (1 + mpf(2) ** -20)
    for coefficients, bound in ((EXPONENTIAL_DOUBLE, 1.1e-16), (EXPONENTIAL_SINGLE, 6.5e-8)):
        n = len(coefficients)
        again, error = mp.chebyfit(remainder, [-half, half], n, error=True, asc=True)
        assert error < bound
        np.testing.assert_allclose([float(c) for c in reversed(again)], coefficients, rtol=1e-15)
