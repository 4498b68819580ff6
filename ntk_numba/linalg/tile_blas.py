"""Operations on tiles in place, by BLAS and LAPACK, which release Python's lock meanwhile.

A tile is C-contiguous. Its transpose is what Fortran expects, so nothing is copied: the lower
triangle of a tile is the upper one of its transpose.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

Floats = NDArray[np.floating]

_DOUBLE = blas.dgemm, blas.dsyrk, blas.dtrsm, lapack.dpotrf
_SINGLE = blas.sgemm, blas.ssyrk, blas.strsm, lapack.spotrf


def _routines(array: Floats) -> tuple[Any, ...]:
    """Return gemm, syrk, trsm and potrf for the dtype of an array."""
    return _DOUBLE if array.dtype == np.float64 else _SINGLE


def subtract_product(c: Floats, a: Floats, b: Floats) -> None:
    """Subtract a bᵀ from c."""
    _routines(c)[0](-1.0, b.T, a.T, 1.0, c.T, trans_a=1, overwrite_c=1)


def subtract_square(c: Floats, a: Floats) -> None:
    """Subtract a aᵀ from the lower triangle of c."""
    _routines(c)[1](-1.0, a.T, 1.0, c.T, trans=1, lower=0, overwrite_c=1)


def divide(c: Floats, triangle: Floats) -> None:
    """Replace c by c L⁻ᵀ, where L is lower triangular."""
    _routines(c)[2](1.0, triangle.T, c.T, side=0, lower=0, trans_a=1, overwrite_b=1)


def subtract(c: Floats, a: Floats, x: Floats, transpose: bool) -> None:
    """Subtract a x, or aᵀ x, from c; a is a tile, x and c are (T, K)."""
    _routines(c)[0](-1.0, x.T, a.T, 1.0, c.T, trans_b=int(transpose), overwrite_c=1)


def solve(triangle: Floats, x: Floats, transpose: bool) -> None:
    """Replace x, (T, K), by L⁻¹ x, or by L⁻ᵀ x, where L is lower triangular."""
    _routines(x)[2](1.0, triangle.T, x.T, side=1, lower=0, trans_a=int(transpose), overwrite_b=1)


def factorise(c: Floats) -> int:
    """Replace a symmetric matrix, given by its lower triangle, by its factor L, zero above it.

    Return 0, or the number of rows of the least leading minor that is not positive.
    """
    _, info = _routines(c)[3](c.T, lower=0, clean=1, overwrite_a=1)
    return int(info)
