"""Means over one Gaussian variable, E[f(√q t)], by Gauss-Legendre panel by panel.

The panels are narrow enough for the Gaussian, for Hermite functions, and for any f that is smooth
on the scale of 1, and on the scale of |x| beyond a given |x|. Panels end at the given kinks.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

REACH = 14.0  # the range of t in standard deviations; the density at its ends is e^-98
WIDEST = 0.5  # the largest width of a panel, in t
POINTS = 16  # the nodes of a panel
FINEST = 0.5  # the width of panels in x = √q t, up to where f is smooth on the scale of |x|
MOST = 50_000  # the largest number of such panels; functions that need more are not resolved
GROWTH = 1.25  # the ratio of the ends of successive panels from there on


@cache
def gauss_legendre(count: int = POINTS) -> tuple[NDArray[np.longdouble], NDArray[np.longdouble]]:
    """Return the nodes and weights of the Gauss-Legendre rule on [−1, 1], in extended precision.

    Newton steps refine NumPy's nodes.
    """
    x = np.polynomial.legendre.leggauss(count)[0].astype(np.longdouble)
    p = np.zeros(count + 1, np.longdouble)
    p[-1] = 1
    slope = np.polynomial.legendre.legder(p)
    for _ in range(2):
        x -= np.polynomial.legendre.legval(x, p) / np.polynomial.legendre.legval(x, slope)
    weights = 2 / ((1 - x * x) * np.polynomial.legendre.legval(x, slope) ** 2)
    return x, np.asarray(weights, np.longdouble)


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
            outer = last * GROWTH ** np.arange(
                1, 1 + max(0, np.log(REACH * root / last) // np.log(GROWTH))
            )
            right = np.concatenate([inner, outer]) / root
            right = right[right < REACH]
            edges += [right, -right]
        edges.append(np.array([k / root for k in kinks if abs(k / root) < REACH]))
    ends = np.unique(np.concatenate(edges))
    ends = ends[np.concatenate([[True], np.diff(ends) > 1e-15])]
    x, weights = (v.astype(float) for v in gauss_legendre())
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    t = (middle + half * x).ravel()
    weighted = (half * weights).ravel() * np.exp(-t * t / 2)
    # the sum is √2π up to rounding errors, which the division removes too
    return t, np.asarray(weighted / weighted.sum(dtype=np.longdouble), float)
