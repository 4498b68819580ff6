"""Predictions of infinitely wide networks."""
