"""Gradient flow in closed form against its differential equation and against trained networks."""

import numpy as np
import pytest
import scipy.linalg
from scipy.linalg import expm

import ntk_numba as nk
from ntk_numba import finite_width as fw

NET = nk.MLP(3, "relu", 2**0.5, 0.1)


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.standard_normal((9, 4)), rng.standard_normal((9, 2)), rng.standard_normal((5, 4))


@pytest.mark.parametrize("time", [0.0, 0.3, 20.0])
def test_on_training_and_test_samples(data, time):
    x, y, z = data
    rng = np.random.default_rng(4)
    f0, f0_z = rng.standard_normal((9, 2)), rng.standard_normal((5, 2))
    theta, theta_z = nk.gram(NET, x).ntk, nk.gram(NET, z, x).ntk
    flow = nk.gradient_flow(theta, y, f0, time, ntk_test=theta_z, f0_test=f0_z)
    decay = expm(-theta * time / 9)
    assert flow.outputs == pytest.approx(y + decay @ (f0 - y), rel=1e-10, abs=1e-12)
    wanted = f0_z + theta_z @ np.linalg.solve(theta, (np.eye(9) - decay) @ (y - f0))
    assert flow.test_outputs == pytest.approx(wanted, rel=1e-9, abs=1e-11)


def test_its_limit_is_kernel_regression(data):
    x, y, z = data
    theta, theta_z = nk.gram(NET, x).ntk, nk.gram(NET, z, x).ntk
    flow = nk.gradient_flow(theta, y, 0 * y, np.inf, ntk_test=theta_z, f0_test=np.zeros((5, 2)))
    assert flow.outputs == pytest.approx(y, rel=1e-12)
    assert flow.test_outputs == pytest.approx(theta_z @ np.linalg.solve(theta, y), rel=1e-9)
    one = nk.gradient_flow(theta, y[:, 0], 0 * y[:, 0], np.inf)
    assert one.outputs.shape == (9,) and one.test_outputs is None


def test_equal_samples_learn_the_mean_of_their_targets(data):
    """A singular Θ: of two equal samples with targets 0 and 1 the network learns ½."""
    x = np.repeat(data[0][:1], 2, axis=0)
    theta = nk.gram(NET, x).ntk
    flow = nk.gradient_flow(
        theta, [0.0, 1.0], [0.0, 0.0], np.inf, ntk_test=theta[:1], f0_test=[0.0]
    )
    assert flow.outputs == pytest.approx([0.5, 0.5]) and flow.test_outputs == pytest.approx([0.5])


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-9), ("float32", 1e-3)])
def test_directions_that_are_only_rounding_do_not_count(dtype, error):
    """Θ of a linear network of 8 features and a bias has rank 9; other directions are rounding."""
    net = nk.MLP(3, "identity", 1.0, 0.1)
    x = np.random.default_rng(6).standard_normal((45, 8))
    y = x[:40] @ np.arange(8.0) + 1
    theta, theta_z = (nk.gram(net, a, x[:40], dtype=dtype).ntk for a in (x[:40], x[40:]))
    flow = nk.gradient_flow(theta, y, 0 * y, np.inf, ntk_test=theta_z, f0_test=np.zeros(5))
    assert np.concatenate(flow) == pytest.approx(x @ np.arange(8.0) + 1, abs=error * 20)


@pytest.mark.parametrize("time", [0.5, 20.0, np.inf])
def test_a_ridge_pulls_towards_the_start(data, time):
    """Gradient flow on Σ|f − y|²/2N + ρ|θ − θ_0|²/2N of a linear model, in its parameters."""
    rng = np.random.default_rng(9)
    j, j_z = rng.standard_normal((9, 12)), rng.standard_normal((5, 12))  # ∂f/∂θ
    _, y, _ = data
    f0, f0_z = rng.standard_normal((9, 2)), rng.standard_normal((5, 2))
    theta = j @ j.T
    rho = 0.3 * np.trace(theta) / 9
    a = (j.T @ j + rho * np.eye(12)) / 9  # dθ/dt = −a (θ − θ_0) + jᵀ(y − f_0)/9
    moved = np.linalg.solve(a, j.T @ (y - f0) / 9)
    if time < np.inf:
        moved -= scipy.linalg.expm(-a * time) @ moved
    flow = nk.gradient_flow(theta, y, f0, time, ntk_test=j_z @ j.T, f0_test=f0_z, ridge=0.3)
    assert flow.outputs == pytest.approx(f0 + j @ moved, rel=1e-10, abs=1e-11)
    assert flow.test_outputs == pytest.approx(f0_z + j_z @ moved, rel=1e-10, abs=1e-11)
    mean, _ = nk.flow_distribution(
        ntk=theta, ntk_test=j_z @ j.T, nngp=np.eye(9), nngp_test=np.zeros((5, 9)),
        nngp_test_test=np.eye(5), y=y - f0, time=time, ridge=0.3,
    )  # fmt: skip
    assert mean == pytest.approx(j_z @ moved, rel=1e-10, abs=1e-11)


def test_a_ridge_and_a_singular_kernel(data):
    x = np.repeat(data[0][:1], 2, axis=0)
    theta = nk.gram(NET, x).ntk
    flow = nk.gradient_flow(theta, [0.0, 1.0], [0.0, 0.0], np.inf, ridge=0.5)
    value = theta[0, 0]  # Θ = v 11ᵀ: along 11ᵀ the eigenvalue is 2v, and the ridge v/2
    assert flow.outputs == pytest.approx(0.5 * 2 * value / (2.5 * value))


def test_the_largest_learning_rate(data):
    """Discrete steps converge below it, and diverge above."""
    x, y, _ = data
    theta = nk.gram(NET, x).ntk
    for ridge in (0.0, 0.2):
        rate = nk.max_learning_rate(theta, ridge=ridge)
        for given in (nk.gram(NET, x), nk.gram(NET, x, kernels="ntk")):
            assert nk.max_learning_rate(given, ridge=ridge) == rate
        assert nk.max_learning_rate(NET, x, ridge=ridge) == rate
        a = theta + ridge * np.trace(theta) / 9 * np.eye(9)
        for factor in (0.99, 1.01):
            c = np.zeros((9, 2))
            for _ in range(4000):
                c -= factor * rate / 9 * (a @ c - y)
            assert (np.linalg.norm(a @ c - y) < 1e3) == (factor < 1)
    assert nk.max_learning_rate(np.zeros((2, 2))) == np.inf


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((NET,), "X is missing"),
        ((np.eye(2), np.eye(2)), "X is given with a matrix"),
        ((np.ones((2, 3)),), r"ntk must be a square matrix, not \(2, 3\)"),
        ((np.array([[1, 2.0], [0, 1]]),), "ntk is not symmetric"),
    ],
)
def test_bad_arguments_of_the_learning_rate(arguments, text):
    with pytest.raises(ValueError, match=text):
        nk.max_learning_rate(*arguments)
    with pytest.raises(ValueError, match="ridge must be finite and not negative"):
        nk.max_learning_rate(np.eye(2), ridge=-1)


def test_the_distribution_over_starts(data):
    x, y, z = data
    both = np.concatenate([x, z])
    k = nk.gram(NET, both)
    theta, theta_z, time = k.ntk[:9, :9], k.ntk[9:, :9], 2.0
    mean, covariance = nk.flow_distribution(
        ntk=theta,
        ntk_test=theta_z,
        nngp=k.nngp[:9, :9],
        nngp_test=k.nngp[9:, :9],
        nngp_test_test=k.nngp[9:, 9:],
        y=y[:, 0],
        time=time,
    )
    starts = np.linalg.cholesky(k.nngp) @ np.random.default_rng(5).standard_normal((14, 40_000))
    target = np.repeat(y[:, :1], starts.shape[1], axis=1)
    ends = nk.gradient_flow(
        theta, target, starts[:9], time, ntk_test=theta_z, f0_test=starts[9:]
    ).test_outputs
    assert ends.mean(axis=1) == pytest.approx(
        mean, abs=5 * (np.diag(covariance).max() / 4e4) ** 0.5
    )
    assert np.cov(ends) == pytest.approx(covariance, abs=0.05 * np.diag(covariance).max())


@pytest.mark.slow
def test_wide_networks_follow_it(data):
    """Single networks approach the flow on training and test samples as they widen."""
    x, y, z = data
    theta, theta_z = nk.gram(NET, x).ntk, nk.gram(NET, z, x).ntk
    rate = 0.2 * len(x) / np.linalg.eigvalsh(theta)[-1]
    off = {}
    for width in (64, 1024):
        for seed in range(4):
            params = fw.sample(NET, 4, width, 2, seed=seed)
            history = fw.train(params, x, y, rate, 200, test=z)
            flow = nk.gradient_flow(
                theta,
                y,
                history.outputs[0],
                200 * rate,
                ntk_test=theta_z,
                f0_test=history.test_outputs[0],
            )
            seen = np.concatenate([history.outputs[-1], history.test_outputs[-1]])
            wanted = np.concatenate(flow)
            moved = np.linalg.norm(
                wanted - np.concatenate([history.outputs[0], history.test_outputs[0]])
            )
            off.setdefault(width, []).append(np.linalg.norm(seen - wanted) / moved)
    assert np.mean(off[1024]) < 0.06
    assert np.mean(off[64]) > 2.5 * np.mean(off[1024])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ntk": np.ones((2, 3))}, r"ntk must be a square matrix, not \(2, 3\)"),
        ({"y": np.ones(3)}, r"y must be of shape \(2, ...\), not \(3,\)"),
        ({"f0": np.ones((2, 1))}, "f0 must have the shape of y"),
        ({"time": -1}, "time must be at least 0, not -1"),
        ({"time": np.nan}, "time must be at least 0, not nan"),
        ({"f0_test": None}, "f0_test is missing"),
        ({"ntk_test": None}, "ntk_test is missing"),
        ({"y": [1.0, np.nan]}, "y holds numbers that are not finite"),
        ({"ridge": -1.0}, "ridge must be finite and not negative"),
        ({"ntk": np.full((2, 2), np.inf)}, r"ntk: row 0, column 0 \(counted from 0\) is inf"),
        ({"ntk": [[1.0, 0.5], [0.0, 1.0]]}, "ntk is not symmetric: row 0, column 1"),
        ({"ridge": 1e308, "ntk": 10 * np.eye(2)}, "ridge=1e\\+308 is too large"),
        ({"ntk_test": np.ones((1, 3))}, r"ntk_test must be of shape \(M, 2\), not \(1, 3\)"),
        ({"f0_test": np.ones(3)}, r"f0_test must be of shape \(1\), not \(3,\)"),
    ],
)
def test_bad_arguments(change, text):
    job = {"ntk": np.eye(2), "y": np.ones(2), "f0": np.zeros(2), "time": 1.0,
           "ntk_test": np.ones((1, 2)), "f0_test": np.zeros(1)}  # fmt: skip
    with pytest.raises(ValueError, match=text):
        nk.gradient_flow(**(job | change))


@pytest.mark.parametrize("name", ["ntk_test", "nngp", "nngp_test", "nngp_test_test", "y"])
def test_bad_shapes_for_the_distribution(name):
    job = {"ntk": np.eye(2), "ntk_test": np.ones((1, 2)), "nngp": np.eye(2), "time": 1.0}
    job |= {"nngp_test": np.ones((1, 2)), "nngp_test_test": np.ones((1, 1)), "y": np.ones(2)}
    assert nk.flow_distribution(**job)[0].shape == (1,)
    with pytest.raises(ValueError, match=rf"{name} must be of shape .*, not \(5, 5\)"):
        nk.flow_distribution(**(job | {name: np.ones((5, 5))}))
