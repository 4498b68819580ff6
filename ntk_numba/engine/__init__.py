"""The analytic kernels: from samples to finished tiles."""
