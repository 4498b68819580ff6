"""Activations: one family a file, each with σ, σ' and the dual of its formula's source."""

from ntk_numba.activations.base import Activation
from ntk_numba.activations.scaled import normalised
from ntk_numba.activations.table import get, names

__all__ = ["Activation", "get", "names", "normalised"]
