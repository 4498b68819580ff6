"""A symmetric matrix and its Cholesky factor in the memory of one matrix.

LAPACK reads and writes only one triangle. The factor is stored in the upper triangle of the array,
so that the lower one keeps the entries of the matrix, from which residuals are computed.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from ntk_numba.factors import blocked
from ntk_numba.machine import threads_to_use
from ntk_numba.operators.matrix import blocks

Floats = NDArray[np.floating]

# A pivot that is not larger than this many ε times its entry of the diagonal is a rounding error.
# Those of equal rows, which are 0 but for rounding, are up to 1.5 ε times that, and of any sign.
PIVOT = 10
# Rows of a matrix, at most, that LAPACK factorises on several threads; see `blocked`
LARGEST = 8192


class Packed:
    """The matrix A = K + shift·I, and its factor L after `factorise` has returned 0.

    Parameters
    ----------
    array : (N, N) float32 or float64, C-contiguous and writable
        K, whose lower triangle is kept and whose upper triangle and diagonal are overwritten.
    shift : float
        A number that is added to the diagonal.

    Attributes
    ----------
    array, shift : see above
    diagonal : (N,) float64, the diagonal of A
    """

    def __init__(self, array: Floats, shift: float) -> None:
        self.array = array
        self._own = np.diagonal(array).astype(float)
        self.shift, self.diagonal = shift, self._own + shift

    def factorise(self, threads: int | None = None) -> int:
        """Factorise A; return 0, or the number of rows of the least leading minor that is not > 0.

        A minor is not > 0 either if its last pivot is but a rounding error. The factor replaces
        what the upper triangle held.
        """
        array = self.array
        np.fill_diagonal(array, self.diagonal)
        if len(array) > LARGEST:
            info = blocked.factorise(array, threads_to_use(threads))
        else:
            factorise = lapack.dpotrf if array.dtype == np.float64 else lapack.spotrf
            # the lower triangle of the transpose, which LAPACK sees, is the upper one of the array
            factor, info = factorise(array.T, lower=1, clean=0, overwrite_a=1)
            assert np.may_share_memory(factor, array)
        if info:
            return int(info)
        pivots = np.square(np.diagonal(array), dtype=float)
        lost = pivots <= PIVOT * float(np.finfo(array.dtype).eps) * self.diagonal
        return int(lost.argmax()) + 1 if lost.any() else 0

    def restore(self, shift: float) -> None:
        """Replace the factor by the entries of K, and the diagonal by that of K + shift·I."""
        mirror(self.array)
        self.shift, self.diagonal = shift, self._own + shift
        np.fill_diagonal(self.array, self.diagonal)

    def __matmul__(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return A @ columns, (N, K), in float64 arithmetic."""
        # with columns as rows in memory, thin products take two thirds of the time
        rows = np.ascontiguousarray(columns.T)
        product = self.diagonal * rows
        for start, stop in blocks(len(self.array)):
            left = self.array[start:stop, :start].astype(float, copy=False)
            product[:, start:stop] += rows[:, :start] @ left.T
            product[:, :start] += rows[:, start:stop] @ left
            inner = np.tril(self.array[start:stop, start:stop], -1).astype(float, copy=False)
            product[:, start:stop] += rows[:, start:stop] @ inner.T + rows[:, start:stop] @ inner
        return product.T

    def substitute(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return L⁻ᵀL⁻¹ @ columns, (N, K), computed in the dtype of the factor."""
        double = self.array.dtype == np.float64
        solve = lapack.dpotrs if double else lapack.spotrs
        right = np.array(columns, self.array.dtype, order="F")
        solution, _ = solve(self.array.T, right, lower=1, overwrite_b=1)
        return np.asarray(solution, float)

    def half_substitute(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return L⁻¹ @ columns, (N, K), computed in the dtype of the factor."""
        double = self.array.dtype == np.float64
        solve = blas.dtrsm if double else blas.strsm
        right = np.array(columns, self.array.dtype, order="F")
        return np.asarray(solve(1.0, self.array.T, right, lower=1, overwrite_b=1), float)

    def inverse_diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal of A⁻¹; this takes the memory of a second matrix meanwhile."""
        invert = lapack.dtrtri if self.array.dtype == np.float64 else lapack.strtri
        inverse, _ = invert(np.array(self.array.T, order="F"), lower=1, overwrite_c=1)
        found = np.empty(len(inverse))
        for start, stop in blocks(len(inverse)):  # row j is column j of L⁻¹, zero before j
            rows = np.triu(inverse.T[start:stop, start:]).astype(float, copy=False)
            found[start:stop] = np.einsum("ij,ij->i", rows, rows)
        return found

    def inverse(self) -> NDArray[np.float64]:
        """Return A⁻¹, (N, N) in float64."""
        inverse = _invert(self.array.copy())
        mirror(inverse.T)
        return inverse.astype(float, copy=False)

    def invert(self) -> Floats:
        """Replace the factor by the upper triangle of A⁻¹, and return the array.

        The object is of no further use. The lower triangle still holds K.
        """
        return _invert(self.array)

    @property
    def log_det(self) -> float:
        """The logarithm of the determinant of A."""
        return 2 * float(np.log(np.diagonal(self.array).astype(float)).sum())


def _invert(array: Floats) -> Floats:
    """Replace the factor in the upper triangle of an array by that triangle of A⁻¹."""
    invert = lapack.dpotri if array.dtype == np.float64 else lapack.spotri
    inverse, _ = invert(array.T, lower=1, overwrite_c=1)
    assert np.may_share_memory(inverse, array)
    return array


def start_vector(size: int) -> NDArray[np.float64]:
    """Return a vector to start iterations from: a random one, always the same.

    Regular ones, such as (1, …, 1), may have no part along the eigenvector that is searched.
    """
    return np.random.default_rng(0).standard_normal(size)


def mirror(array: Floats) -> None:
    """Copy the lower triangle of a square matrix to the upper one, by blocks that fit in caches."""
    for start, stop in blocks(len(array)):
        for first, last in blocks(start):
            array[first:last, start:stop] = array[start:stop, first:last].T
        inner = array[start:stop, start:stop]
        inner[...] = np.tril(inner) + np.tril(inner, -1).T
