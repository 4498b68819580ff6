"""Kernel matrices as linear operators, which are multiplied without being in memory."""

from functools import cached_property
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator
from xxhash import xxh3_128_hexdigest

from ntk_numba.arguments import KernelName, parse_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.products import MatrixOfFile
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.machine import threads_to_use
from ntk_numba.operators.matrix import blocks, check_matrix, find_matrix
from ntk_numba.operators.tiles import ArrayTiles, MatrixTiles, StoredTiles, digest_of
from ntk_numba.pool import in_order

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]

UNITS = 64  # unit vectors that an operator of others is multiplied with at a time
ASYMMETRY = 1e-5  # how far vᵀKu may differ from uᵀKv, relative to ‖v‖‖Ku‖


class GramOperator(LinearOperator):  # type: ignore[misc]
    """A kernel matrix as a linear operator of SciPy: V ↦ K V, in float64.

    ``A @ V`` takes one pass over the matrix for any number of columns. All functions of
    `scipy.sparse.linalg` for operators take it, such as `eigsh` and `cg`. It is a context manager
    that closes the file that it opened.

    A subclass defines `product`, `diag`, `columns`, `identity` and `describe`, and `tiles` if it
    can.

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

    def product(self, columns: Doubles, *, transpose: bool) -> Doubles:
        """Return K @ columns, (N, K), or Kᵀ @ columns, for finite columns."""
        raise NotImplementedError

    def _matmat(self, V: NDArray[Any]) -> NDArray[Any]:
        return self._pass(V, transpose=False)

    def _rmatmat(self, V: NDArray[Any]) -> NDArray[Any]:
        return self._pass(V, transpose=not self.symmetric)

    def _rmatvec(self, v: NDArray[Any]) -> NDArray[Any]:
        # that of SciPy calls itself without an end, since `_adjoint` is overridden
        return self._rmatmat(v.reshape(-1, 1))[:, 0]

    def _adjoint(self) -> LinearOperator:
        return self if self.symmetric else super()._adjoint()

    def _transpose(self) -> LinearOperator:
        return self._adjoint()

    def _pass(self, V: NDArray[Any], *, transpose: bool) -> NDArray[Any]:
        """Return the product with columns of any numbers."""
        if V.dtype.kind not in "biufc":
            raise InvalidTypeError(f"the vectors hold {V.dtype}, not numbers")
        whole = V.dtype.kind != "c"
        with np.errstate(over="ignore"):  # of numbers that float64 does not hold
            parts = (V if whole else np.hstack([V.real, V.imag])).astype(float, copy=False)
        if not np.isfinite(parts).all():
            row = int(np.argwhere(~np.isfinite(parts))[0][0])
            raise InvalidValueError(f"the vectors: row {row} (counted from 0) is not finite")
        self.passes += 1
        if whole:
            return self.product(parts, transpose=transpose)
        real, imaginary = np.hsplit(self.product(parts, transpose=transpose), 2)
        return real + 1j * imaginary

    def diag(self) -> Doubles:
        """Return the diagonal, (N,)."""
        raise NotImplementedError

    def columns(self, indices: ArrayLike) -> Doubles:
        """Return K[:, indices], (N, m), of indices in any order, with repeats."""
        raise NotImplementedError

    def tiles(self) -> MatrixTiles:
        """Return the tiles of a symmetric matrix, by which it is factorised."""
        raise InvalidTypeError(
            "an operator of SciPy has no tiles, by which a matrix is factorised; give the matrix, "
            "a Gram file or an operator of ntk_numba.kernel_operator"
        )

    def describe(self) -> str:
        """Return what a pass does, for people, such as "reads gram.h5"."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file that it reads, if it opened one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError(
            "an operator cannot be pickled; make it in the process that uses it, or give "
            "ntk_numba.distribute the workers that are to compute its products"
        )

    def _checked(self, indices: ArrayLike) -> NDArray[np.intp]:
        """Return the indices of columns as numbers from 0 on, (m,).

        Raises
        ------
        IndexError
            If one of them is outside, or is no whole number.
        """
        found = np.atleast_1d(np.asarray(indices))
        if found.size == 0:
            found = found.astype(np.intp)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise IndexError("indices of columns must be whole numbers, (m,)")
        outside = (found >= self.shape[1]) | (found < -self.shape[1])
        if outside.any():
            raise IndexError(
                f"column {found[outside][0]} is out of bounds for a matrix of {self.shape[1]}"
            )
        found = found.astype(np.intp)
        return np.where(found < 0, found + self.shape[1], found)


class ArrayOperator(GramOperator):
    """A symmetric matrix in memory, or a map of one, which is multiplied by blocks of rows."""

    def __init__(self, matrix: Floats, *, threads: int | None = None) -> None:
        super().__init__(matrix.shape, symmetric=True)
        self._matrix, self._threads = matrix, threads_to_use(threads)

    @cached_property
    def identity(self) -> str:
        """A hex digest of the entries, which is computed once."""
        return digest_of(self._matrix)

    def product(self, columns: Doubles, *, transpose: bool) -> Doubles:
        """Return K @ columns."""
        found = np.empty((self.shape[0], columns.shape[1]))
        right = np.ascontiguousarray(columns)

        def multiply(rows: tuple[int, int]) -> None:
            block = self._matrix[slice(*rows)].astype(float, copy=False)
            np.matmul(block, right, out=found[slice(*rows)])

        with blas_threads(1):
            for _ in in_order(multiply, blocks(self.shape[0]), self._threads, name="product"):
                pass
        return found

    def diag(self) -> Doubles:
        """Return the diagonal, (N,)."""
        return np.diagonal(self._matrix).astype(float)

    def columns(self, indices: ArrayLike) -> Doubles:
        """Return K[:, indices]."""
        return self._matrix[self._checked(indices)].T.astype(float)

    def tiles(self) -> MatrixTiles:
        """Return the tiles of the matrix."""
        return ArrayTiles(self._matrix)

    def describe(self) -> str:
        """Return what a pass does, for people."""
        return "multiplies the matrix in memory"


class StoredOperator(GramOperator):
    """A kernel of a Gram file, which is read once in every pass.

    Parameters
    ----------
    matrix : the tiles of the kernel
    threads : the largest number of threads that multiply; by default all
    opened : the file, if the operator is to close it
    """

    def __init__(
        self,
        matrix: MatrixOfFile,
        *,
        threads: int | None = None,
        opened: GramFile | None = None,
    ) -> None:
        grid = matrix.grid
        super().__init__((grid.rows, grid.columns), symmetric=grid.symmetric)
        self.matrix, self.threads, self._opened = matrix, threads, opened
        self._threads = threads_to_use(threads)

    @property
    def identity(self) -> str:
        """A hex digest of the network, the data and the checksums of all tiles."""
        return self.matrix.identity

    def product(self, columns: Doubles, *, transpose: bool) -> Doubles:
        """Return K @ columns, or Kᵀ @ columns."""
        return self.matrix.multiply(columns, transpose=transpose, threads=self._threads)

    def diag(self) -> Doubles:
        """Return the diagonal, (N,)."""
        return self.matrix.diagonal().copy()

    def columns(self, indices: ArrayLike) -> Doubles:
        """Return K[:, indices]; each tile that has some of them is read once."""
        return self.matrix.columns(self._checked(indices))

    def tiles(self) -> MatrixTiles:
        """Return the tiles of the matrix."""
        self.matrix.diagonal()  # an error if it is of two data sets
        return StoredTiles(self.matrix)

    def describe(self) -> str:
        """Return what a pass does, for people."""
        return f"reads {self.matrix.name} of {self.matrix.path}"

    def close(self) -> None:
        """Close the file, if the operator opened it."""
        if self._opened:
            self._opened.close()


class OtherOperator(GramOperator):
    """A linear operator of SciPy's, whose matrix is symmetric.

    Its diagonal takes N/64 passes. Whether it is symmetric, and its identity, are found by one
    product with two random vectors, so that two operators whose entries differ by rounding may
    have one identity.
    """

    def __init__(self, operator: LinearOperator, name: str) -> None:
        super().__init__(operator.shape, symmetric=True)
        self._operator = operator
        vectors = np.random.default_rng(0).standard_normal((self.shape[0], 2))
        self._product = found = self.product(vectors, transpose=False)
        difference = abs(float(vectors[:, 0] @ found[:, 1] - vectors[:, 1] @ found[:, 0]))
        limit = float(np.linalg.norm(vectors[:, 0]) * np.linalg.norm(found[:, 1]))
        if not difference <= ASYMMETRY * limit:
            raise InvalidValueError(f"{name} is an operator that is not symmetric, or not finite")

    @property
    def identity(self) -> str:
        """A hex digest of the product with two random vectors."""
        return str(xxh3_128_hexdigest(np.ascontiguousarray(self._product).tobytes()))

    def product(self, columns: Doubles, *, transpose: bool) -> Doubles:
        """Return K @ columns."""
        return np.asarray(self._operator.matmat(columns), float)

    def diag(self) -> Doubles:
        """Return the diagonal, (N,), by products with unit vectors."""
        size = self.shape[0]
        found = np.empty(size)
        for start in range(0, size, UNITS):
            chosen = np.arange(start, min(start + UNITS, size))
            found[chosen] = self.columns(chosen)[chosen, chosen - start]
        return found

    def columns(self, indices: ArrayLike) -> Doubles:
        """Return K[:, indices], by a product with unit vectors."""
        chosen = self._checked(indices)
        units = np.zeros((self.shape[0], len(chosen)))
        units[chosen, np.arange(len(chosen))] = 1
        return self.product(units, transpose=False)

    def describe(self) -> str:
        """Return what a pass does, for people."""
        return f"calls {type(self._operator).__name__}"


def as_operator(
    gram: Any,
    kernel: KernelName | None = None,
    *,
    memory: int | str | None = None,
    threads: int | None = None,
    name: str = "gram",
) -> GramOperator:
    """Return a symmetric matrix as an operator.

    Parameters
    ----------
    gram : (N, N) array, memory map, Gram, GramFile, path, LinearOperator or GramOperator
        Arrays are checked to be symmetric and finite, and are not copied. Of a matrix with several
        layers, the last one is taken. A `GramOperator` is returned as it is.
    kernel : "nngp" or "ntk"
        The kernel to take, if there are two.
    memory : int or str such as "2GiB", optional
        Only checked to be a size: beside the vectors, a pass has a few tiles in memory, and arrays
        are not copied.
    threads : int, optional
        The largest number of threads that multiply; by default all that this process may use. Bits
        do not depend on it.
    name : str
        The name of the argument, for errors.

    Raises
    ------
    ValueError, TypeError, OSError
        If there is no such matrix, it is no symmetric matrix of finite real numbers, or a file
        lacks tiles.
    """
    if isinstance(gram, GramOperator):
        return gram
    if isinstance(gram, LinearOperator):
        if len(set(gram.shape)) != 1 or np.dtype(gram.dtype).kind not in "biuf":
            raise InvalidValueError(
                f"{name} must be an operator of real numbers and N × N, not {gram.dtype} and "
                f"{' × '.join(map(str, gram.shape))}"
            )
        return OtherOperator(gram, name)
    if memory is not None:
        parse_bytes(memory, "memory")
    found = find_matrix(gram, kernel, name=name)
    try:
        if found.stored is not None:
            found.rows.refuse_incomplete()
            return StoredOperator(found.stored, threads=threads, opened=found.opened)
        matrix = found.rows[found.layer]
        check_matrix(matrix, found.name)
        return ArrayOperator(matrix, threads=threads)
    except BaseException:
        found.close()
        raise
