"""The accuracy of entries, stated once for the engine, the checks and the tests.

The error of an entry of Σ or Θ, relative to √(K(x,x)·K(x',x')), is at most `promise` for
activations that are linear but for one kink at 0. For other closed forms it is larger by the
condition number that the family's file states; for series, the bounds of the fitted network are
added.
"""

import numpy as np

DOUBLE, SINGLE = 1e-14, 1e-6  # SINGLE is for up to 8 layers; for more it grows in proportion
CONDITION_DOUBLE, CONDITION_SINGLE = 100, 30  # the largest condition numbers that tests have met
SLACK = 64  # the number of roundings in which an entry may exceed the bound of Cauchy and Schwarz


def promise(depth: int, dtype: np.dtype) -> float:
    """Return the largest error if all activations are linear but for one kink at 0."""
    return SINGLE * max(1, depth / 8) if dtype == np.float32 else DOUBLE


def difference(depth: int, dtype: np.dtype, well_conditioned: bool) -> float:
    """Return by how much two computations of an entry may differ, errors of series aside.

    well_conditioned : whether all activations are linear but for one kink at 0
    """
    worst = CONDITION_SINGLE if dtype == np.float32 else CONDITION_DOUBLE
    return 2 * promise(depth, dtype) * (1 if well_conditioned else worst)


def schwarz_slack(depth: int, dtype: np.dtype) -> float:
    """Return by how much |K(x,x')| may exceed √(K(x,x)·K(x',x')) by rounding, relative to it."""
    return SLACK * float(np.finfo(dtype).eps) * max(1, depth / 8)
