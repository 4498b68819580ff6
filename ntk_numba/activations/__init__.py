"""Activations: one family a file, each with σ, σ' and the dual of its formula's source."""

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
