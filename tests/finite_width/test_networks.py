"""Finite networks against plain loops and Jacobians by complex steps."""

import itertools

import numpy as np
import pytest
from plain import SIGMA, forward, jacobian

import ntk_numba as nk
from ntk_numba import finite_width as fw
from ntk_numba.finite_width import networks, workers

NETS = [
    (nk.MLP(1, w_std=0.7, b_std=0.3), (), 3),
    (nk.MLP(2, "abs", [1.5, 0.4], [0.0, 2.0]), (5,), 1),
    (nk.MLP(3, "relu", 1.2, 0.5), (4, 6), 2),
    (nk.MLP(4, ["leaky_relu:0.2", "identity", "ab_relu:-0.5,1.5"], 0.9, 0.1), (3, 1, 5), 3),
]


def plain_arguments(params):
    net = params.net
    return params.weights, params.biases, [a.name for a in net.activation], net.w_std, net.b_std


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
    j, j_z = (jacobian(rows, *plain_arguments(params)) for rows in (x, z))
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
        act = np.vectorize(SIGMA[sigma[-1]], otypes=[float])
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


def test_paths_are_data_too(tmp_path, data):
    np.save(tmp_path / "x.npy", data[0])
    params = fw.sample(nk.MLP(2), 3, 8)
    assert (fw.forward(params, tmp_path / "x.npy") == fw.forward(params, data[0])).all()


def test_a_sample_is_its_seeds():
    net = nk.MLP(3)
    one, again, other = (fw.sample(net, 3, 40, seed=s) for s in (7, 7, 8))
    for a, b, c in zip(one.weights, again.weights, other.weights, strict=True):
        assert (a == b).all() and (a != c).all()
    streams = [fw.sample(net, 3, 40, seed=networks.seed_sequence(7, (k,))) for k in (0, 1)]
    flat = [p.weights[1].ravel() for p in (one, other, *streams)]
    for a, b in itertools.combinations(flat, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 40


def test_parameters_are_standard_normal():
    from scipy import stats

    params = fw.sample(nk.MLP(2), 300, 400, 2, seed=3)
    for values in (params.weights[0].ravel(), params.biases[0], params.weights[1].ravel()):
        assert stats.kstest(values, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"net": "relu"}, TypeError, "net must be an ntk_numba.MLP, not str"),
        ({"n_in": 0}, ValueError, "n_in must be at least 1, not 0"),
        ({"width": 0}, ValueError, "width must be at least 1, not 0"),
        ({"width": 2.5}, TypeError, "width must be a whole number, not"),
        ({"width": "8"}, TypeError, "width must be a whole number, not"),
        ({"width": [4, True]}, TypeError, "width must be a whole number, not True"),
        ({"width": [4]}, ValueError, "depth 3 has 2 hidden layers, but 1 widths are given"),
        ({"n_out": -1}, ValueError, "n_out must be at least 1, not -1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, not -1"),
        ({"seed": None}, TypeError, "seed must be a whole number, not None"),
        ({"dtype": "float16"}, ValueError, "dtype must be float64 or float32, not 'float16'"),
        ({"dtype": "number"}, ValueError, "dtype must be float64 or float32, not 'number'"),
        ({"width": 10**9}, ValueError, r"would take .* bytes.*take a smaller width"),
    ],
)
def test_what_sample_refuses(change, error, text):
    with pytest.raises(error, match=text):
        fw.sample(**({"net": nk.MLP(3), "n_in": 3, "width": 8} | change))


@pytest.mark.parametrize("function", [fw.forward, fw.empirical_ntk, fw.empirical_nngp])
def test_what_the_kernels_refuse(function, data, tmp_path):
    params = fw.sample(nk.MLP(2), 3, 8)
    with pytest.raises(TypeError, match=r"params must be what .* returns, not MLP"):
        function(nk.MLP(2), data[0])
    with pytest.raises(ValueError, match="X has 2 features, but the network has 3 inputs"):
        function(params, data[0][:, :2])
    bad = data[0].copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"X: .*row 3"):
        function(params, bad)
    with pytest.raises(ValueError, match="X"):
        function(params, data[0][:0])
    with pytest.raises(OSError, match=r"x\.npy does not exist"):
        function(params, tmp_path / "x.npy")


def test_what_is_no_kind_of_nngp(data):
    with pytest.raises(ValueError, match="by must be 'features' or 'outputs', not 'units'"):
        fw.empirical_nngp(fw.sample(nk.MLP(2), 3, 8), data[0], by="units")


def test_what_does_not_fit_in_memory_is_refused(monkeypatch):
    params = fw.sample(nk.MLP(3), 3, 64, 4)
    x = np.ones((100, 3))
    monkeypatch.setattr(workers, "available_memory", lambda: 1 << 20)
    with pytest.raises(ValueError, match=r"100 × 100 samples and 4 outputs would take .* bytes"):
        fw.empirical_ntk(params, x)
    monkeypatch.setattr(workers, "available_memory", lambda: 1 << 10)
    with pytest.raises(ValueError, match="activations would take"):
        fw.forward(params, x)
    with pytest.raises(ValueError, match="activations would take"):
        fw.empirical_nngp(params, x)
