"""The accuracy that entries have, stated once.

The error of an entry of Σ or Θ, relative to √(K(x,x)·K(x',x')), is at most `promise` for
activations that are linear but for one kink at 0. For other closed forms it is that times the
condition number which the family's file states; for series, the bounds of `FittedNetwork.error` are
added.
"""

import numpy as np

from ntk_numba.network import MLP

DOUBLE, SINGLE = 1e-14, 1e-6  # SINGLE up to 8 layers, and in proportion to them beyond
CONDITION_DOUBLE, CONDITION_SINGLE = 100, 30  # the largest condition numbers that tests have met


def promise(depth: int, dtype: np.dtype) -> float:
    """Return the largest error of a network of one kink at 0, see above."""
    return SINGLE * max(1, depth / 8) if dtype == np.float32 else DOUBLE


def tolerance(net: MLP, dtype: np.dtype) -> float:
    """Return by how much two computations of an entry may differ, errors of series aside."""
    condition = (
        1
        if all(a.facts.well_conditioned for a in net.activation)
        else (CONDITION_SINGLE if dtype == np.float32 else CONDITION_DOUBLE)
    )
    return 2 * promise(net.depth, dtype) * condition
