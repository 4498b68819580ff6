"""Operations on tiles in place, by BLAS and LAPACK, which release Python's lock meanwhile.

A tile is C-contiguous, and so are its first rows. Its transpose is what Fortran expects, so nothing
is copied: the lower triangle of a tile is the upper one of its transpose.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, cython_blas, lapack

Floats = NDArray[np.floating]

STRIP = 32  # columns, a power of two, that are solved at once
GROWTH = 16  # of the entries of |L| |M|, summed over a row; T/w of a tile of 512

_DOUBLE = blas.dgemm, blas.dsyrk, blas.dtrsm, lapack.dpotrf
_SINGLE = blas.sgemm, blas.ssyrk, blas.strsm, lapack.spotrf


def _routines(array: Floats) -> tuple[Any, ...]:
    """Return gemm, syrk, trsm and potrf for the dtype of an array."""
    return _DOUBLE if array.dtype == np.float64 else _SINGLE


def subtract_product(c: Floats, a: Floats, b: Floats) -> None:
    """Subtract a bᵀ from c; a and c are (rows, T), b is a tile."""
    _routines(c)[0](-1.0, b.T, a.T, 1.0, c.T, trans_a=1, overwrite_c=1)


def subtract_square(c: Floats, a: Floats) -> None:
    """Subtract a aᵀ from the lower triangle of c."""
    _routines(c)[1](-1.0, a.T, 1.0, c.T, trans=1, lower=0, overwrite_c=1)


class Divisor:
    """A tile L of the diagonal of the factor, by which the tiles below it are divided.

    The columns of such a tile are halved again and again, down to strips, so that products take
    most of the operations. A strip is multiplied by the inverse M of its block of L where that is
    as accurate as substitution, since trsm takes three to five times as long on so narrow a strip.

    With X = C Mᵀ the error of X Lᵀ is at most 2 w ε |X Lᵀ| |L| |M|, where w is the width of a strip,
    if L M − I is of order w ε (J. Du Croz, N. Higham: Stability of Methods for Matrix Inversion, IMA
    Journal of Numerical Analysis 12, 1992). The bound for substitution by a whole tile, T ε, is no
    smaller if |L| |M| is at most T/w. Unlike the condition number of L, that is small even if a
    pivot is.
    """

    def __init__(self, triangle: Floats) -> None:
        self._triangle = triangle
        size, item = len(triangle), triangle.itemsize
        self._width = width = min(STRIP, size)
        step = (size + 1) * width * item
        shape, strides = (size // width, width, width), (step, size * item, item)
        blocks = np.lib.stride_tricks.as_strided(triangle, shape, strides)
        self._inverses = blocks.copy()
        invert = lapack.dtrtri if triangle.dtype == np.float64 else lapack.strtri
        for inverse in self._inverses:
            invert(inverse.T, lower=0, overwrite_c=1)
        with np.errstate(all="ignore"):  # what is not finite is not accurate
            growth = (np.abs(blocks) @ np.abs(self._inverses)).sum(axis=2).max(axis=1)
            residual = np.abs(blocks @ self._inverses - np.eye(width)).sum(axis=2).max(axis=1)
        bound = GROWTH * width * np.finfo(triangle.dtype).eps
        self._accurate = ((growth <= GROWTH) & (residual <= bound)).tolist()

    def divide(self, c: Floats) -> None:
        """Replace c, (rows, T), by c L⁻ᵀ.

        SciPy's wrappers would copy strips, so the same routines are called by their addresses,
        which releases Python's lock too.
        """
        gemm, trsm, trmm, real = _BY_ADDRESS[c.dtype.char]
        (rows, size), item, strip = c.shape, c.itemsize, self._width
        left, right = self._triangle.ctypes.data, c.ctypes.data
        inverses, step = self._inverses.ctypes.data, strip * strip * item
        count, edge, narrow = _integer(rows), _integer(size), _integer(strip)
        minus, one = ctypes.byref(real(-1)), ctypes.byref(real(1))

        def columns(start: int, width: int) -> None:
            at, corner = right + start * item, left + start * (size + 1) * item
            if width > strip:
                half = width // 2
                under, beside, known = corner + half * size * item, at + half * item, _integer(half)
                columns(start, half)
                gemm(b"T", b"N", known, count, known, minus, under, edge, at, edge, one, beside, edge)
                columns(start + half, half)
            elif self._accurate[start // strip]:
                inverse = inverses + start // strip * step
                trmm(b"L", b"U", b"T", b"N", narrow, count, one, inverse, narrow, at, edge)
            else:
                trsm(b"L", b"U", b"T", b"N", narrow, count, one, corner, edge, at, edge)

        columns(0, size)


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
    kind: (
        _by_address(f"{kind}gemm", 2, 11),
        _by_address(f"{kind}trsm", 4, 7),
        _by_address(f"{kind}trmm", 4, 7),
        real,
    )
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
