"""Factors and spectra of kernel matrices in memory."""
