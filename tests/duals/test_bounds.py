"""The bound of a series is never smaller than its error: thousands of random pairs."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import activations

X, W = np.polynomial.legendre.leggauss(20)
T = (np.arange(-8.5, 8.5)[:, None] + 0.5 + X / 2).ravel()
WEIGHTS = np.tile(W / 2, 17) * np.exp(-T * T / 2) / np.sqrt(2 * np.pi)
PAIRS = 700
RULE = 1e-13  # what the rule below is good to, relative to √(K(q)K(q'))


def direct(f, q1, q2, rho):
    """E[f(u)f(v)] by a rule in two dimensions."""
    s = np.sqrt(max(0.0, 1 - rho * rho))
    inner = f(np.sqrt(q2) * (rho * T[:, None] + s * T)) @ WEIGHTS
    return (WEIGHTS * f(np.sqrt(q1) * T)) @ inner


@pytest.mark.parametrize("name", ["tanh:1e-4", "silu:1e-7", "tanh", "sigmoid:1e-2", "mish:1e-9"])
def test_no_error_is_larger_than_its_bound(name):
    rng = np.random.default_rng(len(name))
    function = activations.get(name)
    bound, bound_rate = function.dual(2.0).bounds
    assert 0 < bound <= function.tolerance and 0 < bound_rate <= function.tolerance
    q1, q2 = 2 * rng.random((2, PAIRS)) ** 3
    rho = np.cos(np.pi * rng.random(PAIRS))
    q1[:100] = q2[:100] = 2.0  # where the bound is reached
    rho[:50], rho[50:60], rho[100:150] = 1, -1, 1
    # of the pairs, and of each sample with itself
    k, k_dot = nk.dual(function, q1, q2, rho)
    largest = 0.0
    for a, b, r, got, got_dot in zip(q1, q2, rho, k, k_dot, strict=True):
        for f, value, most in ((function, got, bound), (function.derivative, got_dot, bound_rate)):
            scale = np.sqrt((WEIGHTS @ f(np.sqrt(a) * T) ** 2) * (WEIGHTS @ f(np.sqrt(b) * T) ** 2))
            error = abs(value - direct(f, a, b, r)) / scale
            assert error <= most + RULE
            largest = max(largest, error / most)
    # and it is not far from them, as long as rounding does not hide them
    assert largest > 0.3 or function.tolerance < 1e-8
