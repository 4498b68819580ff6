"""The tiles of a symmetric matrix, whatever it comes from."""

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from xxhash import xxh3_128

from ntk_numba.arguments import KernelName
from ntk_numba.errors import InvalidTypeError
from ntk_numba.gramfile.products import MatrixOfFile
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.gramfile.tile_products import READERS
from ntk_numba.grid import LARGEST_TILE
from ntk_numba.operators.matrix import (
    blocks,
    check_matrix,
    find_matrix,
    paths_of,
    refuse_other_kernel,
)
from ntk_numba.pool import in_order

Floats = NDArray[np.floating]


class MatrixTiles(Protocol):
    """The tiles of a symmetric matrix; a context manager that closes what it opened.

    Attributes
    ----------
    size : N
    dtype : float32 or float64
    tile : the edge of its own tiles, a power of two
    identity : a hex digest that differs if any entry may differ
    kernel : the kernel that it is, "nngp" or "ntk"; "" if that is unknown
    paths : the files that it is read from, or is computed from
    """

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def tile(self) -> int: ...
    @property
    def identity(self) -> str: ...
    @property
    def kernel(self) -> str: ...
    @property
    def paths(self) -> list[Path]: ...

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


class _Closing:
    """What closes a Gram file at the end of a context, if it was opened for it."""

    def __init__(self, opened: GramFile | None = None) -> None:
        self._opened = opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._opened:
            self._opened.close()


def digest_of(matrix: Floats) -> str:
    """Return a hex digest of an array: of its shape, its dtype and its entries."""
    digest = xxh3_128(f"{matrix.shape} {matrix.dtype}".encode())
    for start, stop in blocks(len(matrix)):
        digest.update(np.ascontiguousarray(matrix[start:stop]).data)
    return digest.hexdigest()


class ArrayTiles(_Closing):
    """The tiles of an array, or of a memory map, which is not copied.

    Of entries that differ from their mirror images by rounding, those below the diagonal count.
    """

    def __init__(self, matrix: Floats) -> None:
        super().__init__()
        self._matrix = matrix
        self.size, self.dtype, self.tile = len(matrix), matrix.dtype, LARGEST_TILE
        self.kernel, self.paths = "", paths_of(matrix)

    @cached_property
    def identity(self) -> str:
        """A hex digest of the entries, which is computed once."""
        return digest_of(self._matrix)

    def load(self, places: Sequence[tuple[int, int]], out: Floats, tile: int) -> None:
        """Fill blocks, see `MatrixTiles`."""
        for block, (i, j) in zip(out, places, strict=True):
            rows = self._matrix[i * tile : (i + 1) * tile, j * tile : (j + 1) * tile]
            height, width = rows.shape
            block[:height, :width] = rows
            block[height:], block[:, width:] = 0, 0
            if i == j:
                mirror_lower(block)

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,)."""
        return np.diagonal(self._matrix).astype(float)


class StoredTiles(_Closing):
    """The tiles of a matrix of a Gram file.

    Parameters
    ----------
    matrix : the matrix, of which the file has all tiles
    opened : the file, if it is to be closed at the end of the context
    threads : the number of threads that read in each call of `load`
    """

    def __init__(
        self, matrix: MatrixOfFile, opened: GramFile | None = None, *, threads: int | None = None
    ) -> None:
        super().__init__(opened)
        self._matrix, self._threads = matrix, threads or READERS
        self._own = threading.local()
        self.size, self.dtype, self.tile = matrix.grid.rows, matrix.dtype, matrix.grid.tile
        self.kernel, self.paths = matrix.kernel, matrix.paths

    @property
    def identity(self) -> str:
        """A hex digest of the network, the data and the checksums."""
        return self._matrix.identity

    def load(self, places: Sequence[tuple[int, int]], out: Floats, tile: int) -> None:
        """Fill blocks, see `MatrixTiles`.

        Raises
        ------
        ValueError
            A tile is damaged, or was changed since the file was opened.
        """
        grid, count = self._matrix.grid, tile // self.tile
        whole = grid.chunk == (tile, tile) and out.dtype == self.dtype and out.flags.c_contiguous
        pieces = []
        for block, (i, j) in zip(out, places, strict=True):
            if not whole and (i + 1) * tile > self.size:
                block[:] = 0
            tiles = ((a, b) for a in range(i * count, (i + 1) * count) for b in _run(j, count))
            pieces += [(block, i, j, a, b) for a, b in tiles if b <= a < grid.down]

        def read(piece: tuple[Floats, int, int, int, int]) -> None:
            block, i, j, a, b = piece
            if whole:
                self._matrix.read(a, b, block, once=True)
                return
            if not hasattr(self._own, "buffer"):
                self._own.buffer = self._matrix.buffer()
            entries = self._matrix.read(a, b, self._own.buffer, once=True)
            row, column = (a - i * count) * self.tile, (b - j * count) * self.tile
            height, width = entries.shape
            block[row : row + height, column : column + width] = entries
            if i == j and a != b:
                block[column : column + width, row : row + height] = entries.T

        if min(len(pieces), self._threads) == 1:  # no thread need be started
            for piece in pieces:
                read(piece)
            return
        for _ in in_order(read, pieces, min(self._threads, max(len(pieces), 1)), name="reader"):
            pass

    def diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal, (N,)."""
        return self._matrix.diagonal().copy()


def _run(j: int, count: int) -> range:
    """Return the stored columns of tiles that make up column j of larger ones."""
    return range(j * count, (j + 1) * count)


def mirror_lower(block: Floats) -> None:
    """Replace what is above the diagonal of a square block by the mirror image of what is below."""
    block[:] = np.tril(block) + np.tril(block, -1).T


def open_tiles(
    gram: Any,
    kernel: KernelName | None = None,
    *,
    name: str = "gram",
    threads: int | None = None,
) -> MatrixTiles:
    """Open the tiles of a symmetric matrix.

    Parameters
    ----------
    gram : (N, N) array, memory map, Gram, GramFile, path or GramOperator
        Arrays are checked to be symmetric and finite, and are not copied. Of a matrix with several
        layers, the last one is taken.
    kernel : "nngp" or "ntk"
        The kernel to take, if there are two.
    name : str
        The name of the argument, for errors.
    threads : int, optional
        The number of threads that read a file in each call of `load`.

    Returns
    -------
    MatrixTiles
        A context manager, which closes the file if `gram` is a path.

    Raises
    ------
    ValueError, TypeError, OSError
        If there is no such matrix, it is no symmetric matrix of finite real numbers, or a file
        lacks tiles.
    """
    if isinstance(gram, LinearOperator):
        if not hasattr(gram, "tiles"):
            raise InvalidTypeError(
                f"{name} is an operator of SciPy, whose entries are not known; give the matrix, a "
                f"Gram file or an operator of ntk_numba.kernel_operator"
            )
        refuse_other_kernel(gram, kernel, name)
        tiles: MatrixTiles = gram.tiles()
        return tiles
    found = find_matrix(gram, kernel, name=name)
    try:
        if found.stored is not None:
            found.rows.refuse_incomplete()
            return StoredTiles(found.stored, found.opened, threads=threads)
        matrix = found.rows[found.layer]
        check_matrix(matrix, found.name)
        return ArrayTiles(matrix)
    except BaseException:
        found.close()
        raise
