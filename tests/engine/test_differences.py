"""Tests of the derivatives of all activations, which are differences of the whole recursion."""

import numpy as np
import pytest
from layered_quadrature import kernels
from marks import marked
from plain import KINKS, SIGMA

import ntk_numba as nk
from ntk_numba.engine import differences, gradient_kernel
from ntk_numba.engine.gradient_kernel import has_tangents

# one activation for each way to compute a dual
EXAMPLES = ("erf", "relu6", "elu:0.7", "rectified_monomial:3", "sign", "gelu", "gabor", "tanh")

W_STD, B_STD = np.array([1.1, 0.8]), np.array([0.3, 0.2])
# Differences of the oracle along a direction of all parameters, of order 6, by Richardson's rule
DIRECTION = np.array([[0.7, -0.4], [0.5, 1.0]])


def along(name, x1, x2, step=0.015):
    """Return the derivatives of (Σ, Θ) of two layers along DIRECTION, from quadrature."""

    def at(t):
        w, b = (v * np.exp(t * d) for v, d in zip((W_STD, B_STD), DIRECTION, strict=True))
        return np.array(kernels(SIGMA[name], x1, x2, w, b, 2, KINKS.get(name, ()))[-1])

    central = [(at(k * step) - at(-k * step)) / (2 * k * step) for k in (1, 2, 3)]
    return np.array([3 / 2, -3 / 5, 1 / 10]) @ central


def derivatives(net, got):
    """Return the derivatives of (Σ, Θ) along DIRECTION, (2, N, M)."""
    parts = zip(DIRECTION, (("w_std", net.w_std), ("b_std", net.b_std)), strict=True)
    return sum(
        np.array([np.tensordot(d * values, of[name], 1) for of in (got.d_nngp, got.d_ntk)])
        for d, (name, values) in parts
    )


@pytest.mark.parametrize("name", marked(pytest.mark.slow, SIGMA, ("erf", "tanh")))
def test_derivatives_of_every_activation_against_quadrature(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3))
    x[2], x[3] = -0.5 * x[0] + 0.3 * x[2], x[0]
    net = nk.MLP(2, name, W_STD, B_STD)
    got = nk.gram(net, x, gradients=True)
    found = derivatives(net, got)
    for i, j in ((0, 2), (0, 3)):
        exact = along(name, x[i], x[j])
        scale = [np.sqrt(k[i, i] * k[j, j]) for k in got]
        assert (abs(found[:, i, j] - exact) <= 1e-9 * np.array(scale)).all()
    assert (found[:, 0] == found[:, 3]).all()


@pytest.mark.parametrize("name", marked(pytest.mark.slow, EXAMPLES))
def test_derivatives_of_nearly_equal_samples_are_near_those_of_equal_ones(name):
    """A kink behind the activation would see a wrong angle."""
    limit = 1e-4 if name == "sign" else 1e-6  # that of sign falls as the root of the distance
    x = np.random.default_rng(1).standard_normal((3, 5))
    x[1], x[2] = x[0] * (1 + 1e-9), x[0] + 1e-9
    net = nk.MLP(3, [name, "relu"], [0.9, 1.1, 1.2], [0.2, 0.3, 0.1])
    got = nk.gram(net, x, gradients=True)
    for kernel, of in zip(got, (got.d_nngp, got.d_ntk), strict=True):
        for each in of.values():
            assert (abs(each - each[:, :1, :1]) <= limit * (kernel[0, 0] + abs(each))).all()


@pytest.mark.parametrize(
    ("name", "dtype"),
    marked(
        pytest.mark.slow,
        [("erf", np.float32), *((name, float) for name in EXAMPLES)],
        [("erf", float)],  # the derivatives in float32 take ten seconds to compile
    ),
)
def test_derivatives_of_equal_opposite_and_zero_samples(name, dtype):
    x = np.random.default_rng(1).standard_normal((20, 4)).astype(dtype) / 2
    x[1], x[2], x[3] = x[0], -x[0], 0
    for b_std in (0.0, 0.2):
        net = nk.MLP(2, name, 1.0, b_std)
        got = nk.gram(net, x, gradients=True)
        halves = nk.gram(net, x, x[:7], gradients=True), nk.gram(net, x[:7], x, gradients=True)
        for k, of in enumerate((got.d_nngp, got.d_ntk)):
            for parameter, each in of.items():
                assert each.dtype == dtype and np.isfinite(each).all()
                assert (each == each.transpose(0, 2, 1)).all()
                assert (each[:, 0] == each[:, 1]).all()
                one, other = ((h.d_nngp, h.d_ntk)[k][parameter] for h in halves)
                assert (one == other.transpose(0, 2, 1)).all()


NETWORKS = [
    nk.MLP(4, "relu", [1.4, 1.2, 0.9, 1.3], [0.1, 0.3, 0.5, 0]),
    nk.MLP(3, ["abs", "leaky_relu:0.3"], [0.7, 1.1, 1.2], [0.2, 0.1, 0.3]),
]


@pytest.mark.parametrize("net", NETWORKS)
def test_differences_agree_with_tangents(net, points, monkeypatch):
    """Both are computed for networks that have exact tangents."""
    exact = nk.gram(net, points, gradients=True)
    monkeypatch.setattr(gradient_kernel, "has_tangents", lambda net: False)
    found = nk.gram(net, points, gradients=True)
    for kernel, a, b in zip(exact, (exact.d_nngp, exact.d_ntk), (found.d_nngp, found.d_ntk),
                            strict=True):  # fmt: skip
        root = np.sqrt(np.diag(kernel))
        for name in ("w_std", "b_std"):
            assert (abs(a[name] - b[name]) <= 1e-11 * root[:, None] * root).all()


def test_a_network_nearby_that_overflows_is_an_error():
    net, x = nk.MLP(3, "exp"), np.array([[1.71]])
    assert np.isfinite(nk.gram(net, x).nngp).all()
    with pytest.raises(ValueError, match=r"up to 1[.\d]* times these, .* too large for float64"):
        nk.gram(net, x, gradients=True)


def test_only_networks_with_one_kink_have_tangents():
    assert has_tangents(nk.MLP(3, ["relu", "abs"])) and has_tangents(nk.MLP(1, "tanh"))
    assert not has_tangents(nk.MLP(3, ["relu", "erf"]))


def test_steps():
    one, all_layers = np.zeros((2, 4)), np.ones((2, 4))
    one[0, 2] = 1
    assert differences.first_step(one) == differences.STEP
    assert differences.first_step(all_layers) == differences.STEP / 4
    assert differences.next_step(0.03, 1e-9) == 0.015
    assert differences.next_step(0.03, 1e-3) == 0.03 / 8
    net = nk.MLP(2, "tanh", [1.0, 2.0], [0.0, 0.1])
    up, down = differences.farthest_networks(net, np.array([[1.0, 0], [0, -1.0]]))
    t = 5 * differences.first_step(np.array([[1.0, 0], [0, -1.0]]))
    np.testing.assert_allclose(up.w_std, [np.exp(t), 2])
    np.testing.assert_allclose(down.b_std, [0, 0.1 * np.exp(t)])


def test_coefficients_differentiate_polynomials_exactly():
    for order, degree in ((differences.ORDER_10, 10), (differences.ORDER_8, 8)):
        for power in range(degree + 1):
            sides = [(k + 1.0) ** power - (-(k + 1.0)) ** power for k in range(differences.SIDE)]
            assert np.dot(order, sides) == pytest.approx(float(power == 1), abs=1e-9)
