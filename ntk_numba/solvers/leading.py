"""The leading eigenpairs of a symmetric operator, from few products with many columns.

In a block Krylov space with the orthonormal basis Q, of which T = QᵀKQ has the eigenpairs (θ, s),
the Ritz vectors Qs approximate eigenvectors of K, the extreme ones first. Their residuals are

    ‖K Qs − θ Qs‖ = ‖B s_last‖

where s_last are the entries of s that belong to the last block that K has multiplied, and B is the
coupling of that block to the next one.

Source: G. Golub, C. Van Loan, *Matrix Computations*, 4th edition, 2013, section 10.3.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.arguments import show_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError, NotConvergedError
from ntk_numba.solvers.krylov import KrylovSpace

Doubles = NDArray[np.float64]

WIDEST = 1200  # columns of a space, all of whose Ritz values then take about a second
STEP = 6  # arrays of the size of a block, at most, that a step makes beside the basis


class Ritz(NamedTuple):
    """Eigenpairs of T, with falling eigenvalues.

    values : (n,)
    vectors : (n, n), in columns
    residuals : (n,), ‖K Qs − θ Qs‖
    """

    values: Doubles
    vectors: Doubles
    residuals: Doubles


def eigenpairs(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Return the eigenvalues, falling, and eigenvectors of a symmetric matrix; one thread."""
    if not len(matrix):
        return np.empty(0), np.empty((0, 0))
    with blas_threads(1):
        values, vectors = scipy.linalg.eigh(matrix, driver="evd", check_finite=False)
    return values[::-1], vectors[:, ::-1]


def ritz_of(space: KrylovSpace) -> Ritz:
    """Return the eigenpairs of the projected matrix of a space."""
    values, vectors = eigenpairs(space.matrix())
    last = vectors[len(vectors) - len(space.diagonal[-1]) :]
    with blas_threads(1):
        residuals = np.linalg.norm(space.below[-1] @ last, axis=0)
    return Ritz(values, vectors, residuals)


class Projection(NamedTuple):
    """What a Krylov space knows of a matrix, without its basis.

    matrix : (n, n), T
    start : (r, K), the columns that it began with, in terms of its first r vectors
    coupling : (r', r), B of the last block that K has multiplied; r' = 0 if the space is invariant
    ritz : the eigenpairs of T
    """

    matrix: Doubles
    start: Doubles
    coupling: Doubles
    ritz: Ritz

    @classmethod
    def of(cls, space: KrylovSpace, ritz: Ritz) -> "Projection":
        return cls(space.matrix(), space.below[0], space.below[-1], ritz)


class Leading:
    """The search for the leading eigenpairs of an operator.

    Parameters
    ----------
    operator : with `operator @ columns`, symmetric
    start : (N, b), independent columns
    memory : bytes that all vectors may take
    threads : the largest number of threads
    report : called after each pass with the largest residual, relative to what is allowed

    Attributes
    ----------
    space : KrylovSpace
    passes : int
        The number of products.
    first : Projection or None
        Of the space of the start, when it was complete.
    """

    def __init__(
        self,
        operator: Any,
        start: Doubles,
        memory: int,
        threads: int | None,
        report: Callable[[float], None],
    ) -> None:
        size, wide = start.shape
        self._room = min(memory // (8 * size) - STEP * wide, WIDEST)
        if self._room < 3 * wide:
            raise InvalidValueError(
                f"memory={show_bytes(memory)} is too little: {wide} columns of {size:,} rows take "
                f"at least {show_bytes(8 * size * (STEP + 3) * wide)}; give more memory or fewer "
                f"probes"
            )
        self._operator, self._threads, self._report = operator, threads, report
        self.space, self.passes = KrylovSpace(start, threads=threads), 0
        self.first: Projection | None = None

    def converge(self, count: int, goal: float, most: int) -> Ritz:
        """Return the eigenpairs of a space of which the first `count` have converged.

        goal : of the residuals, relative to their eigenvalues
        most : passes

        Raises
        ------
        NotConvergedError
            They have not converged after so many passes.
        """
        size, wide = self.space.last.shape
        while True:
            stopping.check()
            self.space.extend(np.array(self._operator @ self.space.last, float))
            self.passes += 1
            ritz = ritz_of(self.space)
            rounding = float(np.finfo(float).eps * size * np.abs(ritz.values[[0, -1]]).max())
            allowed = np.maximum(goal * np.abs(ritz.values[:count]), rounding or 1.0)
            off = float((ritz.residuals[:count] / allowed).max())
            self._report(off)
            done = off <= 1 or not self.space.last.size
            full = self.space.size + self.space.last.shape[1] > self._room
            if self.first is None and (done or full):
                self.first = Projection.of(self.space, ritz)
            if done:
                return ritz
            if self.passes >= most:
                raise NotConvergedError.after(
                    self.passes,
                    off * goal,
                    f"the residuals of {count} eigenvectors are up to {off * goal:.1e} of their "
                    f"eigenvalues after {most} passes, more than tolerance={goal:g}; give a larger "
                    f"tolerance, more passes (max_passes), more probes, or fewer eigenvalues",
                )
            if full:
                vectors = self.space.combine(np.ascontiguousarray(ritz.vectors[:, :wide]))
                self.space = KrylovSpace(vectors, threads=self._threads)


class Scaled:
    """An operator divided by a power of two, so that no square of an entry over- or underflows."""

    def __init__(self, operator: Any, diagonal: Doubles) -> None:
        largest = float(np.abs(diagonal).max())
        self.unit = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0
        self._operator = operator

    def __matmul__(self, columns: Doubles) -> Doubles:
        return np.asarray(self._operator @ columns) / self.unit
