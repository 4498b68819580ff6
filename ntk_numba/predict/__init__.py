"""Predictions: kernel regression, Gaussian processes, and training in closed form."""
