"""Operations on tiles in place, by BLAS and LAPACK, which release Python's lock meanwhile.

A tile is C-contiguous. Its transpose is what Fortran expects, so nothing is copied: the lower
triangle of a tile is the upper one of its transpose.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, cython_blas, lapack

Floats = NDArray[np.floating]

STRIP = 64  # columns that are solved at once

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
    """Replace c by c L⁻ᵀ, where L is lower triangular.

    Strips of columns are solved one after another, and products take most of the operations: BLAS's
    own trsm takes 1.2 times as long on tiles of 512 (float64). SciPy's wrappers would copy strips,
    so the same routines are called by their addresses, which releases Python's lock too.
    """
    gemm, trsm, real = _BY_ADDRESS[c.dtype.char]
    size, item = len(c), c.itemsize
    left, right = triangle.ctypes.data, c.ctypes.data
    edge, minus, one = _integer(size), ctypes.byref(real(-1)), ctypes.byref(real(1))
    for start in range(0, size, STRIP):
        width, at = _integer(min(STRIP, size - start)), right + start * item
        row = left + start * size * item
        if start:
            before = _integer(start)
            gemm(b"T", b"N", width, edge, before, minus, row, edge, right, edge, one, at, edge)
        corner = row + start * item
        trsm(b"L", b"U", b"T", b"N", width, edge, one, corner, edge, at, edge)


def _integer(value: int) -> Any:
    """Return the address of a whole number, as Fortran takes it."""
    return ctypes.byref(ctypes.c_int(value))


def _by_address(name: str, letters: int, others: int) -> Any:
    """Return a routine of SciPy's BLAS that is called by its address.

    letters, others : the numbers of its first arguments, which are letters, and of all others
    """
    capsule = cython_blas.__pyx_capi__[name]
    names, addresses = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    names.restype, names.argtypes = ctypes.c_char_p, [ctypes.py_object]
    addresses.restype, addresses.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    types = [ctypes.c_char_p] * letters + [ctypes.c_void_p] * others
    return ctypes.CFUNCTYPE(None, *types)(addresses(capsule, names(capsule)))


_BY_ADDRESS = {
    kind: (_by_address(f"{kind}gemm", 2, 11), _by_address(f"{kind}trsm", 4, 7), real)
    for kind, real in (("d", ctypes.c_double), ("s", ctypes.c_float))
}
_BY_ADDRESS["f"] = _BY_ADDRESS.pop("s")  # NumPy's letter for float32


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
