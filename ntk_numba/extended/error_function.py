"""The error function and its kin, to a relative error of about 1e-21, by Chebyshev series.

With v = (c − x)/(c + x), which is in (−1, 1] for x ≥ 0,

    erfcx(x) = exp(x²) erfc(x) = (1 + v) Q(v)

and Q and erf(x)/x, the latter as a function of x² for |x| up to `SMALL`, are series. Their
coefficients come from values in 256-bit arithmetic: by the power series of erf, and for larger x by
the continued fraction of erfc.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from scipy import special

from ntk_numba.extended.array import FUNCTIONS, ROOT_TWO, Extended, extended, where
from ntk_numba.extended.chebyshev import series
from ntk_numba.extended.constants import (
    ONE,
    PI_EXACT,
    ROOT_PI_EXACT,
    exponential,
    pair,
    sine_and_cosine,
)

CENTRE = Fraction(7, 2)  # c
TERMS, TERMS_SMALL = 40, 18
SMALL = Fraction(3, 4)
BY_SERIES = 2  # x up to which the power series gives erfc
DEPTH = 400  # of the continued fraction


def _per_argument(square: Fraction) -> Fraction:
    """Return erf(x)/x by its power series."""
    term, total, n = ONE, 0, 0
    while term:
        total += (-1) ** n * (term // (2 * n + 1))
        n += 1
        term = int(term * square / n)
    return Fraction(total, ONE) * 2 / ROOT_PI_EXACT


def _scaled_complement(x: Fraction) -> Fraction:
    """Return erfcx(x) for x ≥ 0."""
    if x < BY_SERIES:
        return exponential(x * x) * (1 - x * _per_argument(x * x))
    fixed = int(x * ONE)
    below = fixed
    for n in range(DEPTH, 0, -1):
        below = fixed + (n * ONE * ONE // 2) // below
    return 1 / (Fraction(below, ONE) * ROOT_PI_EXACT)


def _coefficients(function: Callable[[Fraction], Fraction], count: int) -> Extended:
    """Return the Chebyshev coefficients of a function on [−1, 1], (count, 1)."""
    cosines = [sine_and_cosine(PI_EXACT * k / (2 * count))[1] for k in range(4 * count)]
    odd = range(1, 2 * count, 2)
    values = [function(cosines[k]) for k in odd]
    sums = [
        sum(value * cosines[m * k % (4 * count)] for k, value in zip(odd, values, strict=True))
        for m in range(count)
    ]
    pairs = [pair(Fraction(s) * (1 if m == 0 else 2) / count) for m, s in enumerate(sums)]
    parts = np.array([(high, low, 0.0) for high, low in pairs]).T
    return Extended(parts.reshape(3, count, 1).copy())


@cache
def _series_of_complement() -> Extended:
    """Return the coefficients of Q."""
    return _coefficients(lambda v: _scaled_complement(CENTRE * (1 - v) / (1 + v)) / (1 + v), TERMS)


@cache
def _series_of_small() -> Extended:
    """Return the coefficients of erf(x)/x, in x² from 0 to `SMALL`²."""
    return _coefficients(lambda t: _per_argument(SMALL**2 * (1 + t) / 2), TERMS_SMALL)


def _scaled(size: Extended) -> Extended:
    """Return erfcx(x) for x ≥ 0."""
    c = float(CENTRE)
    per_sum = 1 / (size + c)
    one_plus_v = 2 * c * per_sum
    return one_plus_v * series(one_plus_v - 1, _series_of_complement())[0]


def erfcx(x: Any) -> Extended:
    """Return exp(x²) erfc(x)."""
    x = extended(x)
    size = abs(x)
    value = _scaled(size)
    return where(x < 0, 2 * np.exp(size * size) - value, value) if (x < 0).any() else value


def _complement(size: Extended) -> Extended:
    """Return erfc(x) for x ≥ 0."""
    return np.exp(-size * size) * _scaled(size)


def erf(x: Any) -> Extended:
    """Return the error function."""
    x = extended(x)
    size = abs(x)
    inside = np.minimum(size, float(SMALL))
    t = inside * inside / float(SMALL**2 / 2) - 1
    near = x * series(t, _series_of_small())[0]
    far = 1 - _complement(size)
    return where(size < float(SMALL), near, where(x < 0, -far, far))


def erfc(x: Any) -> Extended:
    """Return 1 − erf x."""
    x = extended(x)
    value = _complement(abs(x))
    return where(x < 0, 2 - value, value)


def ndtr(x: Any) -> Extended:
    """Return the distribution function of N(0, 1)."""
    return erfc(-extended(x) / ROOT_TWO) * 0.5


FUNCTIONS.update({special.erf: erf, special.erfc: erfc, special.erfcx: erfcx, special.ndtr: ndtr})
