"""Solutions by a factorisation, with the residuals that products with the matrix show."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ntk_numba.arguments import KernelName, show_bytes
from ntk_numba.errors import InvalidValueError, TooLargeError
from ntk_numba.factors.cholesky import cholesky
from ntk_numba.operators.distributed import DistributedOperator
from ntk_numba.operators.operator import UNITS, GramOperator, OtherOperator
from ntk_numba.solvers.systems import Systems

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
    ridges, limits = systems.given_ridges, systems.limits
    if path is not None and len(ridges) > 1:
        raise InvalidValueError(
            f"path: the file of a factor has one ridge, and {len(ridges)} are given; give one, or "
            f"no path"
        )
    matrix, memory, found = gram, limits.memory, []
    if path is None and _without_tiles(gram):
        matrix = _matrix_of(systems.operator, memory)
        memory = max(memory - matrix.nbytes, 1)
    for ridge in ridges:
        common: dict[str, Any] = {"ridge": ridge, "threads": limits.threads}
        if path is None:
            factor = cholesky(matrix, kernel=kernel, memory=memory, **common)
            found.append(factor.solve(systems.right))
            del factor  # before the next one is made
        else:
            with cholesky(
                gram,
                path,
                kernel=kernel,
                memory=memory,
                overwrite=overwrite,
                progress=limits.progress,
                **common,
            ) as stored:
                found.append(stored.solve(systems.right, matrix=systems.operator))
    solution = systems.scaled(np.concatenate(found, axis=1))
    _, residuals = systems.remainder(solution)
    if not (residuals <= limits.tolerance).all():
        raise systems.stalled(float(residuals.max()))
    return solution, residuals


def _without_tiles(gram: Any) -> bool:
    """Return whether a matrix is an operator that does not compute its tiles one by one."""
    if isinstance(gram, GramOperator):
        return isinstance(gram, OtherOperator | DistributedOperator)
    return isinstance(gram, LinearOperator)


def _matrix_of(operator: GramOperator, memory: int) -> Floats:
    """Return the matrix of an operator, if there is memory for it and for its factor."""
    size = operator.shape[0]
    if 16 * size * size > memory:
        raise TooLargeError(
            f"the matrix of an operator and its factor take {show_bytes(16 * size * size)}, more "
            f"than the {show_bytes(memory)} of memory; take another method"
        )
    matrix = np.empty((size, size))
    for start in range(0, size, UNITS):
        some = np.arange(start, min(start + UNITS, size))
        matrix[:, some] = operator.columns(some)
    return matrix
