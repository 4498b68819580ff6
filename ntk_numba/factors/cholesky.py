"""The Cholesky factor of a kernel matrix with a ridge, in memory or in a file.

A = K + ridge·I = L Lᵀ
"""

import math
import os
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba import stopping
from ntk_numba.arguments import KernelName, Policy, not_negative
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.factors.cholesky_file import CholeskyFile, open_cholesky
from ntk_numba.factors.factor import (
    Columns,
    Factor,
    Floats,
    converged,
    exponent_of,
    refined,
    scaled,
)
from ntk_numba.factors.factorise import write_factor
from ntk_numba.factors.indefinite import explain
from ntk_numba.factors.packed import Packed, mirror, start_vector
from ntk_numba.factors.panels import factor_tile
from ntk_numba.machine import threads_to_use
from ntk_numba.operators.matrix import open_matrix, refuse_large
from ntk_numba.operators.operator import GramOperator
from ntk_numba.operators.tiles import open_tiles

AT_ONCE = 16  # blocks of a matrix that are computed or read at a time, so that all threads work


class Cholesky(Factor):
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
        super().__init__(float(ridge), exponent_of(np.diagonal(matrix), ridge, matrix.dtype), name)
        self._threads = threads_to_use(threads)
        if self._exponent:
            np.ldexp(matrix, -self._exponent, out=matrix)
        self._packed = Packed(matrix, math.ldexp(self.ridge, -self._exponent))
        with self._limited():
            if row := self._packed.factorise(self._threads):
                raise explain(self._packed, row - 1, self._exponent, name)

    @property
    def _size(self) -> int:
        return len(self._packed.array)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the factor."""
        return self._packed.array.dtype

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
        solution = self._solution(columns)
        return solution[:, 0] if flat else solution

    def _solution(self, columns: Columns) -> Columns:
        packed = self._packed
        right, sizes = scaled(columns)
        with self._limited():
            solution, residual, norms = refined(right, packed.substitute, packed.__matmul__)
            if packed.array.dtype == np.float32:
                trace = float(packed.diagonal.sum())
                if not converged(residual, trace, solution, norms):
                    raise self._too_ill(residual)
        found = self._unscaled(solution, sizes)
        self.residual = residual
        return found

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
        return super().inverse_diagonal()

    def _log_det(self) -> float:
        return self._packed.log_det

    def _half_substitute(self, columns: Columns) -> Columns:
        with self._limited():
            return self._packed.half_substitute(columns)

    def _inverse_diagonal(self) -> NDArray[np.float64]:
        with self._limited():
            return self._packed.inverse_diagonal()

    def _limited(self) -> Any:
        """Return a context in which BLAS takes no more threads than this object may."""
        return blas_threads(self._threads)


@overload
def cholesky(
    gram: Any,
    path: None = ...,
    *,
    ridge: float = ...,
    kernel: KernelName | None = ...,
    memory: int | str | None = ...,
    threads: int | None = ...,
    overwrite: bool = ...,
    progress: bool = ...,
) -> Cholesky: ...


@overload
def cholesky(
    gram: Any,
    path: str | os.PathLike[str],
    *,
    ridge: float = ...,
    kernel: KernelName | None = ...,
    memory: int | str | None = ...,
    threads: int | None = ...,
    overwrite: bool = ...,
    progress: bool = ...,
) -> CholeskyFile: ...


def cholesky(
    gram: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    ridge: float = 0.0,
    kernel: KernelName | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Cholesky | CholeskyFile:
    """Factorise a kernel matrix with a ridge, K + ridge·I = L Lᵀ, in memory or into a file.

    Nothing but the ridge is added to the matrix.

    Parameters
    ----------
    gram : (N, N) array, Gram, GramFile, path of a Gram file, or `kernel_operator`
        K, which is not changed. Of a matrix with all layers, the last one is taken. With a path, a
        Gram file is read tile by tile, and an operator computes each tile once, so K is never
        stored.
    path : str or path, optional
        The file of the factor. By default the factor is kept in memory.
    ridge : float
        A number ≥ 0 that is added to the diagonal. It is absolute: it has the units of K.
    kernel : "nngp" or "ntk"
        The kernel to take, if `gram` has both.
    memory : int or str such as "2GiB", optional
        The most memory that the factor, or its tiles in memory, may take, beside what the process
        takes already; by default all that this process may still use, or half of it with a path.
    threads : int, optional
        The largest number of threads; by default all that this process may use. In memory, results
        for another number are equal to rounding; in a file they are equal bit for bit.
    overwrite : bool
        Whether to replace an existing file, and an unfinished one of another matrix or ridge.
    progress : bool
        Whether to show a progress bar on standard error, with a path.

    Returns
    -------
    Cholesky or CholeskyFile
        Its methods `solve`, `half_solve`, `inverse_diagonal` and `leave_one_out`, and its
        attributes `log_det` and `residual`. A factor in memory has `inverse` too; one in a file is
        a context manager that closes the file.

    Raises
    ------
    NotPositiveDefiniteError
        A ValueError: K + ridge·I is not positive definite in the dtype of K. The message names the
        row at which the factorisation fails, equal rows, how negative an eigenvalue is, and a ridge
        that is large enough. A factor of K with another ridge shares no entry with this one, so the
        unfinished file is removed.
    ValueError
        If the matrix is not square, symmetric and finite, if it, or four tiles, is larger than
        `memory`, if the ridge is negative, or if the file exists with other contents.
    TypeError
        If an argument has the wrong type.
    OSError
        If a file cannot be read or written, or another process writes the same one.
    StoppedError
        If writing failed when tiles were done; the same call goes on from there.

    Notes
    -----
    The factor has the dtype of K. In memory it takes one triangle of a copy of K, and K the other
    one, so it takes the memory of one matrix. `log_det`, `inverse`, `inverse_diagonal` and what
    `leave_one_out` finds from it have the precision of the factor: their relative errors are about
    ε κ, where κ is the condition number of K + ridge·I and ε is 2e-16, or 1e-7 for float32. A
    matrix of which a pivot is at most 10 ε times its entry of the diagonal, such as one with equal
    rows, is not positive definite: that pivot is a rounding error.

    A file holds the tiles of L on and below the diagonal, N²/2 entries. With a path the
    factorisation is left-looking: a panel, as many tiles as fit in memory, is computed from all
    earlier columns, which are read, while others are read and written, and each tile is written
    once. With memory for P entries it reads about N⁴/12P entries; a tenth of the matrix in memory,
    P = N²/10, makes that two to three times the file. It needs memory for four tiles at least, of
    512 × 512 entries, or 1,024 × 1,024 for N ≥ 15,000; with less than a column of tiles, N × 512
    entries, reading takes longer than computing. A job that stops, for whatever reason, goes on
    when the same call is made again, and ends with the same bits.

    Examples
    --------
    >>> factor = ntk_numba.cholesky([[2.0, 1.0], [1.0, 2.0]], ridge=1.0)
    >>> factor.solve([4.0, 4.0])
    array([1., 1.])
    >>> round(factor.log_det, 6)
    2.079442
    >>> factor.leave_one_out([1.0, 1.0]).mean
    array([0.33333333, 0.33333333])

    From a Gram file into a file:

    >>> with ntk_numba.cholesky("gram.h5", "factor.h5", ridge=1e-3) as f:  # doctest: +SKIP
    ...     weights = f.solve(y, matrix="gram.h5")
    """
    shift = not_negative("ridge", ridge)
    if path is None:
        return Cholesky(_in_memory(gram, kernel, memory), shift, threads=threads)
    policy = Policy(overwrite, progress)
    target = write_factor(
        gram, path, shift, kernel=kernel, memory=memory, threads=threads, policy=policy
    )
    return open_cholesky(target, memory=memory, threads=threads)


def _in_memory(gram: Any, kernel: KernelName | None, memory: int | str | None) -> Floats:
    """Return a matrix as a new array, if it fits in memory."""
    remedy = "keep the factor in a file (path='factor.h5')"
    if not isinstance(gram, GramOperator):
        return open_matrix(gram, kernel, memory=memory, remedy=remedy)
    with open_tiles(gram, kernel) as tiles:
        size, edge = tiles.size, factor_tile(tiles.size)
        refuse_large(size, tiles.dtype, memory, remedy=remedy)
        matrix = np.empty((size, size), tiles.dtype)
        places = [(i, j) for i in range(-(-size // edge)) for j in range(i + 1)]
        blocks = np.empty((min(len(places), AT_ONCE), edge, edge), tiles.dtype)
        for first in range(0, len(places), AT_ONCE):
            stopping.check()
            some = places[first : first + AT_ONCE]
            tiles.load(some, blocks[: len(some)], edge)
            for (i, j), block in zip(some, blocks, strict=False):
                target = matrix[i * edge : (i + 1) * edge, j * edge : (j + 1) * edge]
                target[:] = block[: target.shape[0], : target.shape[1]]
    mirror(matrix)
    return matrix
