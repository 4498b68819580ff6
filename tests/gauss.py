"""Gauss-Legendre rules in panels, and means of Gaussian variables computed with them."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

Rule = tuple[NDArray, NDArray]


@cache
def points(order: int, real: type = np.float64) -> Rule:
    """Return nodes and weights on [-1, 1], to the precision of float64 or longdouble."""
    x, w = legendre.leggauss(order)
    if real == np.float64:
        return x, w
    x, polynomial = x.astype(real), np.eye(order + 1, dtype=real)[order]
    for _ in range(2):
        slope = legendre.legval(x, legendre.legder(polynomial))
        x = x - legendre.legval(x, polynomial) / slope
    slope = legendre.legval(x, legendre.legder(polynomial))
    return x, 2 / ((1 - x * x) * slope**2)


def panels(edges: Sequence[float] | NDArray, order: int = 20, real: type = np.float64) -> Rule:
    """Return nodes and weights of rules of the given order between successive edges."""
    x, w = points(order, real)
    edges = np.asarray(edges, real)
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    return (middle + half * x).ravel(), (half * w).ravel()


def normal(edges: Sequence[float] | NDArray, order: int = 20) -> Rule:
    """Return nodes and weights of a mean over N(0, 1) between the first and the last edge."""
    t, weights = panels(edges, order)
    return t, weights * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)


def normal_with_ends(grid: NDArray, ends: Sequence[float] | NDArray, order: int) -> Rule:
    """Return a rule as `normal` does, whose panels end at the points of a grid and at `ends`."""
    inside = np.clip(np.asarray(ends, float), grid[0], grid[-1])
    return normal(np.unique(np.concatenate([grid, inside])), order)


def mean_of_pair(f: Callable, q1: float, q2: float, rho: float, rule: Rule) -> float:
    """Return E[f(u)f(v)] of Gaussians with variances q1 and q2 and correlation rho."""
    t, weights = rule
    v = np.sqrt(q2) * (rho * t[:, None] + np.sqrt(max(0.0, 1 - rho * rho)) * t)
    return (weights * f(np.sqrt(q1) * t)) @ (f(v) @ weights)
