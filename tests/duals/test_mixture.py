"""Duals of mixtures of Gaussians, against means over two Gaussian variables by quadrature."""

from itertools import pairwise

import numpy as np
import pytest
from marks import marked
from mpmath import mp

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.duals import mixture, octaves

SIGMA = {
    "tanh": np.tanh,
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
    "softsign": lambda x: x / (1 + abs(x)),
    "arctan": np.arctan,
}
SLOPE = {
    "tanh": lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2,
    "sigmoid": lambda x: 1 / (4 * np.cosh(np.clip(x, -600, 600) / 2) ** 2),
    "softsign": lambda x: 1 / (1 + abs(x)) ** 2,
    "arctan": lambda x: 1 / (1 + x * x),
}
MIXTURES = {
    "tanh": mixture.of_tanh, "sigmoid": mixture.of_sigmoid,
    "softsign": mixture.of_softsign, "arctan": mixture.of_arctan,
}  # fmt: skip
X, W = np.polynomial.legendre.leggauss(20)


def grid(std, finest):
    """Return nodes and weights for integrals over ±9.5 std of functions that change around 0."""
    right = [0, *np.geomspace(1e-3, 0.5, 12)]
    while right[-1] < 9.5 * std:
        right.append(right[-1] + max(0.3, 0.15 * right[-1]))
    ends = np.concatenate([-np.array(right[::-1]), right, np.arange(-9.5, 9.6, finest) * std])
    ends = np.unique(ends[abs(ends) <= 9.6 * std])
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    return (middle + half * X).ravel(), (half * W).ravel()


def mean(f, q, p, rho):
    """Return E[f(u) f(v)] for variances q and p and the correlation ρ."""
    spread = np.sqrt(p * (1 - rho**2))
    u, u_weights = grid(np.sqrt(q), 0.25)
    v, v_weights = grid(np.sqrt(p), 0.5 * np.sqrt(1 - rho**2))
    u_weights = u_weights * np.exp(-u * u / (2 * q)) / np.sqrt(2 * np.pi * q)
    values = v_weights * f(v) / np.sqrt(2 * np.pi) / spread
    total = 0.0
    for first, last in pairwise([*range(0, u.size, 500), u.size]):
        at = u[first:last]
        distance = (v - rho * np.sqrt(p / q) * at[:, None]) / spread
        total += (u_weights[first:last] * f(at)) @ (np.exp(-distance * distance / 2) @ values)
    return total


PAIRS = [(1e4, 1e4, 0.3), (2.0, 30.0, -0.9), (0.01, 1e4, 0.5), (500.0, 900.0, 0.995)]
CASES = [(name, *pair) for name in SLOPE for pair in PAIRS]


@pytest.mark.parametrize(
    ("name", "q", "p", "rho"),
    marked(pytest.mark.slow, CASES, but=[(n, *PAIRS[k]) for k, n in enumerate(SLOPE)]),
)
def test_dual_is_the_mean_over_two_variables(name, q, p, rho):
    k, k_dot = nk.dual(name, q, p, rho)
    sizes = [np.sqrt(np.prod([mean_of_square(f[name], v) for v in (q, p)])) for f in (SIGMA, SLOPE)]
    assert abs(k - mean(SIGMA[name], q, p, rho)) <= 1e-13 * sizes[0]
    assert abs(k_dot - mean(SLOPE[name], q, p, rho)) <= 1e-12 * sizes[1]


def mean_of_square(f, q):
    x, weights = grid(np.sqrt(q), 0.25)
    return weights @ (f(x) ** 2 * np.exp(-x * x / (2 * q))) / np.sqrt(2 * np.pi * q)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_the_derivative(name):
    x = np.concatenate([[0], np.geomspace(1e-12, 300, 400)])
    y, weights, constant = MIXTURES[name]()
    assert (weights > 0).all()
    np.testing.assert_allclose(weights @ np.exp(-y[:, None] * x * x), SLOPE[name](x), atol=3e-14)
    assert constant == SIGMA[name](np.zeros(1))[0]


@pytest.mark.parametrize("name", marked(pytest.mark.slow, list(MIXTURES), but=["tanh"]))
def test_bounds_are_below_any_tolerance_for_any_variance(name):
    for q in (1e-8, 0.3, 1e4):
        assert max(activations.get(name).dual(q).bounds) <= 1e-10
    assert max(activations.get(f"{name}:1e-12").dual(50.0).bounds) <= 1e-12
    fewer = activations.get(f"{name}:1e-3").dual(50.0)
    assert fewer.count < activations.get(name).dual(50.0).count


def test_the_rule_of_octaves_sums_all_degrees():
    """Σ b_k u^k/k = arcsin u and Σ b_k u^(k−1) = 1/√(1 − u²), with the errors that are stated."""
    degree, weights = octaves.rule(24)
    assert (weights > 0).all()
    b = np.exp(mixture._log_b(degree))
    log_u = -np.geomspace(40 / degree[-1], 20, 2000)
    u, root = np.exp(log_u), np.sqrt(-np.expm1(2 * log_u))
    powers = np.exp(log_u[:, None] * degree)
    arcsin = powers @ (weights * b / degree)
    np.testing.assert_allclose(arcsin, np.arctan2(u, root), rtol=octaves.RULE_ERROR)
    rate = (powers / u[:, None]) @ (weights * b)
    np.testing.assert_allclose(rate, 1 / root, rtol=octaves.RULE_ERROR_RATE)


@pytest.mark.parametrize("name", marked(pytest.mark.slow, list(MIXTURES), but=["arctan"]))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_of_large_variances(name, dtype):
    """Symmetric, semidefinite, with the diagonal, and the same for copies."""
    x = np.random.default_rng(0).standard_normal((60, 1)).astype(dtype) * 40
    x[1], x[2], x[3] = x[0], -x[0], x[0] * (1 + 1e-6)
    net = nk.MLP(3, name, 1.5, 0.1)
    k, d = nk.gram(net, x, dtype=dtype), nk.diagonal(net, x, dtype=dtype)
    eps = np.finfo(dtype).eps
    for matrix, diagonal in zip(k[:2], d[:2], strict=True):
        assert (matrix == matrix.T).all() and (matrix[0] == matrix[1]).all()
        assert (np.diag(matrix) == diagonal).all()
        shift = float(60 * eps * matrix.max())
        with mp.workdps(40):  # an error if the matrix is not definite
            mp.cholesky(mp.matrix(matrix.tolist()) + shift * mp.eye(60))
    across = nk.gram(net, x[:20], x, dtype=dtype)
    assert (across.ntk == nk.gram(net, x, x[:20], dtype=dtype).ntk.T).all()
