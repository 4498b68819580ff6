"""What the Cholesky factors in memory and in a file have in common.

Sources: N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, chapters 10 and 12;
C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning*, 2006, section 5.4.2.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.operators.matrix import read_columns

Floats = NDArray[np.floating]
Columns = NDArray[np.float64]

GOAL = 1e-10  # a relative residual that is small enough
STEPS = 30  # of refinement, at most


class LeaveOneOut(NamedTuple):
    """Predictions for each training sample from all others, with the same network and ridge.

    mean : (N, n_out) predictions for sample i without sample i
    residual : (N, n_out) targets minus these predictions
    variance : (N,) variances of these predictions, of the targets with their noise; the same for
        all outputs
    log_density : (N, n_out) logarithms of the density of each target under its prediction, a
        Gaussian with this mean and variance

    The arrays have the shape (N,) if the targets have.
    """

    mean: NDArray[np.float64]
    residual: NDArray[np.float64]
    variance: NDArray[np.float64]
    log_density: NDArray[np.float64]


class Factor:
    """The Cholesky factor L of A = K + ridge·I, where A = 2^exponent·L Lᵀ.

    It is a context manager that closes what it holds open.

    A subclass defines `_size`, `dtype`, `_log_det`, `_substitute`, `_half_substitute` and
    `_inverse_diagonal`, which know nothing of the exponent.
    """

    def __init__(self, ridge: float, exponent: int, name: str) -> None:
        self.ridge, self.residual, self._exponent, self._name = ridge, math.nan, exponent, name

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the factor."""
        raise NotImplementedError

    @property
    def _size(self) -> int:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return self._size, self._size

    @property
    def log_det(self) -> float:
        """The logarithm of the determinant of A."""
        return self._log_det() + self._exponent * math.log(2) * self._size

    def half_solve(self, Y: ArrayLike) -> NDArray[np.float64]:
        """Return V = L⁻¹ Y, so that VᵀV = Yᵀ A⁻¹ Y, in the precision of the factor."""
        columns, flat = self._columns(Y)
        right, sizes = scaled(columns)
        half = self._half_substitute(right)
        with np.errstate(over="ignore"):
            half *= sizes * 2.0 ** (-self._exponent / 2)
        self._refuse_infinite(half, "L⁻¹ Y", "the targets down")
        return half[:, 0] if flat else half

    def inverse_diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal of A⁻¹, (N,), in the precision of the factor."""
        with np.errstate(over="ignore"):
            found = np.ldexp(self._inverse_diagonal(), -self._exponent)
        self._refuse_infinite(found, "the inverse", "the matrix up")
        return found

    def leave_one_out(self, Y: ArrayLike) -> LeaveOneOut:
        """Predict each target from all others, with the same kernel and ridge, in closed form.

        With α = A⁻¹Y, the residual of sample i is α_i/(A⁻¹)_ii, and the variance of the target,
        with its noise, is 1/(A⁻¹)_ii (Rasmussen and Williams 2006, eq. 5.10 to 5.12).

        Parameters
        ----------
        Y : (N,) or (N, n_out) targets

        Returns
        -------
        LeaveOneOut
        """
        targets, flat = self._columns(Y)
        return leave_one_out(targets, self._solution(targets), self.inverse_diagonal(), flat)

    def _solution(self, columns: Columns) -> Columns:
        """Return A⁻¹ @ columns."""
        raise NotImplementedError

    def _log_det(self) -> float:
        """Return the logarithm of the determinant of L Lᵀ."""
        raise NotImplementedError

    def _substitute(self, columns: Columns) -> Columns:
        """Return L⁻ᵀL⁻¹ @ columns as a new array, computed in the dtype of the factor."""
        raise NotImplementedError

    def _half_substitute(self, columns: Columns) -> Columns:
        """Return L⁻¹ @ columns as a new array, computed in the dtype of the factor."""
        raise NotImplementedError

    def _inverse_diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal of (L Lᵀ)⁻¹."""
        raise NotImplementedError

    def _unscaled(self, solution: Columns, sizes: Columns) -> Columns:
        """Return the solution for right-hand sides that were divided by sizes, in its place."""
        with np.errstate(over="ignore"):
            solution *= sizes
            np.ldexp(solution, -self._exponent, out=solution)
        self._refuse_infinite(solution, "the solution", "the targets down")
        return solution

    def _refuse_infinite(self, found: Columns, what: str, remedy: str) -> None:
        """Raise an error if results are too large for float64."""
        if not np.isfinite(found).all():
            raise InvalidValueError(
                f"{what} of {self._name} is too large for float64; scale {remedy}"
            )

    def _columns(self, Y: Any) -> tuple[Columns, bool]:
        """Return Y as finite columns (N, K), and whether it has one dimension."""
        return read_columns(Y, self._size, self._name)

    def close(self) -> None:
        """Close the file; a factor in memory has none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size, name = self._size, type(self).__name__
        return f"<{name}: {size} × {size}, {self.dtype}, ridge {self.ridge:g}>"


def refined(
    right: Columns,
    substitute: Callable[[Columns], Columns],
    multiply: Callable[[Columns], Columns],
) -> tuple[Columns, float, NDArray[np.float64]]:
    """Solve A X = Y by a factor, and refine X with residuals in float64.

    It ends when the relative residual of each column is at most 1e-10, or no longer falls.

    Parameters
    ----------
    right : (N, K) Y
    substitute, multiply : return A⁻¹ Y by the factor, and A X in float64

    Returns
    -------
    solution, residual, norms : X, the largest relative residual of all columns, the norms of Y
    """
    norms = np.linalg.norm(right, axis=0)
    norms[norms == 0] = 1

    def remainder(solution: Columns) -> tuple[Columns, float]:
        rest = right - multiply(solution)
        return rest, float((np.linalg.norm(rest, axis=0) / norms).max(initial=0.0))

    solution = substitute(right)
    rest, residual = remainder(solution)
    for _ in range(STEPS):
        if residual <= GOAL:
            break
        finer = solution + substitute(rest)
        new, smaller = remainder(finer)
        if not smaller < residual:
            break
        stalled = smaller > residual / 2
        solution, rest, residual = finer, new, smaller
        if stalled:
            break
    return solution, residual, norms


def converged(residual: float, trace: float, solution: Columns, norms: NDArray[np.float64]) -> bool:
    """Return whether a refined solution is as good as it can be in float64.

    trace : the sum of the diagonal of A
    """
    if residual <= GOAL:
        return True
    # what rounding to float64 leaves, if the residual is computed from large terms
    terms = trace * np.linalg.norm(solution, axis=0) / norms
    return bool(residual <= np.finfo(float).eps * terms.max())


def leave_one_out(
    targets: NDArray[np.float64],
    solution: NDArray[np.float64],
    diagonal: NDArray[np.float64],
    flat: bool,
) -> LeaveOneOut:
    """Return the leave-one-out predictions of targets (N, n_out), of shape (N,) if `flat`.

    solution, diagonal : A⁻¹ @ targets and the diagonal of A⁻¹
    """
    variance = 1 / diagonal
    residual = solution * variance[:, None]
    with np.errstate(over="ignore"):  # of targets so far off that their density is 0
        density = -0.5 * (np.log(2 * np.pi * variance)[:, None] + residual * solution)
    found = [targets - residual, residual, density]
    mean, residual, density = (a[:, 0] if flat else a for a in found)
    return LeaveOneOut(mean, residual, variance, density)


def scaled(columns: Columns) -> tuple[Columns, Columns]:
    """Return columns divided by powers of 2, so that no square overflows, and these powers."""
    largest = np.abs(columns).max(axis=0)
    sizes = np.ldexp(1.0, np.frexp(np.where(largest > 0, largest, 1.0))[1] - 1)
    return columns / sizes, sizes


def exponent_of(diagonal: NDArray[np.floating], ridge: float, dtype: np.dtype) -> int:
    """Return the power of 2 by which a matrix is divided before it is factorised.

    It is 0 unless numbers are near the limits of the dtype and would over- or underflow in
    products.
    """
    largest = max(float(np.abs(diagonal).max()), ridge)
    exponent = math.frexp(largest)[1]
    usual = 20 if dtype == np.float32 else 200
    return exponent if abs(exponent) > usual else 0
