"""Why a matrix whose tiles are factorised is not positive definite."""

from typing import Any

from ntk_numba.errors import NotPositiveDefiniteError


def explain_tiles(matrix: Any, store: Any, error: Any) -> NotPositiveDefiniteError:
    """Return the error for a matrix whose factorisation has failed."""
    found = NotPositiveDefiniteError(
        f"{matrix.name} is not positive definite in {store.dtype}: its factorisation fails at row "
        f"{error.row} (counted from 0)"
    )
    found.row = error.row
    return found
