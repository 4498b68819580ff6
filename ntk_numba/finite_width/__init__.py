"""Networks of finite width, computed by their definition, to check the kernels of infinite width.

This package uses no formula of the infinite-width kernels, and the engine uses nothing of this
package. Both take the description of a network, so that their agreement is evidence for both.
"""

from ntk_numba.finite_width.empirical import empirical_nngp, empirical_ntk
from ntk_numba.finite_width.monte_carlo import MonteCarlo, extrapolate, monte_carlo
from ntk_numba.finite_width.networks import Parameters, forward, sample
from ntk_numba.finite_width.training import History, train

__all__ = [
    "History",
    "MonteCarlo",
    "Parameters",
    "empirical_nngp",
    "empirical_ntk",
    "extrapolate",
    "forward",
    "monte_carlo",
    "sample",
    "train",
]
