"""The Cholesky factorisation of a matrix in memory, in place, by blocks.

The blocked algorithm of LAPACK's potrf, right-looking: a block of the diagonal is factorised, the
block row behind it is divided, and its products are subtracted from all that is left. Each call of
BLAS is on one thread and on blocks of a fixed size, so the factor does not depend on the number of
threads. OpenBLAS's potrf is 5 % faster on two threads; of matrices in float64 of more than about
15,500 rows, it writes beyond a buffer, which ends the process.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ntk_numba.blas import blas_threads
from ntk_numba.factors.tile_blas import ROUTINES, integer

STEP = 512  # rows that are factorised at a time
BLOCK = 2048  # the edge of the blocks from which products are subtracted


def factorise(array: NDArray[np.floating], threads: int) -> int:
    """Replace the upper triangle of a symmetric matrix A by U, where A = Uᵀ U.

    Return 0, or the number of rows of the least leading minor that is not positive.

    Parameters
    ----------
    array : (N, N) float32 or float64, C-contiguous
        What is below the diagonal is neither read nor changed.
    threads : the number of threads
    """
    call, size, item = ROUTINES[array.dtype], len(array), array.itemsize
    lead, first = integer(size), array.ctypes.data
    minus, one = ctypes.byref(call.real(-1)), ctypes.byref(call.real(1))

    def at(row: int, column: int) -> int:
        return first + (row * size + column) * item

    def divide(start: int, width: int, column: int) -> None:
        count = min(BLOCK, size - column)
        block, out = at(start, start), at(start, column)
        # Fortran sees columns where these are rows, so U is a lower triangle there
        call.trsm(
            b"R", b"L", b"T", b"N", integer(count), integer(width), one, block, lead, out, lead
        )

    def subtract(start: int, width: int, row: int, column: int) -> None:
        high, wide = (min(BLOCK, size - k) for k in (row, column))
        left, right, out = at(start, column), at(start, row), at(row, column)
        depth = integer(width)
        if row == column:
            call.syrk(b"L", b"N", integer(high), depth, minus, right, lead, one, out, lead)
        else:
            call.gemm(
                b"N", b"T", integer(wide), integer(high), depth, minus, left, lead, right, lead,
                one, out, lead,
            )  # fmt: skip

    with blas_threads(1), ThreadPoolExecutor(threads, "factor") as pool:
        for start in range(0, size, STEP):
            width = min(STEP, size - start)
            info = ctypes.c_int(0)
            call.potrf(b"L", integer(width), at(start, start), lead, ctypes.byref(info))
            if info.value:
                return start + info.value
            left = range(start + width, size, BLOCK)
            list(pool.map(lambda j, s=start, w=width: divide(s, w, j), left))
            blocks = [(i, j) for i in left for j in left if i <= j]
            list(pool.map(lambda at_, s=start, w=width: subtract(s, w, *at_), blocks))
    return 0
