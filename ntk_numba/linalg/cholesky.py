"""The Cholesky factor of a kernel matrix with a ridge, and what is computed from it.

    A = K + ridge·I = L Lᵀ

Sources: N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, chapters 10 and 12;
C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning*, 2006, section 5.4.2.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.arguments import KernelName, not_negative
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.containers import read_array
from ntk_numba.linalg.indefinite import explain
from ntk_numba.linalg.matrix import open_matrix
from ntk_numba.linalg.packed import Packed, start_vector
from ntk_numba.machine import threads_to_use

Floats = NDArray[np.floating]

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


class Cholesky:
    """The Cholesky factor of A = K + ridge·I, in memory. `cholesky` makes it.

    Attributes
    ----------
    ridge : float
        The number that was added to the diagonal.
    residual : float
        The relative residual ‖Y − A X‖/‖Y‖ of the last `solve`, the largest of all columns; NaN
        before the first one.
    """

    def __init__(
        self, matrix: Floats, ridge: float = 0.0, *, threads: int | None = None, name: str = "gram"
    ) -> None:
        self.ridge, self.residual, self._name = float(ridge), math.nan, name
        self._threads = threads_to_use(threads)
        largest = max(float(np.abs(np.diagonal(matrix)).max()), self.ridge)
        # Numbers near the limits of the dtype would over- or underflow in products.
        exponent = math.frexp(largest)[1]
        self._exponent = exponent if abs(exponent) > _usual(matrix.dtype) else 0
        if self._exponent:
            np.ldexp(matrix, -self._exponent, out=matrix)
        self._packed = Packed(matrix, math.ldexp(self.ridge, -self._exponent))
        with self._limited():
            if row := self._packed.factorise():
                raise explain(self._packed, row - 1, self._exponent, name)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        size = len(self._packed.array)
        return size, size

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the factor."""
        return self._packed.array.dtype

    @property
    def log_det(self) -> float:
        """The logarithm of the determinant of A."""
        return self._packed.log_det + self._exponent * math.log(2) * self.shape[0]

    def solve(self, Y: ArrayLike) -> NDArray[np.float64]:
        """Solve A X = Y.

        The solution is refined with residuals in float64 until the relative residual of each column
        is at most 1e-10, or until it no longer falls. A factor in float32 is refined to the same
        residual as one in float64 if the condition number of A is less than about 1e6.

        Parameters
        ----------
        Y : (N,) or (N, K)

        Returns
        -------
        X : float64, of the shape of Y

        Raises
        ------
        ValueError
            If Y has another length or is not finite, if X is too large for float64, or if the
            factor is in float32 and A is too ill-conditioned for the refinement to converge.
        """
        columns, flat = self._columns(Y)
        with self._limited():
            solution, self.residual = self._solve(columns)
        return solution[:, 0] if flat else solution

    def _solve(self, columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Return the solution for columns (N, K), and its relative residual."""
        packed = self._packed
        right, sizes = _scaled(columns)
        norms = np.linalg.norm(right, axis=0)
        norms[norms == 0] = 1

        def remainder(solution: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
            rest = right - packed @ solution
            return rest, float((np.linalg.norm(rest, axis=0) / norms).max(initial=0.0))

        solution = packed.substitute(right)
        rest, residual = remainder(solution)
        for _ in range(STEPS):
            if residual <= GOAL:
                break
            finer = solution + packed.substitute(rest)
            new, smaller = remainder(finer)
            if not smaller < residual:
                break
            stalled = smaller > residual / 2
            solution, rest, residual = finer, new, smaller
            if stalled:
                break
        if packed.array.dtype == np.float32 and not residual <= GOAL:
            # what rounding to float64 leaves, if the residual is computed from large terms
            terms = packed.diagonal.sum() * np.linalg.norm(solution, axis=0) / norms
            if not residual <= np.finfo(float).eps * terms.max():
                raise self._too_ill(residual)
        with np.errstate(over="ignore"):
            found = np.ldexp(solution * sizes, -self._exponent)
        if not np.isfinite(found).all():
            raise InvalidValueError(
                f"the solution of {self._name} is too large for float64; scale the targets down"
            )
        return found, residual

    def _too_ill(self, residual: float) -> InvalidValueError:
        """Return the error that the refinement of a factor in float32 does not converge."""
        column = start_vector(self.shape[0])[:, None]
        for _ in range(20):
            column = self._packed @ column
            largest = float(np.linalg.norm(column))
            column /= largest
        least = math.ldexp(8 * float(np.finfo(np.float32).eps) * largest, self._exponent)
        return InvalidValueError(
            f"{self._name} in float32 with a ridge of {self.ridge:.3g} (absolute) is too "
            f"ill-conditioned: its solution is refined to a relative residual of {residual:.1e} "
            f"and no further. Compute it in float64 (dtype='float64'), or add a ridge of about "
            f"{least:.1e} (absolute) or more"
        )

    def half_solve(self, Y: ArrayLike) -> NDArray[np.float64]:
        """Return V = L⁻¹ Y, so that VᵀV = Yᵀ A⁻¹ Y, in the precision of the factor."""
        columns, flat = self._columns(Y)
        with self._limited():
            right, sizes = _scaled(columns)
            half = self._packed.half_substitute(right)
        half *= sizes * 2.0 ** (-self._exponent / 2)
        return half[:, 0] if flat else half

    def inverse(self) -> NDArray[np.float64]:
        """Return A⁻¹, (N, N), in the precision of the factor."""
        with self._limited():
            inverse = self._packed.inverse()
        if self._exponent:
            np.ldexp(inverse, -self._exponent, out=inverse)
        return inverse

    def inverse_diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal of A⁻¹, (N,), in the precision of the factor.

        It takes as long as the factorisation, and the memory of a second matrix meanwhile.
        """
        with self._limited():
            return np.ldexp(self._packed.inverse_diagonal(), -self._exponent)

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
        return leave_one_out(targets, self.solve(targets), self.inverse_diagonal(), flat)

    def _columns(self, Y: Any) -> tuple[NDArray[np.float64], bool]:
        """Return Y as finite columns (N, K), and whether it has one dimension."""
        ready = type(Y) is np.ndarray and Y.dtype == np.float64  # in any order of memory
        array = Y if ready else read_array(Y, "Y").astype(float, copy=False)
        size = self.shape[0]
        if array.ndim not in (1, 2) or len(array) != size:
            raise InvalidValueError(f"Y must have {size} rows, as {self._name}, not {array.shape}")
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise InvalidValueError(f"Y: row {row} (counted from 0) is not finite")
        flat = array.ndim == 1
        return (array[:, None] if flat else array), flat

    def _limited(self) -> Any:
        """Return a context in which BLAS takes no more threads than this object may."""
        return blas_threads(self._threads)

    def __repr__(self) -> str:
        return f"<Cholesky: {self.shape[0]} × {self.shape[0]}, {self.dtype}, ridge {self.ridge:g}>"


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


def _scaled(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return columns divided by powers of 2, so that no square overflows, and these powers."""
    largest = np.abs(columns).max(axis=0)
    sizes = np.ldexp(1.0, np.frexp(np.where(largest > 0, largest, 1.0))[1] - 1)
    return columns / sizes, sizes


def _usual(dtype: np.dtype) -> int:
    """Return the largest exponent of 2 of entries that need no change of scale."""
    return 20 if dtype == np.float32 else 200


def cholesky(
    gram: Any,
    path: None = None,
    *,
    ridge: float = 0.0,
    kernel: KernelName | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
) -> Cholesky:
    """Factorise a kernel matrix with a ridge: K + ridge·I = L Lᵀ.

    Nothing but the ridge is added to the matrix.

    Parameters
    ----------
    gram : (N, N) array, Gram, GramFile or path of a Gram file
        K, which is copied and not changed. Of a matrix with all layers, the last one is taken.
    path : None
        The factor is kept in memory.
    ridge : float
        A number ≥ 0 that is added to the diagonal. It is absolute: it has the units of K.
    kernel : "nngp" or "ntk"
        The kernel to take, if `gram` has both.
    memory : int or str such as "2GiB", optional
        The most memory that the factor may take; by default all that this process may still use.
    threads : int, optional
        The largest number of threads; by default all that this process may use. Results for
        another number are equal to rounding.

    Returns
    -------
    Cholesky
        Its methods `solve`, `inverse`, `inverse_diagonal` and `leave_one_out`, and its attributes
        `log_det` and `residual`.

    Raises
    ------
    NotPositiveDefiniteError
        A ValueError: K + ridge·I is not positive definite in the dtype of K. The message names the
        row at which the factorisation fails, equal rows, the least eigenvalue and a ridge that is
        large enough.
    ValueError
        If the matrix is not square, symmetric and finite, is larger than `memory`, if the ridge is
        negative, or if a path is given.
    TypeError
        If an argument has the wrong type.
    OSError
        If a file cannot be read.

    Notes
    -----
    The factor has the dtype of K. It is stored in one triangle of a copy of K, and K in the other
    one, so it takes the memory of one matrix. Solutions are refined with residuals in float64 (see
    `Cholesky.solve`). `log_det`, `inverse` and `inverse_diagonal` have the precision of the factor:
    their relative errors are about ε κ, where κ is the condition number of K + ridge·I and ε is
    2e-16, or 1e-7 for float32. A matrix of which a pivot is at most 10 ε times its entry of the
    diagonal, such as one with equal rows, is not positive definite: that pivot is a rounding error.

    Examples
    --------
    >>> factor = ntk_numba.cholesky([[2.0, 1.0], [1.0, 2.0]], ridge=1.0)
    >>> factor.solve([4.0, 4.0])
    array([1., 1.])
    >>> round(factor.log_det, 6)
    2.079442
    >>> factor.leave_one_out([1.0, 1.0]).mean
    array([0.33333333, 0.33333333])
    """
    if path is not None:
        raise InvalidValueError(
            "path must be None: a factor is kept in memory, and cannot be written to a file yet"
        )
    shift = not_negative("ridge", ridge)
    return Cholesky(open_matrix(gram, kernel, memory=memory), shift, threads=threads)
