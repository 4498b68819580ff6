"""Networks of finite width: how they are drawn, and the arguments that are refused."""

import itertools

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import finite_width as fw
from ntk_numba.finite_width import networks


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 3)), rng.standard_normal((4, 3))


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
def test_bad_arguments_of_sample(change, error, text):
    with pytest.raises(error, match=text):
        fw.sample(**({"net": nk.MLP(3), "n_in": 3, "width": 8} | change))
