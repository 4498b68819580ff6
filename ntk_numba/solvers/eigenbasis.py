"""All eigenvalues and eigenvectors of a matrix in memory, and ridges that are chosen by them.

With K = Q Λ Qᵀ, (K + r I)⁻¹ costs a matrix product for any further r, so one eigendecomposition
serves all ridges that are tried.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import eigsh

from ntk_numba.errors import InvalidValueError
from ntk_numba.factors.packed import start_vector
from ntk_numba.operators.matrix import blocks

Floats = NDArray[np.floating]
Objective: TypeAlias = Literal["loo", "evidence"]

DENSE = 512  # rows of a matrix, at most, whose largest eigenvalue is found without iterations
SCAN = 5  # ridges in each decade that are tried before the search begins
LARGEST = 1e4  # the largest relative ridge that is tried, unless the targets are larger
HUGE = 1e300  # and at most, so that nothing overflows
# The least absolute ridge that is tried, in units of ε·λ_max: with it, K + r I is positive definite
# in the dtype of K for certain.
LEAST = 32


WORKING = 24
"""The bytes that `Eigenbasis` takes for each pair of samples, if it copies the matrix."""


class Eigenbasis:
    """The eigenvalues and eigenvectors of a symmetric matrix.

    Parameters
    ----------
    matrix : (N, N) float32 or float64
        It is copied, unless it may be overwritten.
    overwrite : bool
        Whether it may be.

    Attributes
    ----------
    values : (N,) float64, the eigenvalues in increasing order
    vectors : (N, N) float64, the eigenvectors in columns
    rounding : float
        ε·N·λ_max, with the ε of the dtype of the matrix: smaller eigenvalues are rounding errors.
    """

    def __init__(self, matrix: Floats, *, overwrite: bool = False) -> None:
        self.epsilon = float(np.finfo(matrix.dtype).eps)
        self.mean_diagonal = float(np.diagonal(matrix).mean(dtype=float))
        double = matrix.astype(float, copy=not overwrite)
        # the transpose is in the order of memory that LAPACK overwrites without a copy
        self.values, self.vectors = scipy.linalg.eigh(
            double.T, driver="evd", overwrite_a=True, check_finite=False
        )
        self.rounding = self.epsilon * len(matrix) * max(float(self.values[-1]), 0.0)

    def apply(self, function: Floats, columns: Floats) -> NDArray[np.float64]:
        """Apply a function of the matrix, given by its eigenvalues, to columns (N,) or (N, K)."""
        return np.asarray(self.vectors @ (function * (self.vectors.T @ columns).T).T)


def largest_eigenvalue(matrix: Floats) -> float:
    """Return the largest eigenvalue of a symmetric matrix, to about 1e-10 of it."""
    double = matrix.astype(float, copy=False)
    size = len(double)
    if size <= DENSE:
        return float(scipy.linalg.eigvalsh(double, subset_by_index=[size - 1, size - 1])[0])
    if not double.any():
        return 0.0
    start = start_vector(size)
    return float(eigsh(double, 1, which="LA", v0=start, tol=1e-10, return_eigenvectors=False)[0])


class RidgeChoice(NamedTuple):
    """A ridge that was chosen from the targets.

    objective : "loo" or "evidence"
    ridge : the absolute ridge
    value : the objective there: the mean squared leave-one-out residual, or the log evidence
    edge : "least" or "largest" if the ridge is the least or the largest that was tried, else ""
    """

    objective: Objective
    ridge: float
    value: float
    edge: Literal["", "least", "largest"]


def choose_ridge(
    basis: Eigenbasis, targets: NDArray[np.float64], objective: Objective
) -> RidgeChoice:
    """Return the ridge with the least leave-one-out error or the largest evidence.

    It is found to about 1e-6 in its logarithm: by a scan of five ridges in each decade, and then
    by Brent's method between the neighbours of the best one. Ridges from 32 ε λ_max, below which
    rounding errors decide, up to 1e4 times the mean of the diagonal are tried, or up to ten times
    the mean square of the targets if that is larger.

    Parameters
    ----------
    basis : of K
    targets : (N, n_out)
    objective : "loo" or "evidence"
        "loo": the mean of the squared residuals α_i/((K + rI)⁻¹)_ii, α = (K + rI)⁻¹ Y.
        "evidence": minus the log marginal likelihood of a Gaussian process with covariance K and
        noise r, see `GaussianProcess.log_marginal_likelihood`.
    """
    count, outputs = targets.shape
    if not basis.values[-1] > 0:
        raise InvalidValueError(
            f"the kernel matrix of X is 0, so that no ridge can be chosen by {objective!r}"
        )
    values = np.maximum(basis.values, 0.0)
    largest, mean = float(values[-1]), basis.mean_diagonal
    unit = float(np.abs(targets).max()) or 1.0  # so that no square overflows
    part = basis.vectors.T @ (targets / unit)
    power = (part * part).sum(axis=1)

    def evidence(ridge: float) -> float:
        shifted = values + ridge
        fit = unit * (unit * float((power / shifted).sum()))
        return 0.5 * (fit + outputs * float(np.log(2 * np.pi * shifted).sum()))

    def leave_one_out(ridge: float) -> float:
        inverse = 1 / (values + ridge)
        alpha = basis.vectors @ (inverse[:, None] * part)
        diagonal = np.empty(count)
        for start, stop in blocks(count):
            diagonal[start:stop] = np.square(basis.vectors[start:stop]) @ inverse
        return float(np.square(alpha / diagonal[:, None]).mean())  # in units of unit²

    function = evidence if objective == "evidence" else leave_one_out
    low = LEAST * basis.epsilon * largest + max(0.0, -2 * float(basis.values[0]))
    high = max(LARGEST * mean, 10 * unit * unit * float(np.square(targets / unit).mean()))
    high = min(high, HUGE)
    ridge, value, edge = _least(function, low, high)
    value = -value if objective == "evidence" else unit * unit * value
    return RidgeChoice(objective, ridge, value, edge)


def _least(
    function: Callable[[float], float], low: float, high: float
) -> tuple[float, float, Literal["", "least", "largest"]]:
    """Return the least value of a function of log r between two numbers, and where it is."""
    low_log, high_log = math.log(low), math.log(high)
    steps = max(3, math.ceil((high_log - low_log) / math.log(10) * SCAN))
    grid = np.linspace(low_log, high_log, steps + 1)
    values = [function(math.exp(x)) for x in grid]
    best = int(np.nanargmin(values))
    between = grid[max(best - 1, 0)], grid[min(best + 1, steps)]
    found = minimize_scalar(
        lambda x: function(math.exp(x)), bounds=between, method="bounded", options={"xatol": 1e-6}
    )
    if found.fun < values[best]:
        at, value = float(found.x), float(found.fun)
    else:
        at, value = float(grid[best]), float(values[best])
    if at < low_log + 1e-3:
        return low, function(low), "least"
    if at > high_log - 1e-3:
        return high, function(high), "largest"
    return math.exp(at), value, ""
