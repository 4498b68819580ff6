"""Tests of the derivatives of networks with one kink at 0 against 60-digit arithmetic."""

import numpy as np
import oracle
import pytest
from awkward import awkward_rows
from marks import marked
from mpmath import mp, mpf

import ntk_numba as nk
from ntk_numba.engine.tangents import first_layers, turns_of_samples

STEP = mpf(10) ** -10  # its square is the error of the oracle's differences


def moved(values, layer, t):
    """Return standard deviations of which one is multiplied by exp(t), as numbers of mpmath."""
    return [mpf(v) * (mp.exp(t) if k == layer else 1) for k, v in enumerate(values)]


def exact_derivatives(net, x1, x2):
    """Return the derivatives of (Σ, Θ) by log w_std and log b_std of each layer, (2, 2, L)."""
    slopes = [(a.a, a.b) for a in net.activation]
    found = np.zeros((2, 2, net.depth), object)
    for layer in range(net.depth):
        for which, name in enumerate(("w_std", "b_std")):
            if getattr(net, name)[layer] == 0:
                continue
            ends = []
            for t in (STEP, -STEP):
                values = {"w_std": net.w_std, "b_std": net.b_std}
                values[name] = moved(values[name], layer, t)
                ends.append(oracle.kernels(x1, x2, slopes, **values)[-1])
            for kernel, (up, down) in enumerate(zip(*ends, strict=True)):
                found[kernel, which, layer] = (up - down) / (2 * STEP)
    return found


def worst_error(net, x, pairs, dtype=np.float64):
    """Return the largest error of a derivative by a logarithm, relative to √(K(x,x)K(x',x'))."""
    got = nk.gram(net, x, gradients=True, dtype=dtype)
    slopes = [(a.a, a.b) for a in net.activation]
    worst = mpf(0)
    for i, j in pairs:
        exact = exact_derivatives(net, x[i], x[j])
        diagonals = [oracle.kernels(x[k], x[k], slopes, net.w_std, net.b_std)[-1] for k in (i, j)]
        for kernel, arrays in enumerate((got.d_nngp, got.d_ntk)):
            scale = mp.sqrt(diagonals[0][kernel] * diagonals[1][kernel])
            for which, name in enumerate(("w_std", "b_std")):
                for layer, value in enumerate(getattr(net, name)):
                    entry = float(arrays[name][layer, i, j])
                    assert arrays[name][layer, j, i] == arrays[name][layer, i, j]
                    error = abs(mpf(entry) * mpf(value) - exact[kernel, which, layer])
                    worst = max(worst, error / scale if scale else error)
    return float(worst)


NETWORKS = [
    nk.MLP(4, "relu", [1.4, 1.2, 0.9, 1.3], [0.1, 0.3, 0, 0.5]),
    nk.MLP(1, w_std=1.3, b_std=0.4),
    nk.MLP(3, ["abs", "leaky_relu:0.3"], [0.7, 1.1, 1.2], [0.2, 0.1, 0.3]),
    nk.MLP(3, "abs"),
    nk.MLP(4, ["identity", "ab_relu:-0.9,1", "relu"], [1, 2, 0.5, 1], 0.05),
    nk.MLP(3, "leaky_relu:0.2", [1.2, 0, 0.8], [0.3, 0.2, 0.1]),
    nk.MLP(8, "relu", 2**0.5, 0.02),
]
# equal, near, parallel, opposite, nearly opposite, unrelated and very long or short samples
PAIRS = [(0, 0), (0, 1), (0, 2), (0, 4), (0, 6), (0, 11), (12, 13), (0, 15), (0, 16), (0, 18),
         (19, 1), (0, 20), (3, 21), (21, 22), (21, 32), (23, 28), (24, 25), (32, 32)]  # fmt: skip


@pytest.mark.parametrize(
    ("net", "positive"),
    marked(pytest.mark.slow, [*((net, False) for net in NETWORKS), (NETWORKS[0], True)]),
)
def test_derivatives_are_exact_on_awkward_pairs(net, positive):
    x = np.concatenate([awkward_rows(5, float, positive), np.zeros((1, 5))])
    assert worst_error(net, x, PAIRS) <= 1e-13


@pytest.mark.parametrize("net", NETWORKS[1:4])
def test_derivatives_are_exact_on_a_few_pairs(net):
    x = np.concatenate([awkward_rows(3, float, False), np.zeros((1, 3))])
    assert worst_error(net, x, [(0, 4), (0, 15), (0, 19), (3, 22), (0, 32)]) <= 1e-13


def test_derivatives_in_float32_are_rounded_ones():
    x = awkward_rows(4, np.float32, False)[:23]
    net = NETWORKS[0]
    single, double = nk.gram(net, x, gradients=True), nk.gram(net, x, gradients=True, dtype=float)
    for name in ("w_std", "b_std"):
        for a, b in ((single.d_nngp, double.d_nngp), (single.d_ntk, double.d_ntk)):
            assert a[name].dtype == np.float32
            np.testing.assert_array_equal(a[name], b[name].astype(np.float32))


def test_derivatives_are_even_in_the_samples():
    """Those of equal samples are equal, and the arguments may change places."""
    x = awkward_rows(6, float, False)[:23]
    x[7] = x[5]
    net = NETWORKS[2]
    whole = nk.gram(net, x, gradients=True)
    one, other = nk.gram(net, x, x[:9], gradients=True), nk.gram(net, x[:9], x, gradients=True)
    for d, a, b in zip(
        (whole.d_nngp, whole.d_ntk), (one.d_nngp, one.d_ntk), (other.d_nngp, other.d_ntk),
        strict=True,
    ):  # fmt: skip
        for name in ("w_std", "b_std"):
            assert (d[name][:, 7] == d[name][:, 5]).all()
            assert (a[name] == b[name].transpose(0, 2, 1)).all()
            np.testing.assert_allclose(a[name], d[name][:, :, :9], rtol=1e-12, atol=1e-13)


def test_a_parameter_has_no_derivative_before_its_layer():
    directions = np.zeros((3, 2, 4))
    directions[0, 1, 2] = directions[1, 0, 0] = directions[1, 1, 3] = 1
    assert first_layers(directions).tolist() == [2, 0, 0]


def test_the_derivatives_of_a_sample_are_those_of_its_variance():
    net, norm, t = nk.MLP(5, "relu", 1.3, 0.2), np.array([0.0, 1.0, 7.0]), 1e-6
    direction = np.random.default_rng(0).standard_normal((1, 2, 5))
    found = turns_of_samples(net.layers, norm, 3, direction)
    ends = []
    for sign in (1, -1):
        w, b = np.exp(sign * t * direction[0])
        there = nk.MLP(5, "relu", net.w_std * w, net.b_std * b)
        x = np.zeros((3, 3))
        x[:, 0] = norm
        ends.append(np.log(nk.diagonal(there, x).nngp) / 2)
    np.testing.assert_allclose(found.log_root[0], (ends[0] - ends[1]) / (2 * t), rtol=1e-8)
