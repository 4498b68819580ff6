"""A Cholesky factor in a file, and what is computed with it, tile by tile."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.arguments import KernelName, parse_bytes, show_bytes
from ntk_numba.compiled.arrays import aligned
from ntk_numba.errors import InvalidValueError
from ntk_numba.factors.factor import Columns, Factor, converged, refined, scaled
from ntk_numba.factors.factor_tiles import StoredTiles
from ntk_numba.factors.substitution import Block, backward, buffers, forward
from ntk_numba.gramfile.factor import FactorFile, open_factor
from ntk_numba.gramfile.stored import Report
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.operators.operator import as_operator

NARROW, WIDE = 16, 128  # right-hand sides that are changed at once, if there are few or many
SHARE = 0.5  # of the memory that is available, which is taken if no limit is given


class CholeskyFile(Factor):
    """The Cholesky factor of A = K + ridge·I in a file, open for reading; a context manager.

    `cholesky` with a path writes and opens it, `open_cholesky` opens it again. Results are equal
    bit for bit for any number of threads and any memory.

    Attributes
    ----------
    path : Path
        The file.
    ridge : float
        The number that was added to the diagonal.
    residual : float
        The relative residual ‖Y − A X‖/‖Y‖ of the last `solve` that was given the matrix, the
        largest of all columns; NaN otherwise.
    """

    def __init__(
        self, file: FactorFile, *, memory: int | str | None = None, threads: int | None = None
    ) -> None:
        contents = file.contents
        super().__init__(contents.ridge, contents.exponent, str(file.path))
        self.path = file.path
        self._file, self._threads = file, threads_to_use(threads)
        self._memory = None if memory is None else parse_bytes(memory, "memory")
        # a factor that does not fit in memory would not be in the page cache in the next pass
        self._tiles = file.tiles(direct=contents.output_bytes > available_memory() // 2)
        self._stored = StoredTiles(self._tiles, str(file.path))
        self._known: float | None = None  # the logarithm of the determinant

    @property
    def _store(self) -> StoredTiles:
        self._file.refuse_closed()
        return self._stored

    @property
    def _size(self) -> int:
        return self._file.contents.grid.rows

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the factor."""
        return self._file.dtype

    def solve(
        self, Y: ArrayLike, matrix: Any = None, *, kernel: KernelName | None = None
    ) -> NDArray[np.float64]:
        """Solve A X = Y, by two passes over the file for all columns that fit in memory.

        Parameters
        ----------
        Y : (N,) or (N, K)
        matrix : optional
            K: an array, a Gram file or its path, or an operator such as `kernel_operator` returns.
            The solution is then refined with residuals in float64 until the relative residual of
            each column is at most 1e-10, or until it no longer falls, and `residual` is its true
            residual. A step of refinement is a pass over the matrix and a solution. K may have more
            precision than the factor: a float32 factor and a float64 matrix give a solution in
            float64 if the condition number of A is less than about 1e6. Without the matrix the
            solution has the precision of the factor, with a residual of about ε √κ to ε κ.
        kernel : "nngp" or "ntk"
            The kernel of `matrix` to take, if it has both.

        Returns
        -------
        X : float64, of the shape of Y

        Raises
        ------
        ValueError
            If Y has another length or is not finite, if the matrix has another shape, if X is too
            large for float64, or if a factor in float32 is too ill-conditioned to be refined.
        OSError
            If the file cannot be read, or a tile does not match its checksum.
        """
        columns, flat = self._columns(Y)
        if matrix is None:
            self.residual = math.nan
            solution = self._solution(columns)
            return solution[:, 0] if flat else solution
        operator = as_operator(matrix, kernel, threads=self._threads, name="matrix")
        try:
            if operator.shape != self.shape:
                raise InvalidValueError(
                    f"matrix must have the shape {self.shape} of the factor, not {operator.shape}"
                )
            right, sizes = scaled(columns)
            shift = math.ldexp(self.ridge, -self._exponent)
            before = self._exponent // 2  # in two steps, of which neither over- nor underflows
            after = self._exponent - before

            def multiply(x: Columns) -> Columns:
                return np.ldexp(operator @ np.ldexp(x, -before), -after) + shift * x

            solution, residual, norms = refined(right, self._substitute, multiply)
            if self.dtype == np.float32:
                own = float(np.ldexp(operator.diag(), -self._exponent).sum())
                if not converged(residual, own + self._size * shift, solution, norms):
                    raise self._too_ill(residual)
        finally:
            if operator is not matrix:
                operator.close()
        found = self._unscaled(solution, sizes)
        self.residual = residual
        return found[:, 0] if flat else found

    def inverse_diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal of A⁻¹, (N,), in the precision of the factor.

        It takes as many operations as the factorisation, N³/3. With memory for m columns of the
        inverse of L, it reads the file about N/(3 m) times.
        """
        return super().inverse_diagonal()

    def _too_ill(self, residual: float) -> InvalidValueError:
        """Return the error that the refinement of a factor in float32 does not converge."""
        return InvalidValueError(
            f"{self._name}, a factor in float32 with a ridge of {self.ridge:.3g} (absolute), is "
            f"too ill-conditioned, or is not the factor of this matrix: its solution is refined to "
            f"a relative residual of {residual:.1e} and no further. Factorise the matrix in "
            f"float64, or with a larger ridge; or solve without `matrix`, in the precision of the "
            f"factor"
        )

    def _solution(self, columns: Columns) -> Columns:
        right, sizes = scaled(columns)
        return self._unscaled(self._substitute(right), sizes)

    def _substitute(self, columns: Columns) -> Columns:
        return self._passes(columns, both=True)

    def _half_substitute(self, columns: Columns) -> Columns:
        return self._passes(columns, both=False)

    def _passes(self, columns: Columns, both: bool) -> Columns:
        """Return L⁻¹ @ columns or, with `both`, L⁻ᵀL⁻¹ @ columns, as a new array."""
        size, count = columns.shape
        found = np.empty((size, count))
        width = NARROW if count <= NARROW else WIDE
        grid = self._store.grid
        held = self._room(width * grid.down * grid.tile, "for right-hand sides") * width
        for start in range(0, count, held):
            stop = min(start + held, count)
            shape = (-(-(stop - start) // width), grid.down, grid.tile, width)
            parts = np.zeros(shape, self.dtype)
            for n, block in enumerate(parts):
                some = columns[:, start + n * width : min(start + (n + 1) * width, stop)]
                block.reshape(-1, width)[:size, : some.shape[1]] = some
            blocks = [Block(0, block) for block in parts]
            forward(self._store, blocks, self._threads)
            if both:
                backward(self._store, blocks, self._threads)
            for n, block in enumerate(parts):
                some = found[:, start + n * width : min(start + (n + 1) * width, stop)]
                some[:] = block.reshape(-1, width)[:size, : some.shape[1]]
        return found

    def _inverse_diagonal(self) -> NDArray[np.float64]:
        grid = self._store.grid
        sums = np.zeros((grid.down, grid.tile))
        first = 0
        while first < grid.down:
            height = grid.down - first
            room = self._room(height * grid.tile**2, "for columns of the inverse")
            stop = first + min(room, height)
            self._add_squares(range(first, stop), sums)
            first = stop
        return sums.reshape(-1)[: self._size]

    def _add_squares(self, columns: range, sums: NDArray[np.float64]) -> None:
        """Add the sums of squares of some tile columns of L⁻¹, which are in memory meanwhile."""
        down, edge = self._store.grid.down, self._store.grid.tile
        blocks = [Block(j, aligned((down - j, edge, edge), self.dtype)) for j in columns]
        for block in blocks:
            block.parts[:] = 0
            np.fill_diagonal(block.parts[0], 1)

        def finished(n: int, j: int) -> None:
            part = blocks[n].part(j)
            sums[columns[n]] += np.einsum("ij,ij->j", part, part, dtype=float)

        forward(self._store, blocks, self._threads, finished)

    def _log_det(self) -> float:
        if self._known is None:
            grid = self._store.grid
            tile = aligned((grid.tile, grid.tile), self.dtype)
            terms = np.empty(self._size)
            for i in range(grid.down):
                self._store.read(i, i, tile)
                own = np.diagonal(tile)[: grid.height(i)].astype(float)
                terms[i * grid.tile :][: len(own)] = np.log(own)
            self._known = 2 * float(terms.sum())
        return self._known

    def _room(self, entries: int, purpose: str) -> int:
        """Return how many times this number of entries fits in memory beside the tiles."""
        limit = self._memory or int(available_memory() * SHARE)
        tiles = buffers(self._threads) * self._store.grid.tile**2
        count = (limit // self.dtype.itemsize - tiles) // entries
        if count < 1:
            least = show_bytes((tiles + entries) * self.dtype.itemsize)
            raise InvalidValueError(
                f"{self._name} needs at least {least} of memory {purpose}, and has "
                f"{show_bytes(limit)}"
            )
        return count

    def verify(self, *, progress: bool = False) -> Report:
        """Read every byte of the file, and check checksums and entries.

        All entries have to be finite, the diagonal positive, and what is above it zero.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar on standard error.

        Returns
        -------
        Report
            True if nothing is wrong; `problems` names the tile and the entry. `repair_factor`
            computes bad tiles again.
        """
        return self._file.verify(progress=progress)

    def close(self) -> None:
        """Close the file."""
        self._tiles.close()
        self._file.close()


def open_cholesky(
    path: str | os.PathLike[str], *, memory: int | str | None = None, threads: int | None = None
) -> CholeskyFile:
    """Open the file of a Cholesky factor that `cholesky` wrote.

    Parameters
    ----------
    path : str or path
    memory : int or str such as "2GiB", optional
        The most memory that tiles and right-hand sides may take, by default half of what this
        process may still use; beside it, Y and two arrays of its shape are in memory, or eight if
        a solution is refined with the matrix. Less memory means more passes over the file, and the
        same results.
    threads : int, optional
        The largest number of threads; by default all that this process may use.

    Returns
    -------
    CholeskyFile
        A context manager that closes the file.

    Raises
    ------
    OSError
        The file is missing, is a folder, or cannot be read.
    ValueError
        The file is incomplete, is not the file of a factor, or is damaged.

    Examples
    --------
    >>> with ntk_numba.open_cholesky("factor.h5") as factor:
    ...     weights = factor.solve(y)
    """
    file = open_factor(Path(path))
    try:
        return CholeskyFile(file, memory=memory, threads=threads)
    except BaseException:
        file.close()
        raise
