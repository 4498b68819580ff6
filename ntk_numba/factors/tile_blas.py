"""Operations on tiles in place, by BLAS and LAPACK, which release Python's lock meanwhile.

A tile is C-contiguous, and so are its first rows. Its transpose is what Fortran expects, so nothing
is copied: the lower triangle of a tile is the upper one of its transpose. SciPy's wrappers of BLAS
keep Python's lock, so that threads would wait for each other; the same routines are called by their
addresses.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack, lapack

Floats = NDArray[np.floating]

STRIP = 64  # columns, a power of two, that are solved at once
GROWTH = 8  # of the entries of |L| |M|, summed over a row; T/w of a tile of 512


class _Routines(NamedTuple):
    """Routines of BLAS and LAPACK for one dtype, whose numbers are all given by their addresses."""

    gemm: Any
    syrk: Any
    trsm: Any
    trmm: Any
    potrf: Any
    real: Any


def integer(value: int) -> Any:
    """Return the address of a whole number, as Fortran takes it."""
    return ctypes.byref(ctypes.c_int(value))


def _by_address(module: Any, name: str, letters: int, others: int) -> Any:
    """Return a routine that is called by its address.

    letters, others : the numbers of its first arguments, which are letters, and of all others
    """
    capsule = module.__pyx_capi__[name]
    names, addresses = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    names.restype, names.argtypes = ctypes.c_char_p, [ctypes.py_object]
    addresses.restype, addresses.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    types = [ctypes.c_char_p] * letters + [ctypes.c_void_p] * others
    return ctypes.CFUNCTYPE(None, *types)(addresses(capsule, names(capsule)))


def _routines(letter: str, real: Any) -> _Routines:
    return _Routines(
        gemm=_by_address(cython_blas, f"{letter}gemm", 2, 11),
        syrk=_by_address(cython_blas, f"{letter}syrk", 2, 8),
        trsm=_by_address(cython_blas, f"{letter}trsm", 4, 7),
        trmm=_by_address(cython_blas, f"{letter}trmm", 4, 7),
        potrf=_by_address(cython_lapack, f"{letter}potrf", 1, 4),
        real=real,
    )


ROUTINES = {
    np.dtype(np.float64): _routines("d", ctypes.c_double),
    np.dtype(np.float32): _routines("s", ctypes.c_float),
}


def subtract_product(c: Floats, a: Floats, b: Floats) -> None:
    """Subtract a bᵀ from c; a and c are (rows, T), b is a tile."""
    call, (rows, size) = ROUTINES[c.dtype], c.shape
    count, edge = integer(rows), integer(size)
    minus, one = ctypes.byref(call.real(-1)), ctypes.byref(call.real(1))
    left, right, out = b.ctypes.data, a.ctypes.data, c.ctypes.data
    call.gemm(b"T", b"N", edge, count, edge, minus, left, edge, right, edge, one, out, edge)


def subtract_square(c: Floats, a: Floats) -> None:
    """Subtract a aᵀ from the lower triangle of c, a tile; a may be its first rows."""
    call, (rows, size) = ROUTINES[c.dtype], a.shape
    count, edge = integer(rows), integer(size)
    minus, one = ctypes.byref(call.real(-1)), ctypes.byref(call.real(1))
    call.syrk(b"U", b"T", count, edge, minus, a.ctypes.data, edge, one, c.ctypes.data, edge)


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
        """Replace c, (rows, T), by c L⁻ᵀ."""
        call = ROUTINES[c.dtype]
        (rows, size), item, width = c.shape, c.itemsize, self._width
        left, right, inverse = (a.ctypes.data for a in (self._triangle, c, self._inverses))
        count, edge, strip = integer(rows), integer(size), integer(width)
        minus, one = ctypes.byref(call.real(-1)), ctypes.byref(call.real(1))
        for start, accurate in zip(range(0, size, width), self._accurate, strict=True):
            at = right + start * item
            if accurate:
                block = inverse + start * width * item
                call.trmm(b"L", b"U", b"T", b"N", strip, count, one, block, strip, at, edge)
            else:
                block = left + start * (size + 1) * item
                call.trsm(b"L", b"U", b"T", b"N", strip, count, one, block, edge, at, edge)
            end = start + width
            run = (end // width & -(end // width)) * width  # the largest power of two in `end`
            if further := min(run, size - end):
                above, known = left + (end * size + end - run) * item, right + (end - run) * item
                rest, before, at = integer(further), integer(run), right + end * item
                call.gemm(
                    b"T", b"N", rest, count, before, minus, above, edge, known, edge, one, at, edge
                )


def subtract(c: Floats, a: Floats, x: Floats, transpose: bool) -> None:
    """Subtract a x, or aᵀ x, from c; a is a tile, x and c are (T, K)."""
    call, (size, columns) = ROUTINES[c.dtype], c.shape
    count, edge = integer(columns), integer(size)
    minus, one = ctypes.byref(call.real(-1)), ctypes.byref(call.real(1))
    left, right, out = x.ctypes.data, a.ctypes.data, c.ctypes.data
    turned = b"T" if transpose else b"N"
    call.gemm(b"N", turned, count, edge, edge, minus, left, count, right, edge, one, out, count)


def solve(triangle: Floats, x: Floats, transpose: bool) -> None:
    """Replace x, (T, K), by L⁻¹ x, or by L⁻ᵀ x, where L is lower triangular."""
    call, (size, columns) = ROUTINES[x.dtype], x.shape
    count, edge, one = integer(columns), integer(size), ctypes.byref(call.real(1))
    left, right = triangle.ctypes.data, x.ctypes.data
    turned = b"T" if transpose else b"N"
    call.trsm(b"R", b"U", turned, b"N", count, edge, one, left, edge, right, count)


def factorise(c: Floats) -> int:
    """Replace a symmetric matrix, given by its lower triangle, by its factor L, zero above it.

    Return 0, or the number of rows of the least leading minor that is not positive.
    """
    call, edge, info = ROUTINES[c.dtype], integer(len(c)), ctypes.c_int(0)
    call.potrf(b"U", edge, c.ctypes.data, edge, ctypes.byref(info))
    c[:] = np.tril(c)
    return int(info.value)
