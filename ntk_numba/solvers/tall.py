"""Products and factorisations of tall matrices, (N, K) with K much less than N.

Rows are taken in runs of fixed length, each of them by one thread of BLAS, and sums over the runs
are added in order. So the bits of a result depend neither on the threads nor on the memory.

Source: J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential
QR and LU factorizations, SIAM J. Sci. Comput. 34, 2012 (`orthonormal`).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ntk_numba.blas import blas_threads

Floats = NDArray[np.float64]

ROWS = 4096  # of a run


class Tall:
    """Operations on tall matrices by several threads. `tall` opens it.

    A column may depend on others. It is dropped from a basis if less than `DEPENDENT` of its scale
    remains when its parts along the others are subtracted: what is left are rounding errors.
    """

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def _map(self, function: Callable[[slice], Any], size: int) -> list[Any]:
        """Return the values of a function of each run of rows, in order."""
        runs = [slice(start, min(start + ROWS, size)) for start in range(0, size, ROWS)]
        if self._pool is None or len(runs) == 1:
            return [function(run) for run in runs]
        return list(self._pool.map(function, runs))

    def inner(self, left: Floats, right: Floats) -> Floats:
        """Return leftᵀ right, for matrices (N, J) and (N, K)."""
        parts = self._map(lambda run: left[run].T @ right[run], len(left))
        total = parts[0]
        for part in parts[1:]:
            total += part
        return total

    def dots(self, left: Floats, right: Floats) -> Floats:
        """Return the inner product of each column of a matrix (N, K) with that of another one."""
        parts = self._map(lambda run: np.einsum("ij,ij->j", left[run], right[run]), len(left))
        return np.asarray(sum(parts[1:], parts[0]))

    def norms(self, matrix: Floats) -> Floats:
        """Return the lengths of the columns of a matrix (N, K); their squares may not overflow."""
        return np.sqrt(self.dots(matrix, matrix))

    def product(self, left: Floats, right: Floats) -> Floats:
        """Return left right, for matrices (N, J) and (J, K)."""
        out = np.empty((len(left), right.shape[1]))
        self.add(out, left, right, clear=True)
        return out

    def add(self, out: Floats, left: Floats, right: Floats, *, clear: bool = False) -> None:
        """Add left right to `out`, in place; with `clear`, replace it."""

        def one(run: slice) -> None:
            if clear:
                np.matmul(left[run], right, out=out[run])
            else:
                out[run] += left[run] @ right

        self._map(one, len(out))

    def orthonormal(self, matrix: Floats, scale: float) -> tuple[Floats, Floats]:
        """Return Q (N, r) with orthonormal columns and R (r, K), so that matrix = Q R.

        r is the number of columns that are independent: what remains of the others, less than
        `DEPENDENT` × scale, is left out of Q R.
        """
        parts = self._map(lambda run: scipy.linalg.qr(matrix[run], mode="economic"), len(matrix))
        stack = np.concatenate([upper for _, upper in parts])
        inner, upper, order = scipy.linalg.qr(stack, mode="economic", pivoting=True)
        rank = int(np.count_nonzero(np.abs(np.diagonal(upper)) > DEPENDENT * scale))
        triangle = np.zeros((rank, matrix.shape[1]))
        triangle[:, order] = upper[:rank]
        basis = np.empty((len(matrix), rank))
        ends = np.cumsum([len(part) for _, part in parts])

        def one(run: slice) -> None:
            number = run.start // ROWS
            outer, part = parts[number]
            end = ends[number]
            np.matmul(outer, inner[end - len(part) : end, :rank], out=basis[run])

        self._map(one, len(matrix))
        return basis, triangle


DEPENDENT = 1e-14
WORKING = 4  # runs of rows, for each thread, that LAPACK and products take


def working_bytes(size: int, columns: int, threads: int) -> int:
    """Return the bytes that operations on a matrix (N, K) take, beside matrices of its size."""
    runs = -(-size // ROWS)
    return 8 * columns * (WORKING * min(threads, runs) * min(size, ROWS) + 3 * runs * columns)


@contextmanager
def tall(threads: int) -> Iterator[Tall]:
    """Open a `Tall` of so many threads as a context, within which BLAS has one thread."""
    with blas_threads(1):
        if threads == 1:
            yield Tall(None)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield Tall(pool)
