"""Kernel matrices as linear operators, which are multiplied without being in memory."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator
from xxhash import xxh3_128_hexdigest

from ntk_numba.arguments import KernelName
from ntk_numba.linalg.matrix import open_matrix

Floats = NDArray[np.floating]


class GramOperator(LinearOperator):  # type: ignore[misc]
    """A kernel matrix as a linear operator of SciPy: V ↦ K V, in float64.

    Attributes
    ----------
    shape : (N, M)
    dtype : float64, whatever the dtype of the entries
    symmetric : bool
        Whether the matrix is that of one data set with itself.
    identity : str
        A hex digest that differs if any entry may differ.
    passes : int
        How often the matrix was read or computed.
    """

    def __init__(self, shape: tuple[int, int], *, symmetric: bool) -> None:
        super().__init__(np.dtype(float), shape)
        self.symmetric, self.passes = symmetric, 0

    @property
    def identity(self) -> str:
        """A hex digest that differs if any entry may differ."""
        raise NotImplementedError

    def product(self, columns: NDArray[np.float64], *, transpose: bool) -> NDArray[np.float64]:
        """Return K @ columns, (N, K), or Kᵀ @ columns; a subclass defines it."""
        raise NotImplementedError

    def _matmat(self, V: NDArray[Any]) -> NDArray[Any]:
        self.passes += 1
        if np.iscomplexobj(V):
            parts = self.product(np.hstack([V.real, V.imag]).astype(float), transpose=False)
            return parts[:, : V.shape[1]] + 1j * parts[:, V.shape[1] :]
        return self.product(np.asarray(V, float), transpose=False)

    def _rmatmat(self, V: NDArray[Any]) -> NDArray[Any]:
        if self.symmetric:
            return self._matmat(V)
        self.passes += 1
        return self.product(np.asarray(V, float), transpose=True)

    def diag(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,)."""
        raise NotImplementedError

    def columns(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Return columns, (N, m), of indices in any order, with repeats."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return what a pass does, for people, such as "reads gram.h5"."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file that it reads, if it opened one."""


class ArrayOperator(GramOperator):
    """A matrix in memory."""

    def __init__(self, matrix: Floats) -> None:
        super().__init__(matrix.shape, symmetric=True)
        self._matrix = matrix

    @property
    def identity(self) -> str:
        """A digest of the shape, the dtype and the entries."""
        entries = xxh3_128_hexdigest(np.ascontiguousarray(self._matrix))
        return xxh3_128_hexdigest(f"{self.shape} {self._matrix.dtype} {entries}".encode())

    def product(self, columns: NDArray[np.float64], *, transpose: bool) -> NDArray[np.float64]:
        """Return K @ columns."""
        return self._matrix.astype(float, copy=False) @ columns

    def diag(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,)."""
        return np.diagonal(self._matrix).astype(float)

    def columns(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Return columns, (N, m)."""
        return self._matrix[:, np.asarray(indices)].astype(float)

    def describe(self) -> str:
        """Return what a pass does, for people."""
        return "multiplies the matrix in memory"


def as_operator(
    gram: Any,
    kernel: KernelName | None = None,
    *,
    memory: int | str | None = None,
    threads: int | None = None,
    name: str = "gram",
) -> GramOperator:
    """Return a kernel matrix as an operator: an array, a Gram, a Gram file, its path, or one."""
    if isinstance(gram, GramOperator):
        return gram
    return ArrayOperator(open_matrix(gram, kernel, name=name, memory=memory))
