"""Solutions by a factorisation, with the residuals that products with the matrix show."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ntk_numba.arguments import KernelName
from ntk_numba.errors import InvalidValueError
from ntk_numba.factors.cholesky import cholesky
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
            with cholesky(
                gram,
                path,
                kernel=kernel,
                memory=limits.memory,
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
