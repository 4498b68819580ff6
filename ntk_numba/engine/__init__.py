"""The analytic kernels: from samples to finished tiles."""

from ntk_numba import environment as environment  # checked before Numba is imported
