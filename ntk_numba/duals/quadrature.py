"""Means over one Gaussian variable, E[f(√q t)], by Gauss-Legendre panel by panel.

The panels are narrow enough for the Gaussian, for Hermite functions, and for any f that is smooth
on the scale of 1, and on the scale of |x| beyond a given |x|. Panels end at the given kinks.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ntk_numba.extended import PI, Extended, extended

REACH = 14.0  # the range of t in standard deviations; the density at its ends is e^-98
WIDEST = 0.5  # the largest width of a panel, in t
POINTS = 16  # the nodes of a panel
FINEST = 0.5  # the width of panels in x = √q t, up to where f is smooth on the scale of |x|
MOST = 50_000  # the largest number of such panels; functions that need more are not resolved
STEPS = 5  # of Newton's method
GROWTH = 1.25  # the ratio of the ends of successive panels from there on


@cache
def gauss_legendre(count: int = POINTS) -> tuple[Extended, Extended]:
    """Return the nodes and weights of the Gauss-Legendre rule on [−1, 1], in extended precision.

    Newton's method finds the nodes from Tricomi's approximation to them.
    """
    k = np.arange(count, 0, -1.0)
    x = np.cos(PI * (k - 0.25) / (count + 0.5))
    x = extended((x * (1 - (count - 1) / (8 * count**3))).astype(float))
    for _ in range(STEPS):
        value, slope = _legendre(count, x)
        x = x - value / slope
    _, slope = _legendre(count, x)
    return x, 2 / ((1 - x * x) * slope * slope)


def _legendre(count: int, x: Extended) -> tuple[Extended, Extended]:
    """Return the Legendre polynomial of a degree at x, and its derivative."""
    before, value = extended(np.ones(x.shape)), x
    for k in range(1, count):
        before, value = value, ((2 * k + 1) * x * value - k * before) / (k + 1)
    return value, count * (x * value - before) / (x * x - 1)


def nodes(
    q: float, kinks: Sequence[float] = (), smooth_beyond: float = 8.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (t, weights) for a mean over t ~ N(0, 1) of a function of √q t.

    Parameters
    ----------
    q : the variance
    kinks : the x = √q t at which the function or a derivative of it jumps
    smooth_beyond : the |x| beyond which the function is smooth on the scale of |x|
    """
    root = np.sqrt(q)
    edges = [np.linspace(-REACH, REACH, 1 + round(2 * REACH / WIDEST))]
    if root > 0:
        if FINEST / root < WIDEST:
            # of width FINEST in x around 0, then growing
            last = min(smooth_beyond, REACH * root, FINEST * MOST / 2)
            inner = np.arange(0, last + FINEST / 2, FINEST)
            outer = [last]
            while outer[-1] * GROWTH < REACH * root:
                outer.append(outer[-1] * GROWTH)
            right = np.concatenate([inner, outer[1:]]) / root
            right = right[right < REACH]
            edges += [right, -right]
        edges.append(np.array([k / root for k in kinks if abs(k / root) < REACH]))
    ends = np.unique(np.concatenate(edges))
    ends = ends[np.concatenate([[True], np.diff(ends) > 1e-15])]
    x, weights = (v.astype(float) for v in gauss_legendre())
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    t = (middle + half * x).ravel()
    weighted = extended((half * weights).ravel()) * np.exp(extended(t) * t / -2)
    # the sum is √2π up to rounding errors, which the division removes too
    return t, (weighted / weighted.sum()).astype(float)
