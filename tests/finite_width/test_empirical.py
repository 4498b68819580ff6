"""Empirical kernels and outputs against plain loops and Jacobians by complex steps."""

import numpy as np
import pytest
from plain import SIGMA, forward, jacobian

import ntk_numba as nk
from ntk_numba import finite_width as fw
from ntk_numba.finite_width import networks, pool

NETS = [
    (nk.MLP(1, w_std=0.7, b_std=0.3), (), 3),
    (nk.MLP(2, "abs", [1.5, 0.4], [0.0, 2.0]), (5,), 1),
    (nk.MLP(3, "relu", 1.2, 0.5), (4, 6), 2),
    (nk.MLP(4, ["leaky_relu:0.2", "identity", "ab_relu:-0.5,1.5"], 0.9, 0.1), (3, 1, 5), 3),
]


def plain_arguments(params, name=None):
    net = params.net
    names = [name or a.name for a in net.activation]
    return params.weights, params.biases, names, net.w_std, net.b_std


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 3)), rng.standard_normal((4, 3))


def test_every_activation_is_among_the_plain_ones():
    assert {name.split(":")[0] for name in SIGMA} == set(nk.activations.names())


@pytest.mark.parametrize("name", SIGMA)
@pytest.mark.parametrize("outputs", [1, 2])
def test_every_activation(name, outputs, data):
    params = fw.sample(nk.MLP(3, name, [1.0, 1.3, 0.8], 0.2), 3, 4, outputs, seed=5)
    x, z = data
    j, j_z = (jacobian(rows, *plain_arguments(params, name)) for rows in (x, z))
    theta = np.einsum("ikp,jlp->ijkl", j, j_z)
    assert fw.empirical_ntk(params, x, z) == pytest.approx(theta, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(("net", "width", "outputs"), NETS)
def test_any_depth_widths_and_parameters(net, width, outputs, data):
    params = fw.sample(net, 3, width, outputs, seed=2)
    assert params.widths == (3, *width, outputs)
    x = data[0]
    plain = plain_arguments(params)
    assert fw.forward(params, x) == pytest.approx(forward(x, *plain), rel=1e-13, abs=1e-14)
    j = jacobian(x, *plain)
    theta = fw.empirical_ntk(params, x)
    assert theta.shape == (5, 5, outputs, outputs)
    assert theta == pytest.approx(np.einsum("ikp,jlp->ijkl", j, j), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(("net", "width", "outputs"), NETS)
def test_nngp(net, width, outputs, data):
    params = fw.sample(net, 3, width, outputs, seed=2)
    weights, biases, sigma, w_std, b_std = plain_arguments(params)
    features = list(data)
    if net.depth > 1:  # α of the last hidden layer: the network of one layer less, and σ
        before = weights[:-1], biases[:-1], sigma[:-1], w_std[:-1], b_std[:-1]
        act = SIGMA[sigma[-1]]
        features = [act(forward(rows, *before)) for rows in data]
    left, right = features
    wanted = w_std[-1] ** 2 * left @ right.T / left.shape[1] + b_std[-1] ** 2
    assert fw.empirical_nngp(params, *data) == pytest.approx(wanted, rel=1e-13, abs=1e-14)
    f, g = (forward(rows, *plain_arguments(params)) for rows in data)
    by_outputs = fw.empirical_nngp(params, *data, by="outputs")
    assert by_outputs == pytest.approx(f @ g.T / outputs, rel=1e-12, abs=1e-13)


def test_threads_and_blocks_change_no_bit():
    net = nk.MLP(3, b_std=0.1)
    x = np.random.default_rng(1).standard_normal((2 * networks.ROWS + 7, 4))
    params = fw.sample(net, 4, 9, 2)
    one, two = (fw.empirical_ntk(params, x, threads=t) for t in (1, 2))
    assert (one == two).all()
    assert (one == one.transpose(1, 0, 3, 2)).all()
    np.testing.assert_allclose(fw.empirical_ntk(params, x, x), one, rtol=1e-12, atol=1e-13)
    f = fw.forward(params, x, threads=1)
    assert (f == fw.forward(params, x, threads=2)).all()
    assert f[-7:] == pytest.approx(fw.forward(params, x[-7:]), rel=1e-13)


def test_float32(data):
    net = nk.MLP(3, b_std=0.1)
    single = fw.sample(net, 3, 50, dtype="float32")
    double = networks.Parameters(
        net,
        tuple(w.astype(float) for w in single.weights),
        tuple(b.astype(float) for b in single.biases),
    )
    for function in (fw.forward, fw.empirical_ntk, fw.empirical_nngp):
        value = function(single, data[0])
        assert value.dtype == np.float32
        assert value == pytest.approx(function(double, data[0]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("function", [fw.forward, fw.empirical_ntk, fw.empirical_nngp])
def test_bad_arguments_of_the_kernels(function, data, tmp_path):
    params = fw.sample(nk.MLP(2), 3, 8)
    with pytest.raises(TypeError, match=r"params must be the Parameters that .* returns, not MLP"):
        function(nk.MLP(2), data[0])
    with pytest.raises(ValueError, match="X has 2 features, but the network has 3 inputs"):
        function(params, data[0][:, :2])
    bad = data[0].copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"X: .*row 3"):
        function(params, bad)
    with pytest.raises(ValueError, match="X is empty"):
        function(params, data[0][:0])
    bad[3] = 1e300
    if function is not fw.forward:
        with pytest.raises(ValueError, match="row 3 is too large for float64; scale the data"):
            function(params, bad)
    with pytest.raises(ValueError, match=r"row 3 is too large for float32; .* or use float64"):
        function(fw.sample(nk.MLP(2), 3, 8, dtype="float32"), np.minimum(bad, 1e39))
    with pytest.raises(OSError, match=r"x\.npy does not exist"):
        function(params, tmp_path / "x.npy")


def test_an_unknown_kind_of_nngp(data):
    with pytest.raises(ValueError, match="by must be 'features' or 'outputs', not 'units'"):
        fw.empirical_nngp(fw.sample(nk.MLP(2), 3, 8), data[0], by="units")


def test_results_that_do_not_fit_in_memory_are_refused(monkeypatch):
    params = fw.sample(nk.MLP(3), 3, 64, 4)
    x = np.ones((100, 3))
    monkeypatch.setattr(pool, "available_memory", lambda: 1 << 20)
    with pytest.raises(ValueError, match=r"100 × 100 samples and 4 outputs would take .* bytes"):
        fw.empirical_ntk(params, x)
    monkeypatch.setattr(pool, "available_memory", lambda: 1 << 10)
    with pytest.raises(ValueError, match="activations would take"):
        fw.forward(params, x)
    with pytest.raises(ValueError, match="activations would take"):
        fw.empirical_nngp(params, x)
