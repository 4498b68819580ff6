"""Chebyshev series of extended numbers."""

import numpy as np
from numpy.polynomial import chebyshev

from ntk_numba.compiled.policy import kernel
from ntk_numba.extended.arithmetic import add_pairs, multiply_pairs, normal
from ntk_numba.extended.array import PI, Extended, Parts, extended

BLOCK = 64  # arguments at a time


def series(x: Extended, coefficients: Extended) -> Extended:
    """Return Σ_m coefficients[m, i] T_m(x_j), (values, …), by Clenshaw's recurrence.

    x : (…), from −1 to 1
    coefficients : (terms, values), at least two terms, none of them above 2^200 or below 2^-200
    """
    flat = np.ascontiguousarray(x.reshape(x.size).parts)
    high, low = np.ldexp(flat[:2], (512 * flat[2]).astype(int))
    high_c, low_c, k = coefficients.parts
    assert not k.any()
    out = np.empty((3, coefficients.shape[1], x.size))
    _sum_series(np.ascontiguousarray(high_c), np.ascontiguousarray(low_c), high, low, out)
    return Extended(out.reshape(3, coefficients.shape[1], *x.shape))


@kernel()
def _sum_series(c: Parts, c_low: Parts, x: Parts, x_low: Parts, out: Parts) -> None:
    """Fill out with the sums, see `series`."""
    terms, values = c.shape
    b, b_low, before, before_low = (
        np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK),
    )  # fmt: skip
    for i in range(values):
        high, low, k = out[0, i], out[1, i], out[2, i]
        for begin in range(0, x.size, BLOCK):
            count = min(BLOCK, x.size - begin)
            v, v_low = x[begin : begin + count], x_low[begin : begin + count]
            for j in range(count):
                b[j], b_low[j], before[j], before_low[j] = 0.0, 0.0, 0.0, 0.0
            for m in range(terms - 1, 0, -1):
                own, own_low = c[m, i], c_low[m, i]
                for j in range(count):
                    p, p_low = multiply_pairs(2 * v[j], 2 * v_low[j], b[j], b_low[j])
                    p, p_low = add_pairs(p, p_low, -before[j], -before_low[j])
                    before[j], before_low[j] = b[j], b_low[j]
                    b[j], b_low[j] = add_pairs(own, own_low, p, p_low)
            own, own_low = c[0, i], c_low[0, i]
            for j in range(count):
                p, p_low = multiply_pairs(v[j], v_low[j], b[j], b_low[j])
                p, p_low = add_pairs(p, p_low, -before[j], -before_low[j])
                p, p_low = add_pairs(own, own_low, p, p_low)
                high[begin + j], low[begin + j], k[begin + j] = normal(p, p_low, 0.0)


def angles(count: int) -> Extended:
    """Return the angles whose cosines are the Chebyshev points of [−1, 1], (count,)."""
    return PI * (np.arange(count) + 0.5) / count


def points(count: int) -> Extended:
    """Return the Chebyshev points of [−1, 1], (count,)."""
    return np.cos(angles(count))


def to_coefficients(count: int) -> Extended:
    """Return the matrix that maps values at `points` to Chebyshev coefficients, (count, count)."""
    # by cosines of multiples of the angle: the recurrence would lose digits at high degrees
    weights = np.full((count, 1), 2.0)
    weights[0] = 1.0
    return np.cos(np.arange(count)[:, None] * angles(count)) * weights / count


def to_powers(count: int) -> Extended:
    """Return the matrix that maps Chebyshev coefficients to those of powers, (count, count)."""
    powers = np.zeros((count, count))
    for k in range(count):
        powers[: k + 1, k] = chebyshev.cheb2poly(np.eye(count)[k])[: k + 1]
    return extended(powers)
