"""Polynomials through values at Chebyshev points, and one with a factor x^m around 0."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.extended import extended, solve
from ntk_numba.extended.chebyshev import points, to_coefficients

Array = NDArray[np.float64]

DEGREE = 24  # the degree of a polynomial


@cache
def nodes() -> Array:
    """Return the Chebyshev points of [−1, 1], (DEGREE + 1,)."""
    return points(DEGREE + 1).astype(float)


@cache
def of_values() -> Array:
    """Return the matrix that maps values at the nodes to Chebyshev coefficients."""
    return to_coefficients(DEGREE + 1).astype(float)


@cache
def least_squares(order: int) -> Array:
    """Return the matrix that maps values at the nodes to the coefficients of `Centre.factor`."""
    basis = extended(chebyshev.chebvander(nodes(), DEGREE - order))
    basis = basis * (extended(nodes()) ** order).reshape(-1, 1)
    return solve(basis.T @ basis, basis.T).astype(float)


def power(u: Array, order: Any) -> Array:
    """Return u to a power, of whole numbers from 0 to 15, by products."""
    n, square, out = np.asarray(order).astype(int), u, np.ones_like(u)
    for bit in range(4):
        out = np.where(n >> bit & 1, out * square, out)
        square = square * square
    return out


class Centre(NamedTuple):
    """A function on [−w, w] as f(0) + (x/w)^m h(x/w), so that it is relatively accurate at 0.

    So are E[σ²] and E[σ'²] at small variances if f(0) or f'(0) is 0.

    factor : the Chebyshev coefficients of h
    lossy : whether the function's own values near 0 have lost digits, as those of exp(x) − 1
    """

    width: float
    order: int
    at_zero: float
    factor: Array
    lossy: bool

    def __call__(self, x: Array) -> Array:
        """Return the polynomial at x."""
        u = x / self.width
        factor = chebyshev.chebval(u, self.factor)
        return np.asarray(self.at_zero + power(u, self.order) * factor)

    @property
    def slope(self) -> Array:
        """The Chebyshev coefficients of the derivative divided by (x/w)^(m−1), (25 − m,)."""
        h = self.factor
        inner = chebyshev.chebadd(self.order * h, chebyshev.chebmulx(chebyshev.chebder(h)))
        return np.asarray(inner / self.width)
