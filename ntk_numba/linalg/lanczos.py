"""The block Lanczos method: leading eigenpairs of a symmetric operator from few products.

    A Q = Q H + P C

Q has an orthonormal basis of the block Krylov space [Z, AZ, A²Z, …], H = QᵀAQ, and P is the next
block. For an eigenpair H s = θ s, the vector Qs has the residual ‖A Qs − θ Qs‖ = ‖C s_last‖, where
s_last are the entries of s that belong to the last block.

Sources: G. Golub, C. Van Loan, *Matrix Computations*, 4th edition, section 10.3.6; K. Wu, H. Simon,
*Thick-restart Lanczos method for large symmetric eigenvalue problems*, SIAM J. Matrix Anal. Appl.
22, 2000.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ntk_numba.blas import blas_threads

Doubles = NDArray[np.float64]

DEPENDENT = 1e-12
"""A column that is shorter than this, relative to the operator, after those before it are
subtracted, depends on them but for rounding."""


class Ritz(NamedTuple):
    """Eigenpairs of H, with falling eigenvalues.

    values : (n,)
    vectors : (n, n), in columns
    residuals : (n,), ‖A Qs − θ Qs‖
    """

    values: Doubles
    vectors: Doubles
    residuals: Doubles


class BlockLanczos:
    """A block Krylov space that grows by one product at a time, with all bases orthogonalised.

    Its own arithmetic takes one thread, so that its bits depend on the operator's products alone.

    Parameters
    ----------
    operator : with `operator @ columns`, symmetric
    start : (N, b) float64, of finite numbers
    room : the largest number of columns of Q, at least 3 b

    Attributes
    ----------
    size : int
        The number of columns of Q.
    factor : (b, b)
        R of the start Z = Q₁ R, in the order of its columns.
    first : int
        The number of columns of Q₁.
    passes : int
        The number of products.
    exhausted : bool
        Whether the space is invariant, so that all residuals are 0 but for rounding.
    """

    def __init__(self, operator: Any, start: Doubles, room: int) -> None:
        self._operator = operator
        self._basis = np.empty((room, len(start)))  # vectors in rows, each contiguous
        self._projected = np.zeros((room, room))
        self.size, self.passes = 0, 0
        self._ends = [0]  # of the blocks
        self._scale = 0.0  # of the operator
        with blas_threads(1):
            self._next, self.factor = _orthonormal(start, 0.0)
        self.first = self._next.shape[1]
        self._coupling = self.factor

    @property
    def exhausted(self) -> bool:
        return self._next.shape[1] == 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another block."""
        return self.size + self._next.shape[1] > len(self._basis)

    def grow(self) -> None:
        """Add the next block to the space, by one product."""
        last, size = self.size, self.size + self._next.shape[1]
        self._basis[last:size] = self._next.T
        block = np.ascontiguousarray(self._next)
        product = np.array(self._operator @ block, dtype=float, order="F")
        self.passes += 1
        self.size = size
        self._ends.append(size)
        basis = self._basis[:size]
        with blas_threads(1):
            image = basis @ product
            product -= basis.T @ image
            rest = basis @ product
            product -= basis.T @ rest
            image += rest
            inner = image[last:]
            image[last:] = (inner + inner.T) / 2
            self._projected[:size, last:size] = image
            self._projected[last:size, :size] = image.T
            self._scale = max(self._scale, float(np.abs(image).max(initial=0.0)))
            found, self._coupling = _orthonormal(product, DEPENDENT * self._scale)
            # a short rest is orthogonal to the basis only after it is subtracted again
            found -= basis.T @ (basis @ found)
            self._next, turned = _orthonormal(found, 0.5)
            self._coupling = turned @ self._coupling

    def ritz(self) -> Ritz:
        """Return the eigenpairs of H."""
        values, vectors = self._eigenpairs(self.size)
        with blas_threads(1):
            last = vectors[self._ends[-2] :]
            residuals = np.linalg.norm(self._coupling @ last, axis=0)
        return Ritz(values, vectors, residuals)

    def before(self, blocks: int) -> tuple[Doubles, Doubles]:
        """Return the eigenpairs of H without its last blocks, with falling eigenvalues."""
        return self._eigenpairs(self._ends[max(0, len(self._ends) - 1 - blocks)])

    def _eigenpairs(self, size: int) -> tuple[Doubles, Doubles]:
        """Return the eigenpairs of the leading rows and columns of H."""
        if size == 0:
            return np.empty(0), np.empty((0, 0))
        with blas_threads(1):
            values, vectors = scipy.linalg.eigh(self._projected[:size, :size], driver="evd")
        return values[::-1], vectors[:, ::-1]

    def combine(self, coefficients: Doubles) -> Doubles:
        """Return Q @ coefficients, (N, m)."""
        with blas_threads(1):
            return np.asarray(self._basis[: self.size].T @ coefficients)

    def restart(self, ritz: Ritz, keep: int) -> None:
        """Replace the space by that of the leading vectors; `grow` continues from it."""
        with blas_threads(1):
            kept = self.combine(ritz.vectors[:, :keep])
            self._basis[:keep] = kept.T
        self._projected[:] = 0
        np.fill_diagonal(self._projected[:keep, :keep], ritz.values[:keep])
        self.size, self._ends = keep, [keep]


def _orthonormal(columns: Doubles, least: float) -> tuple[Doubles, Doubles]:
    """Return an orthonormal basis of columns (N, b), and their coefficients in it, (r, b).

    least : the length of a column below which it depends on those that are longer
    """
    if columns.shape[1] == 0:
        return columns, np.zeros((0, 0))
    q, r, order = scipy.linalg.qr(columns, mode="economic", pivoting=True, check_finite=False)
    rank = int(np.count_nonzero(np.abs(np.diagonal(r)) > least))
    placed = np.empty_like(r)
    placed[:, order] = r
    return np.asarray(q[:, :rank]), placed[:rank]
