"""Functions that are given piece by piece, for arrays of real or complex numbers."""

import numpy as np


def cases(x, *values):
    """The last value, or the first one whose bound the real part of x is not above.

    Values and bounds alternate: ``cases(x, left, 0, right)`` is left up to 0 and right above.
    """
    out = values[-1]
    for value, bound in zip(values[-3::-2], values[-2::-2], strict=True):
        out = np.where(np.real(x) > bound, out, value)
    return out[()]  # a number of a number
