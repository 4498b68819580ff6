"""Piecewise functions of arrays of real or complex numbers."""

import numpy as np


def cases(x, *values):
    """Return the first value whose bound is not below the real part of x, or the last value.

    Values and bounds alternate: ``cases(x, left, 0, right)`` is `left` up to 0 and `right` above.
    """
    out = values[-1]
    for value, bound in zip(values[-3::-2], values[-2::-2], strict=True):
        out = np.where(np.real(x) > bound, out, value)
    return out[()]  # a number if x is a number
