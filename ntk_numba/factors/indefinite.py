"""Why a matrix is not positive definite: equal rows, the least eigenvalue, and a ridge that helps.

Only an error needs this, so it may take several times as long as the factorisation that failed.
"""

import math

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from xxhash import xxh3_128_digest

from ntk_numba.errors import NotPositiveDefiniteError
from ntk_numba.factors.packed import Packed, start_vector

Floats = NDArray[np.floating]

DENSE = 2048  # rows of a matrix, at most, whose least eigenvalue is computed exactly
POWERS = 20  # of an inverse, by which the least eigenvalue is found otherwise
LANCZOS = 10  # restarts, at most, for that of a larger one
ESTIMATE = 0.01  # the relative error of what they find


def explain(
    packed: Packed, row: int, exponent: int, name: str, margin: int = 1
) -> NotPositiveDefiniteError:
    """Return the error for a matrix A = K + ridge·I whose factorisation has failed.

    Parameters
    ----------
    packed : K, scaled by 2^−exponent; its array is overwritten
    row : the row at which the factorisation fails
    name : the name of the matrix
    margin : by how much the excess of the ridge is multiplied, if the factorisation that failed
        rounds differently from that of `Packed`
    """
    ridge = packed.shift
    packed.restore(0.0)
    array = packed.array
    mean = float(packed.diagonal.mean())
    pair = equal_rows(array)
    low, high = _extremes(packed)
    limits = np.finfo(array.dtype)
    negative = max(-(low or 0.0), 0.0)
    doubt = ESTIMATE * negative if len(array) > DENSE else 0.0
    excess = max(float(limits.eps) * max(high, negative), doubt, float(limits.tiny))
    for _ in range(60):
        least = round_up(math.ldexp(negative + excess, exponent))
        packed.restore(math.ldexp(least, -exponent))  # the very number that the message advises
        if packed.factorise() == 0:
            least = round_up(math.ldexp(negative + margin * excess, exponent))
            break
        excess *= 2
    if low is None:
        low = _least_by_inverses(packed)
    eigenvalue = math.ldexp(low, exponent)
    added = f" with a ridge of {math.ldexp(ridge, exponent):.2g}" if ridge else ""
    equal = f"; rows {pair[0]} and {pair[1]} are equal" if pair else ""
    relative = (
        f", {round_up(math.ldexp(least, -exponent) / mean):.2g} of the mean of the diagonal,"
        if mean > 0
        else ""
    )
    error = NotPositiveDefiniteError(
        f"{name}{added} is not positive definite in {array.dtype}: its factorisation fails at row "
        f"{row} (counted from 0){equal}. Without a ridge its least eigenvalue is "
        f"{eigenvalue:.2g}. An absolute ridge of {least:.2g}{relative} is enough"
        + ("; or compute it in float64" if array.dtype == np.float32 else "")
    )
    error.row, error.least_eigenvalue, error.least_ridge = row, eigenvalue, least
    error.equal = pair
    return error


def equal_rows(array: Floats) -> tuple[int, int] | None:
    """Return the first pair of rows that are exactly equal, or None."""
    seen: dict[bytes, int] = {}
    for row, values in enumerate(array):
        first = seen.setdefault(xxh3_128_digest((values + 0.0).data), row)  # −0.0 equals 0.0
        if first != row and np.array_equal(array[first], values):
            return first, row
    return None


def _extremes(packed: Packed) -> tuple[float | None, float]:
    """Return the least and the largest eigenvalue of a symmetric matrix, the latter roughly.

    The least is None if it is among so many that are nearly equal that Lanczos' method, which is
    used for large matrices, does not separate it.
    """
    array, size = packed.array, len(packed.array)
    if size <= DENSE:
        values = scipy.linalg.eigvalsh(array.astype(float))
        return float(values[0]), float(values[-1])
    operator = LinearOperator(
        (size, size), lambda v: (packed @ v.reshape(size, 1))[:, 0], dtype=np.float64
    )
    if not array.any():
        return 0.0, 0.0
    options = {"v0": start_vector(size), "tol": ESTIMATE, "return_eigenvectors": False}
    high = float(eigsh(operator, 1, which="LA", **options)[0])
    try:
        return float(eigsh(operator, 1, which="SA", maxiter=LANCZOS, **options)[0]), high
    except ArpackError:
        return None, high


def _least_by_inverses(packed: Packed) -> float:
    """Return the least eigenvalue of K, roughly, from the factor of K + shift·I.

    The error is a fraction of the shift, which is about as large as the eigenvalue, or a rounding
    error.
    """
    column = start_vector(len(packed.array))[:, None]
    for _ in range(POWERS):
        column = packed.substitute(column / np.linalg.norm(column))
    return 1 / float(np.linalg.norm(column)) - packed.shift


def round_up(value: float) -> float:
    """Return a number rounded up to two significant digits."""
    if not value > 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.1e}")
