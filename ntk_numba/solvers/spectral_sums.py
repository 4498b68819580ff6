"""Traces of functions of a matrix, from the quadrature that a block Krylov space of it yields.

With Z of independent columns z of signs, the mean of zᵀ f(A) z is tr f(A). If Z = Q₁ R is the start
of a block Lanczos process, whose H has the eigenvalues θ_j and eigenvectors s_j,

    zᵢᵀ f(A) zᵢ ≈ Σ_j w_ij f(θ_j),   w_ij = (s_jᵀ R eᵢ)²,

which is exact for polynomials of degree up to twice the number of products less 1 (block Gauss
quadrature). Three things reduce the variance: eigenvalues whose vectors have converged are summed
exactly; the number of the others is known; and so is the sum of the others, from the trace.

Sources: G. Golub, G. Meurant, *Matrices, Moments and Quadrature with Applications*, 2010; S. Ubaru,
J. Chen, Y. Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix
Anal. Appl. 38, 2017; R. Meyer, C. Musco, C. Musco, D. Woodruff, *Hutch++*, 2021 (deflation).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.solvers.krylov import KrylovSpace
from ntk_numba.solvers.leading import Ritz, eigenpairs

Doubles = NDArray[np.float64]
Function = Callable[[Doubles], Doubles]

LARGEST_RATIO = 0.9  # of the changes that two blocks make


class Estimate(NamedTuple):
    """A number that was estimated.

    value : float
    error : float
        The standard error: of the random vectors, and of the quadrature. It is 0 if the value is
        exact but for rounding.
    """

    value: float
    error: float


class Rule(NamedTuple):
    """A quadrature for each random vector.

    nodes : (n,)
    weights : (n, b)
    """

    nodes: Doubles
    weights: Doubles

    @classmethod
    def of(cls, space: KrylovSpace, values: Doubles, vectors: Doubles, skipped: int) -> "Rule":
        """Return the rule of a space from eigenpairs of T, but for its leading nodes."""
        start = space.below[0]
        first = vectors[: len(start), skipped:]
        return cls(values[skipped:], np.square(first.T @ start[: len(first)]))


class SpectralSums:
    """Estimates of traces of functions of a matrix.

    Parameters
    ----------
    space : of the matrix, from columns of signs
    ritz : its eigenpairs
    tolerance : of residuals, relative to their eigenvalues, of those that are summed exactly
    size, trace : N and tr A
    """

    def __init__(
        self, space: KrylovSpace, ritz: Ritz, tolerance: float, size: int, trace: float
    ) -> None:
        known = _known(ritz, tolerance, len(space.below[0]))
        self._known = ritz.values[:known]
        self._rest = Rule.of(space, ritz.values, ritz.vectors, known)
        self._before = []
        if space.last.size:  # the quadrature of an invariant space is exact
            matrix, end = space.matrix(), space.size
            for block in space.diagonal[:-3:-1]:
                end -= len(block)
                pairs = eigenpairs(matrix[:end, :end])
                self._before.append(Rule.of(space, *pairs, known))
        self._expected = np.array([size - known, trace - float(self._known.sum())])
        self.least = float(ritz.values[-1])

    def of(self, function: Function) -> Estimate:
        """Return tr f(A), for a function of arrays of eigenvalues."""
        nodes, weights = self._rest
        # of 1, A and f(A), for each random vector; of the first two, the means are known
        sums = np.array([np.ones_like(nodes), nodes, function(nodes)]) @ weights
        mean = sums.mean(axis=1)
        off = sums - mean[:, None]
        unit = np.linalg.norm(off[:2], axis=1)
        unit[unit == 0] = 1
        slopes = np.linalg.lstsq((off[:2] / unit[:, None]).T, off[2], rcond=1e-8)[0] / unit
        value = float(function(self._known).sum() + mean[2] + slopes @ (self._expected - mean[:2]))
        count = weights.shape[1]
        rest = off[2] - slopes @ off[:2]
        deviation = float(np.linalg.norm(rest)) / math.sqrt((count - 3) * count)
        return Estimate(value, math.hypot(deviation, self._truncation(function, float(mean[2]))))

    def _truncation(self, function: Function, value: float) -> float:
        """Estimate the error of the quadrature from what the last two blocks have changed."""
        if not self._before:
            return 0.0
        one, *two = (float((function(rule.nodes) @ rule.weights).mean()) for rule in self._before)
        last, previous = abs(value - one), abs(one - two[0]) if two else 0.0
        # of a geometric series with their ratio, the terms after the last add up to this
        ratio = min(last / previous, LARGEST_RATIO) if previous > 0 else LARGEST_RATIO
        return last * max(1.0, ratio / (1 - ratio))


def _known(ritz: Ritz, tolerance: float, copies: int) -> int:
    """Return how many of the leading eigenvalues have converged, with all of their copies.

    A space of blocks of b columns has at most b vectors of an eigenspace: of a larger one, those
    that it has depend on the random vectors, and may not be taken out of their sums.

    copies : b
    """
    values, residuals = ritz.values, ritz.residuals
    good = (values > 0) & (residuals <= tolerance * np.abs(values))
    count = int(np.argmin(good)) if not good.all() else len(good)
    for first in range(count):
        last = min(first + copies, len(values)) - 1
        if values[first] - values[last] <= 4 * tolerance * values[first]:
            return first
    return count
