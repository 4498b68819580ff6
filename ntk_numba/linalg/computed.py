"""The kernel of a network and its data as an operator that is computed in every pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ntk_numba.arguments import Data, KernelName
from ntk_numba.cluster.write import shared_path
from ntk_numba.compute.multiply import ComputedMatrix
from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import Part
from ntk_numba.linalg.operator import GramOperator
from ntk_numba.network import MLP
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

    def origin(self) -> "ComputedOrigin":
        """Return what other processes need to make the same matrix."""
        m = self.matrix
        return ComputedOrigin(
            net=m.net,
            x=m.data[0],
            z=m.data[1],
            kernel=m.kernel,
            dtype=m.dtype,
            up_to=m.plan.largest_norm,
            memory=m.limits[0],
            threads=m.limits[1],
        )

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
        return self.matrix.columns(np.asarray(indices, np.intp))

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


@dataclass(frozen=True)
class ComputedOrigin:
    """What a process needs to make a computed matrix, see `linalg.passes.Origin`."""

    net: MLP
    x: Any
    z: Any
    kernel: KernelName
    dtype: np.dtype
    up_to: float | None
    memory: int | str | None
    threads: int | None

    def elsewhere(self) -> "ComputedOrigin":
        """Return the origin for other processes, which read X and Z from files."""
        z = None if self.z is None else shared_path("Z", self.z)
        return replace(self, x=shared_path("X", self.x), z=z)

    def open(self, memory: int | str | None, threads: int | None) -> ComputedMatrix:
        """Return the matrix in this process."""
        return ComputedMatrix(
            self.net,
            self.x,
            self.z,
            kernel=self.kernel,
            dtype=self.dtype,
            memory=memory,
            threads=threads,
            up_to=self.up_to,
        )

    def __str__(self) -> str:
        return f"{self.kernel} of {self.x}" + ("" if self.z is None else f" and {self.z}")


class ComputedTiles(AbstractContextManager["ComputedTiles"]):
    """The tiles of a computed matrix, see `linalg.tiles.MatrixTiles`."""

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
    """Return a kernel of a network as a linear operator that is computed in every pass."""
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
