"""The bound of a series is never smaller than its error: thousands of random pairs."""

import numpy as np
import pytest
from gauss import mean_of_pair, normal
from marks import marked

import ntk_numba as nk
from ntk_numba import activations

COARSE = normal(np.arange(-8.5, 9))
FINE = normal(np.arange(-10, 10.25, 0.5))
PAIRS = 700
RULE = 1e-13  # the error of the coarse rule, relative to √(K(q)K(q'))


def errors(function, q1, q2, rho, rule):
    """Return the errors of K and of K̇, relative to their values at ρ = 1, (2, pairs)."""
    t, weights = rule
    out = []
    for f, values in zip(
        (function, function.derivative), nk.dual(function, q1, q2, rho), strict=True
    ):
        for a, b, r, got in zip(q1, q2, rho, values, strict=True):
            scale = np.sqrt((weights @ f(np.sqrt(a) * t) ** 2) * (weights @ f(np.sqrt(b) * t) ** 2))
            out.append(abs(got - mean_of_pair(f, a, b, r, rule)) / scale)
    return np.reshape(out, (2, -1))


@pytest.mark.parametrize(
    "name",
    marked(pytest.mark.slow, ["tanh:1e-4", "silu:1e-7", "tanh", "sigmoid:1e-2", "mish:1e-9"]),
)
def test_no_error_is_larger_than_its_bound(name):
    rng = np.random.default_rng(len(name))
    function = activations.get(name)
    bounds = np.array(function.dual(2.0).bounds)
    assert (bounds > 0).all() and (bounds <= function.tolerance).all()
    q1, q2 = 2 * rng.random((2, PAIRS)) ** 3
    rho = np.cos(np.pi * rng.random(PAIRS))
    q1[:100] = q2[:100] = 2.0  # where the bound is reached
    rho[:50], rho[50:60], rho[100:150] = 1, -1, 1
    found = errors(function, q1, q2, rho, COARSE)
    assert (found <= bounds[:, None] + RULE).all()
    # the largest error is near the bound, unless rounding hides it
    assert (found.max(1) / bounds).max() > 0.3 or function.tolerance < 1e-8


@pytest.mark.parametrize(
    "name",
    marked(
        pytest.mark.slow,
        ["tanh", "tanh:1e-4", "sigmoid", "silu", "softplus:1e-3", "mish:1e-6", "gelu_tanh",
         "arctan:1e-6"],
        but=("tanh", "tanh:1e-4", "silu", "softplus:1e-3"),
    ),
)  # fmt: skip
def test_no_error_of_a_few_pairs_is_larger_by_a_finer_rule(name):
    function = activations.get(name)
    bounds = np.array(function.dual(2.0).bounds)
    assert (bounds > 0).all() and (bounds <= function.tolerance).all()
    rng = np.random.default_rng(0)
    q1, q2 = 2 * rng.random((2, 25)) ** 2
    rho = np.concatenate([[1, -1, 1, -1, 0], rng.uniform(-1, 1, 20)])
    q1[:2] = q2[:2] = 2.0
    found = errors(function, q1, q2, rho, FINE)
    assert (found <= bounds[:, None] + np.array([[4e-15], [2e-14]])).all()
