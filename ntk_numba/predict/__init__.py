"""Predictions of infinitely wide networks: training in closed form."""
