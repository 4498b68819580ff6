"""Means over one Gaussian variable, E[f(√q t)], by Gauss-Legendre panel by panel.

The panels are narrow enough for the Gaussian and Hermite functions of it, and for f as far as it is
smooth on the scale of 1, and on the scale of |x| beyond some |x|. At kinks that are named they end.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

REACH = 14.0  # standard deviations: what is beyond weighs e^-98
WIDEST = 0.5  # of a panel, in t
POINTS = 16  # of a panel
FINEST = 0.5  # of a panel, in x = √q t, up to where f is smooth on the scale of |x|
MOST = 50_000  # of panels of that width; a function that wants more is not resolved
GROWTH = 1.25  # of panels from there on


@cache
def gauss_legendre(count: int = POINTS) -> tuple[NDArray[np.longdouble], NDArray[np.longdouble]]:
    """NumPy's Gauss-Legendre rule, its last digits made right in extended precision."""
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
    """(t, weights) for a mean over t ~ N(0, 1) of a function of √q t.

    Parameters
    ----------
    kinks : values of x = √q t at which the function or a derivative jumps
    smooth_beyond : the |x| from which on the function is smooth on the scale of |x|
    """
    root = np.sqrt(q)
    edges = [np.linspace(-REACH, REACH, 1 + round(2 * REACH / WIDEST))]
    if root > 0:
        if FINEST / root < WIDEST:
            # as fine as x wants around 0, then ever wider
            last = min(smooth_beyond, REACH * root, FINEST * MOST / 2)
            inner = np.arange(0, last + FINEST / 2, FINEST)
            outer = last * GROWTH ** np.arange(
                1, 1 + max(0, np.log(REACH * root / last) // np.log(GROWTH))
            )
            some = np.concatenate([inner, outer]) / root
            some = some[some < REACH]
            edges += [some, -some]
        edges.append(np.array([k / root for k in kinks if abs(k / root) < REACH]))
    ends = np.unique(np.concatenate(edges))
    ends = ends[np.concatenate([[True], np.diff(ends) > 1e-15])]
    x, weights = (v.astype(float) for v in gauss_legendre())
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    t = (middle + half * x).ravel()
    weighted = (half * weights).ravel() * np.exp(-t * t / 2)
    # √2π, less what rounding errors add up to
    return t, np.asarray(weighted / weighted.sum(dtype=np.longdouble), float)
