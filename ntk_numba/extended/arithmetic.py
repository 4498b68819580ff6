"""Arithmetic of single numbers (high + low)·2^(512 k), in compiled code.

high is the number rounded to 53 bits, and low the rest, rounded to 53 bits. k is a whole number, as
a float, so that |high| is at least 2^-256 and less than 2^256, or 0. Then no product, quotient or
root leaves the range of float64, and numbers have the range of a variance whose root is a float64,
and much more. Infinity and NaN have k = 0 and low = 0.

A pair is (high, low) without k. Sums, products, quotients and roots have relative errors of a few
units of 2^-106; there is no error where the result has 53 bits.

Source: T. J. Dekker, "A floating-point technique for extending the available precision", Numerische
Mathematik 18 (1971), 224-242; M. Joldes, J.-M. Muller, V. Popescu, "Tight and rigorous error bounds
for basic building blocks of double-word arithmetic", ACM Transactions on Mathematical Software 44
(2017), 15res.
"""

import math

import numpy as np

from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.policy import njit

Number = tuple[float, float, float]
Pair = tuple[float, float]

RADIX, PER_RADIX = 2.0**512, 2.0**-512
LARGE, SMALL = 2.0**256, 2.0**-256


@njit
def finite_or_zero(x: float) -> float:
    """Return x, or 0 if it is infinite or NaN."""
    return x if abs(x) < math.inf else 0.0


@njit
def two_sum(a: float, b: float) -> Pair:
    """Return a + b exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit
def ordered_sum(a: float, b: float) -> Pair:
    """Return a + b exactly, for |a| ≥ |b|."""
    s = a + b
    return s, b - (s - a)


@njit
def two_product(a: float, b: float) -> Pair:
    """Return a·b exactly."""
    p = a * b
    return p, fma(a, b, -p)


@njit
def add_pairs(a: float, a_low: float, b: float, b_low: float) -> Pair:
    """Return the sum of two pairs."""
    s, rest = two_sum(a, b)
    t, last = two_sum(a_low, b_low)
    s, rest = ordered_sum(s, finite_or_zero(rest + t))
    return ordered_sum(s, finite_or_zero(rest + last))


@njit
def multiply_pairs(a: float, a_low: float, b: float, b_low: float) -> Pair:
    """Return the product of two pairs."""
    p, rest = two_product(a, b)
    return ordered_sum(p, finite_or_zero(rest + (a * b_low + a_low * b)))


@njit
def divide_pairs(a: float, a_low: float, b: float, b_low: float) -> Pair:
    """Return the quotient of two pairs."""
    q = a / b
    p, rest = two_product(q, b)
    remainder = (((a - p) - rest) + a_low) - q * b_low
    return ordered_sum(q, finite_or_zero(remainder / b))


@njit
def normal(high: float, low: float, k: float) -> Number:
    """Return a number with the k that belongs to it, if that is k − 1, k or k + 1."""
    size = abs(high)
    above, below = size >= LARGE, size < SMALL
    factor = PER_RADIX if above else (RADIX if below else 1.0)
    k += 1.0 if above else (-1.0 if below else 0.0)
    exact = (size > 0) & (size < math.inf)
    return high * factor, low * factor if exact else 0.0, k if exact else 0.0


@njit
def add_numbers(a: Number, b: Number) -> Number:
    """Return a + b."""
    (high, low, k), (other, other_low, k_other) = a, b
    k = k_other if high == 0 else k
    k_other = k if other == 0 else k_other
    difference = k - k_other
    # a number whose k is smaller by 2 or more is below the last bit
    f = 1.0 if difference >= 0 else (PER_RADIX if difference == -1 else 0.0)
    g = 1.0 if difference <= 0 else (PER_RADIX if difference == 1 else 0.0)
    s, rest = add_pairs(high * f, low * f, other * g, other_low * g)
    return normal(s, rest, k if difference >= 0 else k_other)


@njit
def multiply_numbers(a: Number, b: Number) -> Number:
    """Return a·b."""
    p, rest = multiply_pairs(a[0], a[1], b[0], b[1])
    return normal(p, rest, a[2] + b[2])


@njit
def divide_numbers(a: Number, b: Number) -> Number:
    """Return a/b."""
    q, rest = divide_pairs(a[0], a[1], b[0], b[1])
    return normal(q, rest, a[2] - b[2])


@njit
def square_root(a: Number) -> Number:
    """Return √a."""
    high, low, k = a
    half = np.floor(k / 2)
    factor = RADIX if k > 2 * half else 1.0
    high, low = high * factor, low * factor
    s = math.sqrt(high)
    rest = (fma(-s, s, high) + low) / (2 * s)
    s, rest = ordered_sum(s, finite_or_zero(rest))
    return normal(s, rest, half)
