"""Gradient descent against gradients by complex steps and against the closed form."""

import numpy as np
import pytest
from plain import forward, jacobian

import ntk_numba as nk
from ntk_numba import finite_width as fw
from ntk_numba.finite_width import networks

NET = nk.MLP(3, ["leaky_relu:0.2", "abs"], [1.0, 1.3, 0.8], 0.2)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((7, 3)), rng.standard_normal((7, 2))


def flat(params):
    """Return all parameters in one array, in the order of `plain.jacobian`."""
    return np.concatenate([a.ravel() for a in (*params.weights, *params.biases)])


def test_a_step_is_one_down_the_gradient(data):
    x, y = data
    params = fw.sample(NET, 3, (5, 4), 2, seed=1)
    history = fw.train(params, x, y, 0.3, 1)
    plain = params.weights, params.biases, [a.name for a in NET.activation], NET.w_std, NET.b_std
    off = forward(x, *plain) - y
    gradient = np.einsum("nkp,nk->p", jacobian(x, *plain), off) / len(x)
    assert flat(history.params) == pytest.approx(flat(params) - 0.3 * gradient, rel=1e-12)
    assert history.loss[0] == pytest.approx((off**2).sum() / 2 / len(x), rel=1e-13)
    after = fw.forward(history.params, x)
    assert history.loss[1] == pytest.approx(((after - y) ** 2).sum() / 2 / len(x), rel=1e-13)


def test_the_history(data):
    x, y = data
    params = fw.sample(NET, 3, 50, 2)
    before = flat(params).copy()
    history = fw.train(params, x, y, 0.2, 25, test=x[:3] + 1, record=10)
    assert (flat(params) == before).all()
    assert history.steps.tolist() == [0, 10, 20, 25] and history.loss.shape == (26,)
    assert (np.diff(history.loss) < 0).all()
    assert history.outputs.shape == (4, 7, 2) and history.test_outputs.shape == (4, 3, 2)
    assert history.outputs[0] == pytest.approx(fw.forward(params, x), rel=1e-12)
    assert history.outputs[-1] == pytest.approx(fw.forward(history.params, x), rel=1e-12)
    last = fw.forward(history.params, x[:3] + 1)
    assert history.test_outputs[-1] == pytest.approx(last, rel=1e-12)
    whole = fw.train(params, x, y, 0.2, 25)
    assert whole.steps.tolist() == [0, 25] and whole.test_outputs.shape == (2, 0, 2)
    assert (whole.loss == history.loss).all()
    none = fw.train(params, x, y, 0.2, 0)
    assert none.steps.tolist() == [0] and (flat(none.params) == before).all()


def test_training_one_layer_is_linear_and_exact(data):
    """Θ is Σ⁽¹⁾ at all times, so f − y is multiplied by 1 − ηΘ/N in each step."""
    x, y = data
    net = nk.MLP(1, w_std=0.8, b_std=0.3)
    params = fw.sample(net, 3, (), 2)
    history = fw.train(params, x, y, 0.7, 30)
    step = np.eye(7) - 0.7 * nk.gram(net, x).ntk / 7
    wanted = y + np.linalg.matrix_power(step, 30) @ (fw.forward(params, x) - y)
    assert history.outputs[-1] == pytest.approx(wanted, rel=1e-11, abs=1e-12)


def test_float32(data):
    params = fw.sample(NET, 3, 50, 2, dtype="float32")
    history = fw.train(params, *data, 0.2, 20)
    assert history.outputs.dtype == history.params.dtype == np.float32
    assert history.loss.dtype == np.float64
    double = networks.Parameters(
        NET,
        tuple(w.astype(float) for w in params.weights),
        tuple(b.astype(float) for b in params.biases),
    )
    exact = fw.train(double, *data, 0.2, 20)
    assert history.loss == pytest.approx(exact.loss, rel=1e-4)
    assert history.outputs[-1] == pytest.approx(exact.outputs[-1], abs=1e-4)


@pytest.mark.slow
def test_how_far_the_kernel_moves_as_networks_widen():
    """Θ(θ₀) − Θ∞ ~ n^(−1/2). Training moves Θ less: n^(−3/4) with kinks, n^(−1) without.

    The first and last layer's weights move by n^(−1/2) of themselves. See docs/training.md.
    """
    rng = np.random.default_rng(1)
    x = rng.standard_normal((16, 6))
    y = np.sin(x[:, 0]) * x[:, 1]
    widths = np.array([64, 128, 256, 512])
    slopes = {}
    for name in ("relu", "identity"):
        net = nk.MLP(3, name, 2**0.5 if name == "relu" else 1.0, 0.1)
        exact = nk.gram(net, x).ntk
        rate = len(x) / np.linalg.eigvalsh(exact)[-1]
        seen = []
        for width in widths:
            rows = []
            for seed in range(16):
                params = fw.sample(net, 6, int(width), seed=seed)
                trained = fw.train(params, x, y, rate, 60).params
                start, end = (fw.empirical_ntk(p, x)[:, :, 0, 0] for p in (params, trained))
                moved = [
                    np.linalg.norm(a - b) / np.linalg.norm(b)
                    for a, b in zip(trained.weights, params.weights, strict=True)
                ]
                rows.append([np.linalg.norm(start - exact), np.linalg.norm(end - start), *moved])
            seen.append(np.mean(rows, axis=0))
        slopes[name] = np.polyfit(np.log(widths), np.log(seen), 1)[0]
    for start, _, first, middle, last in slopes.values():
        assert start == pytest.approx(-0.5, abs=0.1)
        assert first == pytest.approx(-0.5, abs=0.1) and last == pytest.approx(-0.5, abs=0.1)
        assert middle == pytest.approx(-1, abs=0.1)
    assert slopes["relu"][1] == pytest.approx(-0.75, abs=0.1)
    assert slopes["identity"][1] == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"params": NET}, TypeError, "params must be"),
        ({"y": np.ones(7)}, ValueError, r"y must be of shape \(7, 2\), one row per sample"),
        ({"y": np.ones((6, 2))}, ValueError, r"not \(6, 2\)"),
        ({"y": [["a", "b"]] * 7}, TypeError, "y holds <U1; real numbers are wanted"),
        ({"y": np.full((7, 2), np.nan)}, ValueError, "y: row 0 is not finite"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be more than 0"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate must be more than 0"),
        ({"learning_rate": 1e3}, ValueError, "the loss grew from .* is too large"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number, not 'fast'"),
        ({"steps": 10**12}, ValueError, "a second network and the history would take .* bytes"),
        ({"y": np.full((7, 2), 1e200)}, ValueError, "not finite: X or y is too large"),
        ({"record": 0}, ValueError, "record must be at least 1"),
        ({"test": np.ones((2, 4))}, ValueError, "test has 4 features"),
        ({"X": np.full((7, 3), np.inf)}, ValueError, "X"),
    ],
)
def test_bad_arguments(change, error, text, data):
    x, y = data
    job = {"params": fw.sample(NET, 3, 20, 2), "X": x, "y": y, "learning_rate": 0.1, "steps": 50}
    with pytest.raises(error, match=text):
        fw.train(**(job | change))
