"""Sums whose bits do not depend on the order of their terms.

A sum of floating-point numbers depends on the order in which they are added, so a product that
several threads, or several processes, compute in pieces has other bits each time. Here every term
is first rounded to a whole number of quanta, and whole numbers are added exactly. A quantum is a
power of two that follows from a bound of the sum, which is known before the first term. It is so
small that a sum has all digits of float64 even if it is 1e-12 times its bound.

Source: J. Demmel, H. D. Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers
64 (2015), 2060-2070, who choose the quantum from the terms; a bound needs no pass over them.
"""

import math
import threading

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError

Doubles = NDArray[np.float64]
Totals = NDArray[np.int64]

BITS = 60  # of the bound of a sum in units
LARGEST = (1 << 62) - 1  # units of a sum; a larger one shows even if int64 has wrapped, see `_add`
MORE = 38  # bits of a quantum below a unit; the rests of 2^24 terms fit in int64
ZERO = -1100  # the exponent of a bound of 0, below that of all numbers
FARTHEST = 1000  # the exponent by which entries of columns are scaled up, at most
MODERATE = 400  # exponents up to which factors of powers of two neither overflow nor underflow


class Sums:
    """Sums of blocks of float64, whose bits do not depend on the order of the blocks.

    A term x of entry (i, k) is counted in units of 2^(r_i + c_k − 60), where 2^r_i and 2^c_k are
    the least powers of two above the bounds of row i and of column k: x is the nearest whole number
    of units, which is added to `totals`, and a rest, which is added to `rests` as a whole number of
    2^−38 units without the digits behind it. So the error of a sum of n terms is less than
    n 2^−96 rows[i] columns[k], beside the rounding of the result to float64.

    Parameters
    ----------
    rows : (N,) float64
    columns : (K,) float64
        The sum of the magnitudes of all terms of entry (i, k) is at most rows[i]·columns[k], up to
        a factor of 2, so that bounds need not allow for rounding.

    Attributes
    ----------
    totals, rests : (N, K) int64, in the order of Fortran
        The sums so far, in units, and what they lack, in 2^−38 units.
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

    def __init__(self, rows: Doubles, columns: Doubles) -> None:
        self.exponents = _exponents(rows, "rows"), _exponents(columns, "columns")
        self.totals, self.rests = (
            np.zeros((len(rows), len(columns)), np.int64, order="F") for _ in range(2)
        )
        self._factors: tuple[Doubles, Doubles | None] | None = None
        r, c = self.exponents
        if all(np.abs(e).max(initial=0) <= MODERATE for e in (r, c)):
            if c.size and (c == c[0]).all():  # one factor is enough
                self._factors = np.ldexp(1.0, BITS - r - c[0]), None
            else:
                self._factors = np.ldexp(1.0, BITS - r), np.ldexp(1.0, -c)
        self._own = threading.local()

    def add(self, start: int, block: Doubles) -> None:
        """Add a block (n, K) to the rows from `start` on; one in the order of Fortran is faster.

        Two threads must not add to the same rows at the same time.

        Raises
        ------
        ValueError
            If an entry or a sum is larger than its bound, or not a number. The sums are of no
            further use then.
        """
        rows = slice(start, start + len(block))
        # As rows in memory, in arrays that are used again: new ones cost more than the work
        terms, units, whole = self._buffers(len(block))
        try:
            with np.errstate(over="ignore", invalid="raise"):
                if self._factors is None:
                    r, c = self.exponents
                    np.ldexp(block.T, BITS - c[:, None] - r[rows], out=terms)
                else:
                    of_rows, of_columns = self._factors
                    np.multiply(block.T, of_rows[rows], out=terms)
                    if of_columns is not None:
                        terms *= of_columns[:, None]
                np.rint(terms, out=units)
                terms -= units
                terms *= 2.0**MORE
                np.copyto(whole, units, casting="unsafe")
                self._add(start, whole.T)
                np.copyto(whole, terms, casting="unsafe")
                self.rests[rows] += whole.T
        except FloatingPointError:  # what int64 does not hold
            raise _excess(start, ~(np.abs(units.T) <= LARGEST)) from None

    def _buffers(self, rows: int) -> tuple[Doubles, Doubles, Totals]:
        """Return this thread's memory for a block of so many rows, transposed."""
        own, columns = self._own, self.totals.shape[1]
        if rows > getattr(own, "rows", -1):
            own.terms, own.units = (np.empty(columns * rows) for _ in range(2))
            own.whole, own.rows = np.empty(columns * rows, np.int64), rows
        shape = columns, rows
        size = columns * rows
        return (
            own.terms[:size].reshape(shape),
            own.units[:size].reshape(shape),
            own.whole[:size].reshape(shape),
        )

    def merge(self, totals: Totals, rests: Totals, start: int = 0) -> None:
        """Add totals and rests (n, K) of other sums with the same exponents to rows from `start`.

        Raises
        ------
        ValueError
            See `add`.
        """
        wrong = (totals > LARGEST) | (totals < -LARGEST)
        if wrong.any():
            raise _excess(start, wrong)
        self._add(start, totals)
        self.rests[start : start + len(rests)] += rests

    def _add(self, start: int, units: Totals) -> None:
        """Add whole numbers to the totals of the rows from `start` on.

        A total of at most LARGEST = 2^62 − 1 in magnitude plus any int64 is either exact, or wraps
        to at least 2^62 in magnitude.
        """
        totals = self.totals[start : start + len(units)]
        totals += units
        if totals.size and max(int(totals.max()), -int(totals.min())) > LARGEST:
            raise _excess(start, (totals > LARGEST) | (totals < -LARGEST))

    def result(self) -> Doubles:
        """Return the sums, (N, K), in the order of Fortran."""
        r, c = self.exponents
        found = np.empty(self.totals.shape, order="F")
        for k in range(found.shape[1]):  # with memory for one column
            units = self.totals[:, k]
            leading = units.astype(float)
            # what float64 does not hold of the totals is at most 2^9 units
            small = ((units - leading.astype(np.int64)) << MORE) + self.rests[:, k]
            leading += small * 2.0**-MORE
            with np.errstate(over="ignore", under="ignore"):
                np.ldexp(leading, r + c[k] - BITS, out=found[:, k])
        return found


def balanced(columns: Doubles, weights: Doubles) -> tuple[Doubles, Totals]:
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


def unbalanced(product: Doubles, exponents: Totals) -> Doubles:
    """Return a product with columns that `balanced` has scaled in the units of the columns.

    It replaces `product`. Entries that float64 does not hold are infinite.
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.ldexp(product, exponents, out=product))


def _normalised(array: Doubles) -> tuple[Doubles, int]:
    """Return a vector that is scaled to a maximum in [½, 1), and the exponent."""
    exponent = int(np.frexp(np.abs(array).max(initial=0.0))[1])
    return np.ldexp(array, -exponent), exponent


def _exponents(bounds: Doubles, name: str) -> Totals:
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
