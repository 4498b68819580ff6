"""Products of matrices whose bits are the same on all processors, unlike those of BLAS."""

import math

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.chains import scalar_product
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.policy import kernel
from ntk_numba.extended.arithmetic import add_numbers, multiply_numbers
from ntk_numba.extended.array import FUNCTIONS, Extended, Parts, concatenate

Doubles = NDArray[np.float64]


def dot(a: Doubles, b: Doubles) -> float:
    """Return Σ a_k b_k of two arrays of float64."""
    return float(_dot(np.ascontiguousarray(a), np.ascontiguousarray(b)))


@kernel()
def _dot(a: Doubles, b: Doubles) -> float:
    """Return Σ a_k b_k."""
    return scalar_product(a, b)


def dots(rows: Doubles, b: Doubles) -> Doubles:
    """Return Σ_k rows[i, k] b_k, (len(rows),)."""
    out = np.empty(len(rows))
    _dots(np.ascontiguousarray(rows), np.ascontiguousarray(b), out)
    return out


@kernel()
def _dots(rows: Doubles, b: Doubles, out: Doubles) -> None:
    """Fill out with Σ_k rows[i, k] b_k."""
    for i in range(out.size):
        out[i] = scalar_product(rows[i], b)


def length(v: Doubles) -> float:
    """Return √Σ v_k²."""
    return math.sqrt(dot(v, v))


def product(a: Doubles, b: Doubles) -> Doubles:
    """Return the matrix product of two arrays of float64, (m, k) and (k, n)."""
    out = np.zeros((a.shape[0], b.shape[1]))
    _product(np.ascontiguousarray(a), np.ascontiguousarray(b), out)
    return out


@kernel()
def _product(a: Doubles, b: Doubles, out: Doubles) -> None:
    """Add a·b to out, the terms of each entry in order."""
    for i in range(a.shape[0]):
        total = out[i]
        for k in range(a.shape[1]):
            factor, row = a[i, k], b[k]
            for j in range(total.size):
                total[j] = fma(factor, row[j], total[j])


def _extended_product(a: Extended, b: Extended) -> Extended:
    """Return the matrix product of two extended arrays, (m, k) and (k, n)."""
    out = np.zeros((3, a.shape[0], b.shape[1]))
    _add_products(np.ascontiguousarray(a.parts), np.ascontiguousarray(b.parts), out)
    return Extended(out)


@kernel()
def _add_products(a: Parts, b: Parts, out: Parts) -> None:
    """Add a·b to out, the terms of each entry in order."""
    for i in range(a.shape[1]):
        high, low, k = out[0, i], out[1, i], out[2, i]
        for m in range(a.shape[2]):
            factor = a[0, i, m], a[1, i, m], a[2, i, m]
            y, y_low, y_k = b[0, m], b[1, m], b[2, m]
            for j in range(high.size):
                term = multiply_numbers(factor, (y[j], y_low[j], y_k[j]))
                high[j], low[j], k[j] = add_numbers((high[j], low[j], k[j]), term)


def solve(matrix: Extended, right: Extended) -> Extended:
    """Return the solution of a system of equations, by elimination with pivots.

    matrix : (n, n);  right : (n, k)
    """
    n = len(matrix)
    rows = concatenate([matrix, right], axis=1)
    for i in range(n):
        pivot = i + int(np.argmax(abs(rows[i:, i]).astype(float)))
        rows[[i, pivot]] = rows[[pivot, i]]
        rows[i] = rows[i] / rows[i, i]
        others = np.arange(n) != i
        rows[others] = rows[others] - rows[others, i : i + 1] * rows[i]
    return rows[:, n:]


FUNCTIONS[np.matmul] = _extended_product
