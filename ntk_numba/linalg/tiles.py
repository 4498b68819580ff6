"""The tiles of a symmetric matrix, whatever it comes from."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from ntk_numba.arguments import KernelName
from ntk_numba.grid import LARGEST_TILE
from ntk_numba.linalg.matrix import open_matrix

Floats = NDArray[np.floating]


class MatrixTiles(Protocol):
    """The tiles of a symmetric matrix; a context manager that closes what it opened.

    Attributes
    ----------
    size : N
    dtype : float32 or float64
    tile : the edge of its own tiles, a power of two
    identity : a hex digest that differs if any entry may differ
    """

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def tile(self) -> int: ...
    @property
    def identity(self) -> str: ...

    def load(self, places: Sequence[tuple[int, int]], out: Floats, tile: int) -> None:
        """Fill out[n], (tile, tile), with block (i, j), j ≤ i, for the n-th (i, j) of `places`.

        Entries beyond the matrix are 0, and blocks of the diagonal are full. Any thread may call
        this.

        tile : the edge of the blocks, any multiple of the matrix's own
        """
        ...

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,)."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class ArrayTiles(AbstractContextManager["ArrayTiles"]):
    """The tiles of an array, or of a memory map, which is not copied."""

    def __init__(self, matrix: Floats) -> None:
        self._matrix = matrix
        self.size, self.dtype, self.tile = len(matrix), matrix.dtype, LARGEST_TILE

    @property
    def identity(self) -> str:
        """A digest of the shape, the dtype and the lower triangle."""
        digest = xxh3_128(f"{self._matrix.shape} {self.dtype}".encode())
        for row, entries in enumerate(self._matrix):
            digest.update(np.ascontiguousarray(entries[: row + 1]))
        return digest.hexdigest()

    def load(self, places: Sequence[tuple[int, int]], out: Floats, tile: int) -> None:
        """Fill blocks, see `MatrixTiles`."""
        for block, (i, j) in zip(out, places, strict=True):
            rows = self._matrix[i * tile : (i + 1) * tile, j * tile : (j + 1) * tile]
            height, width = rows.shape
            block[:height, :width] = rows
            block[height:], block[:, width:] = 0, 0
            if i == j:
                block[:] = np.tril(block) + np.tril(block, -1).T

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,)."""
        return np.diagonal(self._matrix).astype(float)

    def __exit__(self, *error: object) -> None:
        pass


def open_tiles(
    gram: Any,
    kernel: KernelName | None = None,
    *,
    name: str = "gram",
    threads: int | None = None,
) -> MatrixTiles:
    """Open the tiles of a symmetric matrix: an array, a Gram, a Gram file, or its path."""
    if isinstance(gram, str | os.PathLike):
        gram = os.fspath(gram)
    return ArrayTiles(open_matrix(gram, kernel, name=name))
