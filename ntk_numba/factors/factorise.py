"""Writing the Cholesky factor of a matrix into a file, and repairing such a file."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.arguments import KernelName, Policy, parse_bytes
from ntk_numba.errors import InvalidValueError, OutputExistsError
from ntk_numba.factors.factor import exponent_of
from ntk_numba.factors.factor_tiles import FactorTiles, StoredTiles
from ntk_numba.factors.left_looking import LeftLooking, PivotError
from ntk_numba.factors.panels import Panels, factor_tile, panels_for
from ntk_numba.factors.unfactorised import explain_tiles
from ntk_numba.gramfile.contents import FactorContents
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.gramfile.place import check_folder, is_taken, output_path, refuse_inputs
from ntk_numba.gramfile.repairing import repairing
from ntk_numba.gramfile.stored import Report, existing
from ntk_numba.gramfile.tiles import Place
from ntk_numba.gramfile.writer import TileWriter
from ntk_numba.grid import Grid
from ntk_numba.inputs.arrays import bad_entry
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.operators.matrix import paths_of
from ntk_numba.operators.tiles import MatrixTiles, open_tiles

Floats = NDArray[np.floating]

NUMERICS = 2  # of the factorisation: increase it if any bit of a factor changes
SHARE = 0.5  # of the memory that is available, which is taken if no limit is given


class Shifted:
    """The matrix A = 2^−e·(K + ridge·I), tile by tile.

    Attributes
    ----------
    tiles : MatrixTiles, of K
    ridge, exponent : the ridge, and e
    edge : of the tiles that `load` gives
    diagonal : (N,) float64, the diagonal of A
    """

    def __init__(self, tiles: MatrixTiles, ridge: float) -> None:
        self.tiles, self.ridge, self.edge = tiles, ridge, factor_tile(tiles.size)
        own = tiles.diagonal()
        self.exponent = exponent_of(own, ridge, tiles.dtype)
        self.diagonal = np.ldexp(own, -self.exponent) + np.ldexp(ridge, -self.exponent)

    def contents(self, kernel: str) -> FactorContents:
        """Return the contents of the file of the factor."""
        tiles = self.tiles
        return FactorContents.of(
            tiles.size,
            self.edge,
            tiles.dtype,
            matrix=tiles.identity,
            kernel=kernel,
            ridge=self.ridge,
            exponent=self.exponent,
        )

    def load(self, i: int, j: int, out: Floats) -> None:
        """Fill an array (T, T) with a tile of A.

        Raises
        ------
        ValueError
            If an entry is not finite.
        """
        self.tiles.load([(i, j)], out[None], self.edge)
        if not np.isfinite(out).all():
            row, column = np.argwhere(~np.isfinite(out))[0]
            at = int(i * self.edge + row), int(j * self.edge + column)
            raise bad_entry("gram", at, f"is {out[row, column]}; a kernel is finite")
        if self.exponent:
            np.ldexp(out, -self.exponent, out=out)
        if i == j:
            own = self.diagonal[i * self.edge : (i + 1) * self.edge]
            np.fill_diagonal(out[: len(own), : len(own)], own)


def write_factor(
    gram: Any,
    path: str | os.PathLike[str],
    ridge: float,
    *,
    kernel: KernelName | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    policy: Policy,
) -> Path:
    """Write the factor of K + ridge·I into a file, and return its path, see `cholesky`."""
    target = output_path(path)
    check_folder(target, write=policy.overwrite or not target.exists())
    threads = threads_to_use(threads)
    with open_tiles(gram, kernel, threads=1) as tiles:  # several threads load tiles
        refuse_inputs(target, [*tiles.paths, *paths_of(gram)], "read for the matrix")
        matrix = Shifted(tiles, ridge)
        contents = matrix.contents(tiles.kernel or kernel or "")
        if contents.excess:
            raise InvalidValueError(f"gram: {contents.excess}")
        if is_taken(target) and not policy.overwrite:
            existing(target, contents, open_factor).close()
            return target
        work = _Work(memory, threads, policy.progress)
        work.panels(contents.grid, contents.dtype)  # an error comes before any file
        try:
            with (
                stopping.gently(),
                TileWriter(target, contents, NUMERICS, policy) as writer,
            ):
                store = StoredTiles(writer.tiles, str(target))
                try:
                    work.factorise(matrix, store, writer.check)
                except PivotError as error:
                    error.__traceback__ = None  # which keeps the panels in memory
                    writer.discard()
                    raise explain_tiles(matrix, store, error) from None
        except OutputExistsError:  # another process has completed it since the check above
            existing(target, contents, open_factor).close()
    return target


def holds_factor(
    path: str | os.PathLike[str], gram: Any, ridge: float, *, kernel: KernelName | None = None
) -> bool:
    """Return whether a file is the complete factor of K + ridge·I."""
    with (
        contextlib.suppress(ValueError, OSError),
        open_factor(path) as file,
        open_tiles(gram, kernel, threads=1) as tiles,
    ):
        contents = Shifted(tiles, ridge).contents(tiles.kernel or kernel or "")
        return not contents.differences(file.contents)
    return False


class _Work:
    """How a factorisation is computed; nothing of it changes a bit.

    memory, threads, progress : see `cholesky`
    """

    def __init__(self, memory: int | str | None, threads: int, progress: bool) -> None:
        self._threads, self._progress = threads, progress
        if memory is None:
            self._limit, self._given = int(available_memory() * SHARE), "half of what is available"
        else:
            self._limit, self._given = parse_bytes(memory, "memory"), "memory"

    def panels(self, grid: Grid, dtype: np.dtype, done: NDArray[np.bool_] | None = None) -> Panels:
        """Return the panels of the tiles that are not done, see `panels_for`."""
        if done is None:
            done = np.zeros((grid.down, grid.down), bool)
        return panels_for(grid, dtype, done, self._limit, self._given)

    def factorise(self, matrix: Shifted, store: FactorTiles, check: Callable[[], object]) -> None:
        """Compute the tiles that a store lacks.

        check : is called several times a second, and raises an error if the job has to end
        """
        LeftLooking(
            matrix.load,
            matrix.diagonal,
            store,
            self.panels(store.grid, store.dtype, store.done),
            threads=self._threads,
            check=check,
            progress=self._progress,
        ).run()


def repair_factor(
    path: str | os.PathLike[str],
    gram: Any,
    *,
    kernel: KernelName | None = None,
    bad: Sequence[Place] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Report:
    """Compute the bad tiles of the file of a Cholesky factor again, in place.

    A tile is bad if its checksum does not match its contents. Each is computed from the matrix and
    from the tiles of L in the same row, in the row of its column, and to their left, so it gets the
    bits that it had.

    Parameters
    ----------
    path : str or path
        The file of the factor.
    gram, kernel, memory, threads : see `cholesky`
        The matrix that was factorised.
    bad : sequence, optional
        The tiles to compute: `Report.bad` of ``verify()`` of the file. By default the file is
        verified first.
    progress : bool
        Whether to show a progress bar on standard error.

    Returns
    -------
    Report
        True if the checksums of all recomputed tiles match now.

    Raises
    ------
    ValueError
        If the matrix is not the one that was factorised, the file is incomplete, has another
        version of the arithmetic, or is damaged outside its tiles.
    OSError
        If the file cannot be written, is replaced meanwhile, or another process is writing it.
    """
    threads = threads_to_use(threads)
    with (
        repairing(Path(path), open_factor) as repair,
        open_tiles(gram, kernel, threads=1) as tiles,
    ):
        file = repair.file
        matrix = Shifted(tiles, file.contents.ridge)
        differences = file.contents.differences(matrix.contents(file.contents.kernel))
        repair.refuse(differences + repair.other_numerics(NUMERICS))
        report = Report()
        bad = file.verify(progress=progress).bad if bad is None else bad
        with repair.writing(bad, report) as (own, done, check):
            store = StoredTiles(own, str(repair.path))
            store.done &= done
            _Work(memory, threads, progress).factorise(matrix, store, check)
    return report
