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

    The columns of such a tile are solved strip by strip. A run of 1, 2, 4 … strips is subtracted
    from as many that follow it as soon as it is complete, as if halves were solved one after the
    other, so that products, most of them large, take most of the operations. A strip is multiplied
    by the inverse M of its block of L where that is as accurate as substitution, since trsm takes
    three to five times as long on so narrow a strip.

    With X = C Mᵀ the error of X Lᵀ is at most 2 w ε |X| |Lᵀ| (|L| |M|)ᵀ, where w is the width of a
    strip, if L M − I is of order w ε (J. Du Croz, N. Higham: Stability of Methods for Matrix
    Inversion, IMA Journal of Numerical Analysis 12, 1992). The bound for substitution by a whole
    tile, T ε |X| |Lᵀ|, is no smaller up to a factor of 2 if |L| |M| is at most T/w. Unlike the
    condition number of L, that is small even if a pivot is.
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
        (rows, size), item, width = c.shape, c.itemsize, self._width
        left, right, inverse = (a.ctypes.data for a in (self._triangle, c, self._inverses))
        count, edge, strip = _integer(rows), _integer(size), _integer(width)
        minus, one = ctypes.byref(real(-1)), ctypes.byref(real(1))
        for start, accurate in zip(range(0, size, width), self._accurate, strict=True):
            at = right + start * item
            if accurate:
                block = inverse + start * width * item
                trmm(b"L", b"U", b"T", b"N", strip, count, one, block, strip, at, edge)
            else:
                block = left + start * (size + 1) * item
                trsm(b"L", b"U", b"T", b"N", strip, count, one, block, edge, at, edge)
            end = start + width
            run = (end // width & -(end // width)) * width  # the largest power of two in `end`
            if further := min(run, size - end):
                above, known = left + (end * size + end - run) * item, right + (end - run) * item
                rest, before, at = _integer(further), _integer(run), right + end * item
                gemm(
                    b"T", b"N", rest, count, before, minus, above, edge, known, edge, one, at, edge
                )


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
