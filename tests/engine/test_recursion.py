"""Tests of the promised accuracy of the kernels, against 60-digit arithmetic."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
from awkward import awkward_rows
from marks import marked
from mpmath import mp, mpf

import ntk_numba as nk
from ntk_numba.accuracy import promise
from ntk_numba.activations.one_kink import OneKink


def slopes(net: nk.MLP) -> list[tuple[float, float]]:
    out = []
    for activation in net.activation:
        assert isinstance(activation, OneKink)
        out.append((activation.a, activation.b))
    return out


def worst_error(net: nk.MLP, x: np.ndarray, dtype: type, pairs: list[tuple[int, int]]) -> float:
    """Return the largest error of Σ and Θ over all layers, relative to √(K(x,x)K(x',x'))."""
    got = nk.gram(net, x, layers="all", dtype=dtype)
    limits = np.finfo(dtype)
    exact = {}
    for i, j in {*pairs, *((i, i) for pair in pairs for i in pair)}:
        exact[i, j] = oracle.kernels(x[i], x[j], slopes(net), net.w_std, net.b_std)
    worst = mpf(0)
    for i, j in pairs:
        for layer in range(net.depth):
            for kernel, matrix in enumerate((got.nngp, got.ntk)):
                scale = mp.sqrt(exact[i, i][layer][kernel] * exact[j, j][layer][kernel])
                value = matrix[layer, i, j]
                assert matrix[layer, j, i] == value
                if scale < float(limits.tiny) / float(limits.eps):
                    # such a number has lost digits to underflow in the dtype
                    assert abs(value) <= 2 * scale + float(limits.tiny)
                    continue
                worst = max(worst, abs(mpf(float(value)) - exact[i, j][layer][kernel]) / scale)
    return float(worst)


NETWORKS = [
    # their layers are all depths from 1 to 32
    nk.MLP(32, "relu", w_std=2**0.5),
    nk.MLP(32, "relu", w_std=0.5, b_std=0.3),
    nk.MLP(32, "relu", w_std=1.7, b_std=2),
    nk.MLP(32, "abs", w_std=1, b_std=0.05),
    nk.MLP(32, "identity", w_std=1, b_std=0.1),
    nk.MLP(16, "leaky_relu:0.1", w_std=1.4, b_std=1e-3),
    nk.MLP(16, "leaky_relu:0.99", w_std=1.0),
    nk.MLP(16, "ab_relu:-0.99,1", w_std=1.0),
    nk.MLP(
        8,
        ["identity", "relu", "abs", "leaky_relu:0.3", "ab_relu:-0.5,2", "identity", "relu"],
        w_std=[0.5, 2, 1, 1.3, 0.7, 1, 1, 0.9],
        b_std=[0, 0, 0.1, 0, 2, 0, 0.01, 1],
    ),
]


def bound(net: nk.MLP, dtype: type) -> float:
    return promise(net.depth, np.dtype(dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("net", NETWORKS, ids=str)
@pytest.mark.parametrize(
    ("n0", "positive"), marked(pytest.mark.slow, [(17, False), (1, False), (2, True), (400, True)])
)
def test_every_layer_is_exact_on_awkward_pairs(net, n0, positive, dtype):
    rng = np.random.default_rng(net.depth + n0)
    x = awkward_rows(n0, dtype, positive, seed=n0)
    if 2 * net.w_std[-1] ** 2 > 3.9 and dtype == np.float32:
        x = x[:23]  # for norms of 1e±15, 32 such layers leave the range of float32
    everything = [(i, j) for i in range(len(x)) for j in range(i + 1)]
    chosen = rng.choice(len(everything), 60, replace=False)
    assert worst_error(net, x, dtype, [everything[k] for k in chosen]) <= bound(net, dtype)


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, [np.float64, np.float32]))
@pytest.mark.parametrize("positive", marked(pytest.mark.slow, [False, True]))
def test_exact_with_many_features(positive, dtype):
    net = nk.MLP(4, "relu", w_std=2**0.5, b_std=0.1)
    x = awkward_rows(4096, dtype, positive)
    pairs = [(i, 0) for i in range(len(x))] + [(i, 21) for i in range(len(x)) if i != 21]
    pairs = [(max(p), min(p)) for p in pairs]
    assert worst_error(net, x, dtype, pairs) <= bound(net, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("net", [nk.MLP(1), nk.MLP(2, "abs"), nk.MLP(8, "relu", 2**0.5)], ids=str)
@pytest.mark.parametrize(
    ("n0", "flipped"), marked(pytest.mark.slow, [(442, 0.93), (363, 0.6), (1107, 0.93), (883, 0.1)])
)
def test_exact_where_all_terms_of_a_product_are_equal(net, n0, flipped, dtype):
    """For rows of ±1, rounding errors of one sign add up in a plain product."""
    rng = np.random.default_rng(0)
    x = np.ones((12, n0), dtype)
    x[1, : round(n0 * flipped)] = -1
    for row in x[2:]:
        row[rng.random(n0) < flipped] = -1
    for rows in (2, 12):
        pairs = [(i, j) for i in range(rows) for j in range(i + 1)]
        assert worst_error(net, x[:rows], dtype, pairs) <= bound(net, dtype)


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, [np.float64, np.float32]))
def test_exact_with_very_many_features(dtype):
    """For rows of ±1, Σ is a fraction whose exact value a product of integers gives.

    The bound is half of the promise, which a centre computed from one row would exceed.
    """
    n0, net = 1_200_000, nk.MLP(1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (9, n0))
    signs[1], signs[2] = signs[0], -signs[0]
    signs[1, :5], signs[2, 0] = -signs[1, :5], -signs[2, 0]
    nngp = nk.gram(net, signs.astype(dtype), kernels="nngp").nngp
    assert np.abs(nngp - signs @ signs.T / n0).max() <= bound(net, dtype) / 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exact_on_real_data(digits, dtype):
    net = nk.MLP(4, "relu", w_std=1, b_std=0.1)
    x = digits[:60].astype(dtype)
    pairs = [(i, j) for i in range(60) for j in range(0, i + 1, 3)]
    assert worst_error(net, x, dtype, pairs) <= bound(net, dtype)


def test_by_hand():
    """The network is that of Jacot et al. 2018, section 6.1: L = 4, β = 0.1, n0 = 2, |x| = 1."""
    net = nk.MLP(4, "relu", b_std=0.1)
    x = np.array([[np.cos(t), np.sin(t)] for t in (0, 0.3, 2)])
    k = nk.gram(net, x, layers="all")
    np.testing.assert_allclose(k.nngp[:, 0, 0], [0.51, 0.265, 0.1425, 0.08125], rtol=4e-16)
    np.testing.assert_allclose(np.diagonal(k.ntk[3]), 0.2825, rtol=8e-16)


def test_the_formula_of_cho_and_saul():
    """The formulas of the note in plain NumPy, as a check that a reader can follow."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 5))
    w2, b2, depth = 1.3**2, 0.2**2, 5
    s = w2 * x @ x.T / 5 + b2  # eq. 10
    theta = s.copy()  # eq. 18
    for _ in range(depth - 1):
        p = np.sqrt(np.outer(np.diag(s), np.diag(s)))
        angle = np.arccos(np.clip(s / p, -1, 1))
        k = p * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        s_dot = w2 * (np.pi - angle) / (2 * np.pi)
        s = w2 * k + b2  # eq. 12
        theta = s_dot * theta + s  # eq. 26
    got = nk.gram(nk.MLP(depth, "relu", 1.3, 0.2), x)
    np.testing.assert_allclose(got.nngp, s, rtol=1e-7)
    np.testing.assert_allclose(got.ntk, theta, rtol=1e-7)


def test_depth_one_is_linear():
    x = np.random.default_rng(0).standard_normal((20, 3))
    k = nk.gram(nk.MLP(1, w_std=2, b_std=0.5), x)
    np.testing.assert_allclose(k.nngp, 4 * x @ x.T / 3 + 0.25, rtol=0, atol=1e-14)
    assert (k.nngp == k.ntk).all()


@pytest.mark.parametrize("activation", ["relu", "abs", "identity", "leaky_relu:0.2"])
def test_a_zero_vector_without_bias_gives_zeros(activation):
    x = np.random.default_rng(0).standard_normal((5, 3))
    x[2] = 0
    k = nk.gram(nk.MLP(3, activation), x, layers="all")
    for matrix in k:
        assert (matrix[:, 2] == 0).all() and (matrix[:, :, 2] == 0).all()
        assert np.isfinite(matrix).all()
        assert (np.delete(np.diagonal(matrix, axis1=1, axis2=2), 2, axis=1) > 0).all()


def test_zero_weights_leave_the_bias():
    k = nk.gram(nk.MLP(3, "relu", w_std=0, b_std=0.5), np.ones((2, 2)))
    assert (k.nngp == 0.25).all() and (k.ntk == 0.25).all()
    zero = replace(nk.activations.get("ab_relu:1,1"), a=0.0, b=0.0)  # by its name it is refused
    k = nk.gram(nk.MLP(3, zero, b_std=0.5), np.ones((2, 2)))
    assert (k.nngp == 0.25).all()
    assert (nk.gram(nk.MLP(3, "relu", w_std=0), np.ones((2, 2))).ntk == 0).all()
