"""The base class of duals, and the mathematics that the families of activations share."""

from ntk_numba import environment as environment  # checked before Numba is imported
