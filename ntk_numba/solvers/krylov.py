"""The block Krylov space of a symmetric matrix: an orthonormal basis and the projected matrix.

    span{S, K S, K² S, …} = span(Q),    T = Qᵀ K Q

K is used through products only. T is block tridiagonal:

    K Q_j = Q_{j−1} B_jᵀ + Q_j A_j + Q_{j+1} B_{j+1},    S = Q_0 B_0

Each new block is orthogonalised against all earlier ones, so that T and Q are as in exact
arithmetic but for errors of a few ε ‖K‖. Columns that depend on others are dropped.

Source: G. Golub, R. Underwood, The block Lanczos method for computing eigenvalues, in *Mathematical
Software III*, 1977; G. Golub, C. Van Loan, *Matrix Computations*, 4th edition, 2013, section 10.3.
"""

from typing import Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ntk_numba.machine import threads_to_use
from ntk_numba.solvers.tall import tall

Floats = NDArray[np.float64]

KEPT = 0.7  # of the length of a column after it is orthogonalised: else that is done once more


class Blocks(Protocol):
    """Blocks of the basis, (N, r) each: a list, or a file."""

    def append(self, block: Floats, /) -> None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Floats: ...


class KrylovSpace:
    """A block Krylov space, which `extend` makes larger.

    Parameters
    ----------
    start : (N, K)
        S, whose columns should be of about the same length.
    blocks : list, or an object with the same `append`, `len` and indices
        What holds the basis; empty.
    threads : int, optional
        The largest number of threads; the bits do not depend on it.

    Attributes
    ----------
    diagonal : list of (r_j, r_j)
        A_j of the blocks that were multiplied.
    below : list of (r_j, r_{j−1})
        B_j of all blocks of the basis; the first, B_0, is (r_0, K).
    last : (N, r)
        The last block of the basis, which K has not been multiplied with. It has no columns if the
        space is invariant: then K Q = Q T.

    Examples
    --------
    >>> matrix = np.diag([1.0, 2.0, 3.0])
    >>> space = KrylovSpace(np.ones((3, 1)))
    >>> while space.last.size:
    ...     space.extend(matrix @ space.last)
    >>> np.linalg.eigvalsh(space.matrix()).round(12)
    array([1., 2., 3.])
    """

    def __init__(
        self, start: Floats, blocks: Blocks | None = None, *, threads: int | None = None
    ) -> None:
        self.blocks: Blocks = [] if blocks is None else blocks
        self.diagonal: list[Floats] = []
        self.below: list[Floats] = []
        self._threads = threads_to_use(threads)
        with tall(self._threads) as work:
            scale = float(work.norms(start).max(initial=0.0))
        self.scale = 0.0  # the largest length of a column of K Q
        self._append(start, scale)

    @classmethod
    def resumed(
        cls,
        blocks: Blocks,
        diagonal: list[Floats],
        below: list[Floats],
        scale: float,
        *,
        threads: int | None = None,
    ) -> "KrylovSpace":
        """Return the space that had these blocks and attributes."""
        space = cls.__new__(cls)
        space.blocks, space.diagonal, space.below = blocks, list(diagonal), list(below)
        space._threads, space.scale = threads_to_use(threads), scale
        last = blocks[len(blocks) - 1]
        space.last = last if len(below[-1]) else last[:, :0]
        return space

    @property
    def size(self) -> int:
        """The number of columns of the basis that K has been multiplied with."""
        return sum(len(block) for block in self.diagonal)

    def extend(self, product: Floats) -> None:
        """Add a block to the basis.

        product : K @ last, (N, r); it is overwritten
        """
        with tall(self._threads) as work:
            self.scale = max(self.scale, float(work.norms(product).max(initial=0.0)))
            if self.diagonal:  # what K Q_{j−1} has along Q_j, transposed
                before = self.blocks[len(self.blocks) - 2]
                work.add(product, before, -self.below[-1].T)
            inner = work.inner(self.last, product)
            inner = (inner + inner.T) / 2
            work.add(product, self.last, -inner)
        self.diagonal.append(inner)
        self._append(product, self.scale)

    def _append(self, block: Floats, scale: float) -> None:
        """Append a block to the basis, orthonormal and orthogonal to all earlier ones."""
        with tall(self._threads) as work:
            basis, triangle = work.orthonormal(block, scale)
            del block  # so that it need not stay in memory
            for _ in range(3):  # one is enough, but for columns that nearly depend on others
                if not basis.shape[1] or not len(self.blocks):
                    break
                for number in range(len(self.blocks)):
                    earlier = self.blocks[number]
                    work.add(basis, earlier, -work.inner(earlier, basis))
                basis, change = work.orthonormal(basis, 1.0)
                triangle = change @ triangle
                if (np.linalg.norm(change, axis=0) >= KEPT).all():
                    break
        self.below.append(triangle)
        self.last = basis
        if basis.shape[1]:
            self.blocks.append(basis)

    def matrix(self, most: int | None = None) -> Floats:
        """Return T, (n, n), where n is `size`; or only of the first blocks, of `most` columns."""
        ends = np.cumsum([0, *(len(block) for block in self.diagonal)])
        if most is not None:
            ends = ends[ends <= most]
        out = np.zeros((ends[-1], ends[-1]))
        for j, block in enumerate(self.diagonal[: len(ends) - 1]):
            own = slice(ends[j], ends[j + 1])
            out[own, own] = block
            if j:
                out[own, ends[j - 1] : ends[j]] = self.below[j]
                out[ends[j - 1] : ends[j], own] = self.below[j].T
        return out

    def band(self) -> Floats:
        """Return T as the lower band (b, n) that `scipy.linalg.solveh_banded` takes."""
        matrix_ends = np.cumsum([0, *(len(block) for block in self.diagonal)])
        widths = [len(block) for block in self.diagonal]
        height = max(a + b for a, b in zip(widths, [*widths[1:], 0], strict=True))
        out = np.zeros((height, matrix_ends[-1]))
        for j, block in enumerate(self.diagonal):
            columns = block
            if j + 1 < len(self.diagonal):
                columns = np.concatenate([block, self.below[j + 1]])
            for k in range(widths[j]):
                out[: len(columns) - k, matrix_ends[j] + k] = columns[k:, k]
        return out

    def combine(self, coefficients: Floats) -> Floats:
        """Return Q @ coefficients, (N, K), for coefficients (n, K) with n = `size`."""
        out = np.zeros((len(self.last), coefficients.shape[1]))
        start = 0
        with tall(self._threads) as work:
            for number, inner in enumerate(self.diagonal):
                stop = start + len(inner)
                work.add(out, self.blocks[number], coefficients[start:stop])
                start = stop
        return out


def lowest(matrix: Floats) -> float:
    """Return the least eigenvalue of a symmetric matrix."""
    return float(scipy.linalg.eigvalsh(matrix, subset_by_index=[0, 0])[0])
