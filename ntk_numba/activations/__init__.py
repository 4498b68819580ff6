"""Activations: one file per family, which has σ, σ', the dual, and the source of its formula.

`ntk_numba.activations` is public: `get` returns an activation by its name, and `Numerical` makes
one of any Python function.
"""

from ntk_numba.activations.numerical import Numerical
from ntk_numba.activations.scaled import normalised
from ntk_numba.activations.table import (
    get,
    names,
    recall,
    register,
)
from ntk_numba.duals.base import Activation

__all__ = ["Activation", "Numerical", "get", "names", "normalised", "recall", "register"]
