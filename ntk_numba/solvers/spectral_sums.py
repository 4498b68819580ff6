"""Traces of functions of a matrix, from the quadrature that a block Krylov space of it yields.

With Z of independent columns z of signs, the mean of zᵀ f(A) z is tr f(A). If Z = Q₁ R is the start
of a block Lanczos process, whose H has the eigenvalues θ_j and eigenvectors s_j,

    zᵢᵀ f(A) zᵢ ≈ Σ_j w_ij f(θ_j),   w_ij = (s_jᵀ R eᵢ)²,

which is exact for polynomials of degree up to twice the number of products less 1 (block Gauss
quadrature). Three things reduce the variance: eigenvalues whose vectors have converged are summed
exactly; the number of the others is known; and so is the sum of the others, from the trace.

If the derivatives of f alternate in sign, as those of a logarithm, the quadrature is too large for
each vector; and that of Gauss and Radau, which has the lower end of the spectrum as one more node,
is too small. A ridge below all θ_j leaves both apart: what is nearer to 0 than all of them is not
known. The estimate is their mean, and half their distance is an error.

Sources: G. Golub, G. Meurant, *Matrices, Moments and Quadrature with Applications*, 2010; S. Ubaru,
J. Chen, Y. Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix
Anal. Appl. 38, 2017; R. Meyer, C. Musco, C. Musco, D. Woodruff, *Hutch++*, 2021 (deflation).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.solvers.leading import Projection, Ritz, eigenpairs

Doubles = NDArray[np.float64]
Function = Callable[[Doubles], Doubles]

EPS = float(np.finfo(float).eps)


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
    def of(cls, start: Doubles, values: Doubles, vectors: Doubles, skipped: int) -> "Rule":
        """Return the rule of a space from eigenpairs of T, but for its leading nodes."""
        first = vectors[: len(start), skipped:]
        return cls(values[skipped:], np.square(first.T @ start[: len(first)]))

    def sums(self, function: Function) -> Doubles:
        """Return the sums of 1, A and f(A) for each random vector, (3, b)."""
        nodes = self.nodes
        return np.asarray(np.array([np.ones_like(nodes), nodes, function(nodes)]) @ self.weights)


class SpectralSums:
    """Estimates of traces of functions of a matrix without negative eigenvalues.

    Parameters
    ----------
    space : of the matrix, from columns of signs
    tolerance : of residuals, relative to their eigenvalues, of those that are summed exactly
    size, trace : N and tr A
    """

    def __init__(self, space: Projection, tolerance: float, size: int, trace: float) -> None:
        ritz, start = space.ritz, space.start
        known = _known(ritz, tolerance, len(start))
        self._known, self._off = ritz.values[:known], ritz.residuals[:known]
        gauss = Rule.of(start, ritz.values, ritz.vectors, known)
        self._rules = [gauss]
        if len(space.coupling):  # the quadrature of an invariant space is exact
            self._rules.append(_with_least(space, known))
        self._expected = np.array([size - known, trace - float(self._known.sum())])
        self.least = float(ritz.values[-1])

    def of(self, function: Function) -> Estimate:
        """Return tr f(A), for a function of arrays of eigenvalues.

        The derivatives of f have signs that alternate, as those of log(a + ρ) and of a/(a + ρ).
        """
        # of 1, A and f(A), for each random vector; of the first two, the means are known
        each = np.array([rule.sums(function) for rule in self._rules])
        sums = each.mean(axis=0)
        mean = sums.mean(axis=1)
        off = sums - mean[:, None]
        unit = np.linalg.norm(off[:2], axis=1)
        unit[unit == 0] = 1
        slopes = np.linalg.lstsq((off[:2] / unit[:, None]).T, off[2], rcond=1e-8)[0] / unit
        value = float(function(self._known).sum() + mean[2] + slopes @ (self._expected - mean[:2]))
        count = sums.shape[1]
        rest = off[2] - slopes @ off[:2]
        deviation = float(np.linalg.norm(rest)) / math.sqrt((count - 3) * count)
        means = each[:, 2].mean(axis=1)
        between = float(means.max() - means.min()) / 2
        # the known eigenvalues are known up to their residuals; their sum, up to the squares
        change = float(np.linalg.norm(function(self._known + self._off) - function(self._known)))
        shift = float(slopes[1]) * float((self._off**2 / self._known).sum())
        return Estimate(value, math.hypot(deviation, between, change, shift))


def _with_least(space: Projection, skipped: int) -> Rule:
    """Return the rule that also has the least eigenvalue that a matrix may have as a node.

    T is continued by one block, with the coupling B, whose own matrix makes it singular there. The
    node is 0, or, where rounding errors hide smaller eigenvalues, as small as they are.
    """
    matrix, coupling = space.matrix, space.coupling
    size, (more, width) = len(matrix), coupling.shape
    values, vectors = space.ritz.values, space.ritz.vectors
    rounding = EPS * size * float(np.abs(values).max())
    # below all nodes that there are: of a matrix with negative eigenvalues, a guess
    low = 0.0 if values[-1] > 0 else float(values[-1] - space.ritz.residuals[-1])
    side = coupling @ vectors[size - width :]
    below = np.maximum(values - low, rounding or 1.0)
    whole = np.zeros((size + more, size + more))
    whole[:size, :size] = matrix
    whole[size:, size - width : size] = coupling
    whole[size - width : size, size:] = coupling.T
    whole[size:, size:] = (side / below) @ side.T
    whole[size:, size:] += low * np.eye(more)
    nodes, found = eigenpairs(whole)
    return Rule.of(space.start, np.maximum(nodes, min(low, 0.0) + rounding), found, skipped)


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
