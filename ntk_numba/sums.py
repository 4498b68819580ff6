"""Sums whose bits do not depend on the order of their terms.

A sum of floating-point numbers depends on the order in which they are added, so a product that
several threads, or several processes, compute in pieces has other bits each time. Here every term
is first rounded to a whole number of quanta, and whole numbers are added exactly. A quantum is a
power of two that follows from a bound of the sum, which is known before the first term.

Source: J. Demmel, H. D. Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers
64 (2015), 2060-2070, who choose the quantum from the terms; a bound needs no pass over them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError

BITS = 61  # of the bound of a sum in quanta; int64 has two more for roundings and to find excess
LARGEST = (1 << 62) - 1  # quanta of a sum; the sum of two such numbers does not overflow
ZERO = -1100  # the exponent of a bound of 0, below that of all numbers
FARTHEST = 1000  # the exponent by which entries of columns are scaled up, at most
MODERATE = 400  # exponents up to which factors of powers of two neither overflow nor underflow


class Sums:
    """Sums of blocks of float64, whose bits do not depend on the order of the blocks.

    A term of entry (i, k) is rounded to a multiple of 2^(r_i + c_k − 61), where 2^r_i and 2^c_k
    are the least powers of two above the bounds of row i and of column k. The error of a sum of n
    terms is therefore at most n/2 quanta, which is n 2^−60 rows[i] columns[k], beside the rounding
    of the result to float64.

    Parameters
    ----------
    rows : (N,) float64
    columns : (K,) float64
        The sum of the magnitudes of all terms of entry (i, k) is at most rows[i]·columns[k], up to
        a factor of 2, so that bounds need not allow for rounding.

    Attributes
    ----------
    totals : (N, K) int64, in the order of Fortran
        The sums so far, in quanta.
    exponents : (N,) and (K,) int
        r and c. Processes that add to one sum have to agree on them.

    Raises
    ------
    ValueError
        If a bound is negative or not finite.

    Examples
    --------
    >>> sums = Sums(np.array([1.0]), np.array([3.0]))
    >>> sums.add(0, np.array([[0.1]]))
    >>> sums.add(0, np.array([[0.2]]))
    >>> sums.result()
    array([[0.3]])
    """

    def __init__(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
        self.exponents = _exponents(rows, "rows"), _exponents(columns, "columns")
        self.totals = np.zeros((len(rows), len(columns)), np.int64, order="F")
        r, c = self.exponents
        self._factors = None
        if all(np.abs(e).max(initial=0) <= MODERATE for e in (r, c)):
            self._factors = np.ldexp(1.0, BITS - r), np.ldexp(1.0, -c)

    def add(self, start: int, block: NDArray[np.float64]) -> None:
        """Add a block (n, K) to the rows from `start` on.

        Two threads must not add to the same rows at the same time.

        Raises
        ------
        ValueError
            If an entry or a sum is larger than its bound, or not a number. The sums are of no
            further use then.
        """
        rows = slice(start, start + len(block))
        with np.errstate(over="ignore"):
            if self._factors is None:
                r, c = self.exponents
                quanta = np.ldexp(block, BITS - r[rows, None] - c)
            else:
                r, c = self._factors
                quanta = block * r[rows, None]
                quanta *= c
            np.rint(quanta, out=quanta)
        if quanta.size and not max(quanta.max(), -quanta.min()) <= LARGEST:
            raise _excess(start, ~(np.abs(quanta) <= LARGEST))
        self._add(start, quanta.astype(np.int64))

    def merge(self, totals: NDArray[np.int64], start: int = 0) -> None:
        """Add totals (n, K) of other sums with the same exponents to the rows from `start` on.

        Raises
        ------
        ValueError
            See `add`.
        """
        wrong = (totals > LARGEST) | (totals < -LARGEST)
        if wrong.any():
            raise _excess(start, wrong)
        self._add(start, totals)

    def _add(self, start: int, quanta: NDArray[np.int64]) -> None:
        """Add whole numbers of at most LARGEST to the rows from `start` on."""
        totals = self.totals[start : start + len(quanta)]
        totals += quanta
        if totals.size and max(int(totals.max()), -int(totals.min())) > LARGEST:
            raise _excess(start, (totals > LARGEST) | (totals < -LARGEST))

    def result(self) -> NDArray[np.float64]:
        """Return the sums, (N, K)."""
        r, c = self.exponents
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.totals.astype(float), r[:, None] + c - BITS)


def balanced(
    columns: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scale columns by powers of two, so that products with them do not overflow.

    With |K_ij| ≤ rows[i]·weights[j], the terms of each entry of K @ scaled are together at most
    rows[i], so that ``Sums(rows, np.ones(K))`` holds the product.

    Parameters
    ----------
    columns : (M, K) finite
    weights : (M,) finite, not negative

    Returns
    -------
    scaled : (M, K), a new array in the order of Fortran, whose columns are contiguous
    exponents : (K,) int
        columns = scaled · 2^exponents, but for entries of scaled that are too small for float64.
    """
    scaled = np.empty(columns.shape, order="F")
    exponents = np.zeros(columns.shape[1], np.int64)
    heavy, unit = _normalised(weights)
    for k in range(columns.shape[1]):
        light, units = _normalised(columns[:, k])
        bound = float(np.sum(heavy * np.abs(light)))  # not by BLAS: its bits depend on threads
        exponents[k] = max(math.frexp(bound)[1] + unit, -FARTHEST) + units
        np.ldexp(columns[:, k], -exponents[k], out=scaled[:, k])
    return scaled, exponents


def _normalised(array: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return a vector that is scaled to a maximum in [½, 1), and the exponent."""
    exponent = int(np.frexp(np.abs(array).max(initial=0.0))[1])
    return np.ldexp(array, -exponent), exponent


def _exponents(bounds: NDArray[np.float64], name: str) -> NDArray[np.int64]:
    """Return the exponents of the least powers of two above the bounds."""
    bounds = np.asarray(bounds, float)
    if not (np.isfinite(bounds) & (bounds >= 0)).all():
        raise InvalidValueError(f"the bounds of {name} must be finite and not negative")
    exponents = np.frexp(bounds)[1].astype(np.int64)
    return np.where(bounds == 0, ZERO, exponents)


def _excess(start: int, wrong: NDArray[np.bool_]) -> InvalidValueError:
    """Return the error for a sum that is larger than its bound."""
    row, column = np.argwhere(wrong)[0]
    return InvalidValueError(
        f"the sum of row {start + row}, column {column} (counted from 0) is not a number, or "
        f"larger than its bound"
    )
