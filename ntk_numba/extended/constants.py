"""Constants of the elementary functions as pairs, by whole numbers of Python, exact to rounding."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

BITS = 256  # of the fixed-point numbers in which series are summed
ONE = 1 << BITS

EXPONENTIAL_STEPS, EXPONENTIAL_REACH = 64, 23  # e^(j/64), |j| ≤ 23
ANGLE_STEPS, ANGLE_REACH = 32, 26  # sin(j/32) and cos(j/32), |j| ≤ 26


def pair(value: Fraction) -> tuple[float, float]:
    """Return a number as high + low."""
    high = float(value)
    return high, float(value - Fraction(high))


def exponential(x: Fraction) -> Fraction:
    """Return e^x by its series."""
    term = total = ONE
    n = 0
    while term:
        n += 1
        term = int(term * x / n)
        total += term
    return Fraction(total, ONE)


def sine_and_cosine(x: Fraction) -> tuple[Fraction, Fraction]:
    """Return sin x and cos x by their series."""
    totals, term, n = [0, 0], ONE, 0
    while term:
        totals[n % 2] += -term if n % 4 > 1 else term
        n += 1
        term = int(term * x / n)
    return Fraction(totals[1], ONE), Fraction(totals[0], ONE)


def _arctan_of_inverse(n: int) -> int:
    """Return 2^BITS arctan(1/n)."""
    power, total, k = ONE // n, 0, 0
    while power:
        total += (-1) ** k * (power // (2 * k + 1))
        power //= n * n
        k += 1
    return total


PI_EXACT = Fraction(4 * (4 * _arctan_of_inverse(5) - _arctan_of_inverse(239)), ONE)  # Machin 1706
# ln 2 = Σ 1/(n 2^n)
LN2_EXACT = Fraction(sum((ONE >> n) // n for n in range(1, BITS)), ONE)
ROOT_PI_EXACT = Fraction(math.isqrt(int(PI_EXACT * ONE) << BITS), ONE)
ROOT_TWO = pair(Fraction(math.isqrt(2 * ONE * ONE), ONE))
PI, HALF_PI, LN2 = pair(PI_EXACT), pair(PI_EXACT / 2), pair(LN2_EXACT)


def _exponentials() -> NDArray[np.float64]:
    """Return rows of e^(j/64) and e^(j/64) − 1 as pairs, (4, 47)."""
    steps = range(-EXPONENTIAL_REACH, EXPONENTIAL_REACH + 1)
    values = [exponential(Fraction(j, EXPONENTIAL_STEPS)) for j in steps]
    return np.array([(*pair(v), *pair(v - 1)) for v in values]).T.copy()


def _angles() -> NDArray[np.float64]:
    """Return rows of sin(j/32) and cos(j/32) as pairs, (4, 53)."""
    steps = range(-ANGLE_REACH, ANGLE_REACH + 1)
    values = [sine_and_cosine(Fraction(j, ANGLE_STEPS)) for j in steps]
    return np.array([(*pair(sine), *pair(cosine)) for sine, cosine in values]).T.copy()


EXPONENTIALS, ANGLES = _exponentials(), _angles()
