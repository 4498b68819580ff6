"""Tests of products of matrices, series and systems of extended numbers."""

from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

from ntk_numba.extended import PI, dot, dots, extended, length, product, solve
from ntk_numba.extended.chebyshev import points, series, to_coefficients, to_powers

CHAINS = 16


def in_chains(a, b):
    """Return a scalar product with the order of additions that the package states, by fractions."""
    padded = [np.append(v, np.zeros(-len(v) % CHAINS)).reshape(-1, CHAINS) for v in (a, b)]
    sums = [0.0] * CHAINS
    for x, y in zip(*padded, strict=True):
        sums = [
            float(Fraction(p) * Fraction(q) + Fraction(s))
            for p, q, s in zip(x, y, sums, strict=True)
        ]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [p + q for p, q in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 31, 33, 100, 784])
def test_scalar_products_have_the_stated_order(n):
    a, b = np.random.default_rng(n).standard_normal((2, n))
    assert dot(a, b) == in_chains(a, b)
    assert dots(np.stack([a, b]), b).tolist() == [in_chains(a, b), in_chains(b, b)]
    assert length(a) == np.sqrt(in_chains(a, a))
    assert dot(a[::-1], b) == in_chains(a[::-1], b)


def test_products_of_matrices():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((7, 4))
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-14, atol=1e-15)
    exact = [
        [sum(Fraction(x) * Fraction(y) for x, y in zip(r, c, strict=True)) for c in b.T] for r in a
    ]
    high, low, _ = (extended(a) @ extended(b)).parts
    for i in range(5):
        for j in range(4):
            found = Fraction(float(high[i, j])) + Fraction(float(low[i, j]))
            assert abs(found - exact[i][j]) < Fraction(2) ** -95


def test_systems_of_equations():
    matrix = 1 / extended(np.arange(1.0, 9)[:, None] + np.arange(8))  # Hilbert's, of condition 1e10
    wanted = np.random.default_rng(0).standard_normal((8, 2))
    found = solve(matrix, matrix @ extended(wanted))
    np.testing.assert_allclose(found.astype(float), wanted, rtol=1e-15)


def test_chebyshev_series():
    coefficients = np.random.default_rng(0).standard_normal((9, 3))
    x = np.linspace(-1, 1, 131)
    found = series(extended(x), extended(coefficients)).astype(float)
    np.testing.assert_allclose(found, np.polynomial.chebyshev.chebval(x, coefficients), atol=1e-13)
    assert (np.diff(points(9).astype(float)) < 0).all()
    values = series(points(9), extended(coefficients)).T
    np.testing.assert_allclose(
        (to_coefficients(9) @ values).astype(float), coefficients, rtol=1e-15
    )
    powers = (to_powers(9) @ extended(coefficients)).astype(float)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(x, powers), found, atol=1e-12)
    with mp.workprec(200):
        assert abs(mpf(PI.parts[0].item()) + mpf(PI.parts[1].item()) - mp.pi) < mpf(2) ** -104
