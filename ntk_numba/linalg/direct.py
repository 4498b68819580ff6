"""Solutions by a factorisation, with the residuals that products with the matrix show."""

import contextlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ntk_numba.arguments import KernelName
from ntk_numba.errors import InvalidValueError, NtkNumbaError
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.linalg.cholesky import cholesky
from ntk_numba.linalg.cholesky_file import CholeskyFile, open_cholesky
from ntk_numba.linalg.systems import Systems
from ntk_numba.linalg.tiles import open_tiles

Floats = NDArray[np.float64]


def factorised(
    gram: Any,
    kernel: KernelName | None,
    systems: Systems,
    path: str | os.PathLike[str] | None,
    overwrite: bool,
) -> tuple[Floats, Floats]:
    """Return the solutions X (N, P) of some systems, and their relative residuals (P,).

    path : the file of the factor; None: it is in memory
    """
    ridges, limits, size = systems.given_ridges, systems.limits, len(systems.right)
    if path is not None and len(ridges) > 1:
        raise InvalidValueError(
            f"path: the file of a factor has one ridge, and {len(ridges)} are given; give one, or "
            f"no path"
        )
    found = []
    for ridge in ridges:
        common: dict[str, Any] = {"ridge": ridge, "threads": limits.threads}
        if path is None:
            matrix = gram
            if isinstance(gram, LinearOperator):
                matrix = systems.operator.columns(np.arange(size))
            factor = cholesky(matrix, kernel=kernel, memory=limits.memory, **common)
            found.append(factor.solve(systems.right))
        else:
            with _stored(gram, kernel, path, ridge, systems, overwrite) as stored:
                found.append(stored.solve(systems.right, matrix=systems.operator))
    solution = systems.scaled(np.concatenate(found, axis=1))
    _, residuals = systems.remainder(solution)
    if not (residuals <= limits.tolerance).all():
        raise systems.stalled(float(residuals.max()))
    return solution, residuals


def _stored(
    gram: Any,
    kernel: KernelName | None,
    path: str | os.PathLike[str],
    ridge: float,
    systems: Systems,
    overwrite: bool,
) -> CholeskyFile:
    """Return the factor in a file, which is written if it is not there yet."""
    limits = systems.limits
    with contextlib.suppress(NtkNumbaError):  # it is missing, unfinished or something else
        with open_factor(path) as file:
            found = file.contents.matrix, file.contents.ridge
        with open_tiles(gram, kernel) as tiles:
            known = found == (tiles.identity, ridge)
        if known:
            return open_cholesky(path, memory=limits.memory, threads=limits.threads)
    return cholesky(
        gram,
        path,
        ridge=ridge,
        kernel=kernel,
        memory=limits.memory,
        threads=limits.threads,
        overwrite=overwrite,
        progress=limits.progress,
    )
