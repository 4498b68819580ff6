"""The kernel of a network and its data as an operator that is computed in every pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ntk_numba.arguments import Data, KernelName
from ntk_numba.compute.multiply import ComputedMatrix
from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import Part
from ntk_numba.network import MLP
from ntk_numba.operators.operator import GramOperator
from ntk_numba.sums import Sums

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


class ComputedOperator(GramOperator):
    """A kernel matrix as an operator whose tiles are computed in every pass, and never stored.

    `kernel_operator` makes it.
    """

    def __init__(self, matrix: ComputedMatrix) -> None:
        super().__init__(matrix.shape, symmetric=matrix.symmetric)
        self.matrix = matrix

    @property
    def identity(self) -> str:
        """A hex digest of the network, the kernel and the data; the first call reads the data."""
        return self.matrix.identity

    def product(self, columns: Doubles, *, transpose: bool) -> Doubles:
        """Return K @ columns, or Kᵀ @ columns."""
        return self.matrix.multiply(columns, transpose)

    def multiply_part(
        self, columns: Doubles, part: Part | None, *, transpose: bool = False
    ) -> tuple[Sums, NDArray[np.int64]]:
        """Return the sums over a part of the tiles, see `ComputedMatrix.multiply_part`."""
        return self.matrix.multiply_part(columns, part, transpose)

    def diag(self) -> Doubles:
        """Return the diagonal, (N,), with the bits of `ntk_numba.diagonal`.

        Raises
        ------
        ValueError
            If the operator is of two data sets.
        """
        self._refuse_rectangular("diagonal")
        return self.matrix.diagonal()

    def columns(self, indices: ArrayLike) -> Doubles:
        """Return columns, (N, m), of indices in any order, with repeats.

        Their entries have the bits of `ntk_numba.gram`.
        """
        return self.matrix.columns(self._checked(indices))

    def tiles(self) -> "ComputedTiles":
        """Return the tiles of the matrix, which are computed when they are loaded."""
        self._refuse_rectangular("factor")
        return ComputedTiles(self.matrix)

    def _refuse_rectangular(self, what: str) -> None:
        """Raise an error if the operator is of two data sets."""
        if not self.symmetric:
            raise InvalidValueError(
                f"the operator of X and Z, {self.shape}, has no {what}; leave Z out"
            )

    def describe(self) -> str:
        """Return what a pass does, for people."""
        return f"computes {self.matrix.kernel} of {self.matrix.net} in each pass"


class ComputedTiles(AbstractContextManager["ComputedTiles"]):
    """The tiles of a computed matrix, see `operators.tiles.MatrixTiles`."""

    def __init__(self, matrix: ComputedMatrix) -> None:
        self._matrix = matrix
        self.size, self.dtype, self.tile = matrix.shape[0], matrix.dtype, matrix.tile
        self.kernel: str = matrix.kernel

    @property
    def identity(self) -> str:
        """A hex digest of the network, the kernel and the data."""
        return self._matrix.identity

    def load(self, places: Sequence[tuple[int, int]], out: Floats, tile: int) -> None:
        """Compute blocks, with the bits of `ntk_numba.gram`."""
        self._matrix.load(places, out, tile)

    def diagonal(self) -> Doubles:
        """Return the diagonal, (N,)."""
        return self._matrix.diagonal()

    def __exit__(self, *error: object) -> None:
        pass


def kernel_operator(
    net: MLP,
    X: Data,
    Z: Data | None = None,
    *,
    kernel: KernelName = "ntk",
    dtype: DTypeLike | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    up_to: float | None = None,
) -> ComputedOperator:
    """Return a kernel of a network as a linear operator V ↦ K V, which stores no matrix.

        (K V)_ik = Σ_j K(x_i, x_j) V_jk,    or Σ_j K(x_i, z_j) V_jk with Z

    Each product computes all tiles of K, multiplies them while they are in the cache, and drops
    them. So N samples take memory in N and not in N². Of a symmetric matrix, half of the tiles are
    computed, and each is multiplied twice. A product with ten columns takes about as long as
    `ntk_numba.gram`; reading a stored matrix is faster only on fast disks, see ``ntk-numba plan``.

    Parameters
    ----------
    net, X, Z, dtype, up_to
        See `ntk_numba.gram`.
    kernel : "nngp" or "ntk"
        The kernel K, of the last layer.
    memory : int or str such as "2GiB", optional
        A limit for the samples, the scratch memory, V, the sums and the result. The whole process
        stays below it too if it is at least twice the memory of Python and the libraries (about 320
        MiB). The default is a quarter of the memory that the process may use. Samples that fit stay
        in memory between products; others are read in bands, in every product.
    threads : int, optional
        The largest number of threads; by default all that this process may use.

    Returns
    -------
    ComputedOperator
        A `scipy.sparse.linalg.LinearOperator` of shape (N, M) and dtype float64, whatever the dtype
        of the entries. ``A @ V`` and ``A.T @ V`` are products. ``A.diag()`` is the diagonal and
        ``A.columns(indices)`` are columns of K, both with the bits of `ntk_numba.gram`.
        ``A.passes`` counts the products. `ntk_numba.cholesky` and `ntk_numba.solve` take it in
        place of a matrix. With new samples in the place of X, ``kernel_operator(net, X_new, X) @
        alpha`` are predictions of a model with the weights alpha.

    Raises
    ------
    ValueError
        If an argument is out of range, the data contains NaN or infinity, a kernel overflows, or
        the memory is too little, of the operator or of a product.
    TypeError
        If an argument has the wrong type.
    OSError
        If a file cannot be read, or a product finds that it has changed since it was opened.

    Notes
    -----
    The error of a product, with the entries K_ij that `ntk_numba.gram` returns, is at most

        6e-14 Σ_j |K_ij| |V_jk| + N 2⁻⁹⁶ Σ_j √(K_ii K_jj) |V_jk|

    for any dtype of the entries, since float32 is converted to float64 before it is multiplied. The
    second term, in which K_ii and K_jj count as at least the smallest normal number of the dtype,
    matters only if all entries of a row with large V_jk are nearly 0. The sums over rows or columns
    of a tile have at most 512 terms, which are added in order by fused multiply-adds. These sums
    are rounded to multiples of 2⁻⁹⁶ or less of their bound, the second sum, and added exactly. So
    the bits of a column of the product depend neither on the other columns nor on threads, memory,
    or the parts that workers of a cluster compute. The errors of the entries themselves are those
    of `ntk_numba.gram`.

    The network is fitted, the data is checked, and code is compiled once, by this function or the
    first product. A product looks at the status of the files again, and compares the rows that it
    reads with what they were. Arrays in memory are not compared: they must stay as they are as long
    as the operator is used.

    Examples
    --------
    >>> net = ntk_numba.MLP(4, "relu", b_std=0.1)
    >>> A = ntk_numba.kernel_operator(net, [[1.0, 0.0], [0.0, 1.0]])
    >>> (A @ [1.0, -1.0]).round(4)
    array([ 0.1898, -0.1898])
    >>> A.columns([1, 1]).round(4)
    array([[0.0927, 0.0927],
           [0.2825, 0.2825]])
    """
    return ComputedOperator(
        ComputedMatrix(
            net,
            X,
            Z,
            kernel=kernel,
            dtype=dtype,
            memory=memory,
            threads=threads,
            up_to=up_to,
        )
    )
