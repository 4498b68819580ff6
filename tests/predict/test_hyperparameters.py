"""Hyperparameters from the targets, on real data and on draws from a known prior."""

from pathlib import Path

import numpy as np
import plain
import pytest
from marks import marked
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes

import ntk_numba as nk

NET = nk.MLP(3, "relu", 1.4, 0.1)
DIGITS = Path(__file__).parents[2] / "data" / "digits.npz"


def draws(net, noise, count=60, outputs=30):
    """Targets of the prior of a network, with noise relative to the mean of the diagonal."""
    x = np.random.default_rng(0).standard_normal((count, 4))
    k = nk.gram(net, x).nngp
    root = np.linalg.cholesky(k + noise * k.diagonal().mean() * np.eye(count))
    return x, root @ np.random.default_rng(1).standard_normal((count, outputs))


def evidence(x, y, w_std, b_std, noise, depth):
    """The evidence of the NNGP of a ReLU network in plain NumPy."""
    k = plain.relu_kernels(x, [w_std] * depth, [b_std] * depth)[0][-1]
    a = k + noise * k.diagonal().mean() * np.eye(len(k))
    y = y.reshape(len(x), -1)
    log_det = np.linalg.slogdet(2 * np.pi * a)[1]
    return -0.5 * ((y * np.linalg.solve(a, y)).sum() + y.shape[1] * log_det)


@pytest.mark.slow
def test_what_was_drawn_is_found():
    true = nk.MLP(3, "relu", 1.6, 0.5)
    x, y = draws(true, 0.05)
    best = nk.fit_hyperparameters(NET, x, y, depths=[2, 3, 5], starts=3, refine=1)
    assert best.net.depth == 3 and best.net.activation == NET.activation
    assert best.net.w_std[0] == pytest.approx(1.6, rel=0.1)
    assert best.net.b_std[0] == pytest.approx(0.5, rel=0.3)
    assert best.noise == pytest.approx(0.05, rel=0.2)
    assert best.value >= evidence(x, y, 1.6, 0.5, 0.05, 3)
    assert best.table[0].depth == 3 and len(best.table) == 3
    values = [row.value for row in best.table]
    assert values == sorted(values, reverse=True) and values[0] == best.value
    for row in best.table:
        wanted = evidence(x, y, row.w_std, row.b_std, row.noise, row.depth)
        assert row.value == pytest.approx(wanted, rel=1e-10)
        assert row.converged and row.failure == "" and row.at_bounds == ()
    assert len(best.screened) == 9 and max(r.value for r in best.screened) < best.value
    process = nk.gaussian_process(best.net, x, y, noise=best.noise)
    assert process.log_marginal_likelihood == pytest.approx(best.value, rel=1e-10)
    slopes = process.gradient()
    for slope in (slopes["w_std"].sum(), slopes["b_std"].sum(), slopes["noise"]):
        assert abs(slope) < 1e-4 * y.size
    text = str(best).splitlines()
    assert text[0] == "nngp of 3 networks" and "log evidence" in text[1]
    assert text[2].split()[:3] == ["relu", "3", f"{row_of(best, 3).w_std:.4g}"]


def row_of(fit, depth):
    return next(row for row in fit.table if row.depth == depth)


@pytest.mark.slow
def test_the_maximum_of_another_optimiser():
    """Nelder and Mead's method on the evidence in plain NumPy, of 80 patients."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x[::6] / x[::6].std(axis=0), (y[::6] - y[::6].mean()) / y.std()
    best = nk.fit_hyperparameters(NET, x, y)

    def lower(logs):
        return -evidence(x, y, *np.exp(logs), 3)

    starts = [np.log([w, b, s]) for w in (0.8, 1.6) for b in (0.1, 1) for s in (0.1, 1)]
    ends = [minimize(lower, start, method="Nelder-Mead").fun for start in starts]
    assert best.value == pytest.approx(-min(ends), abs=1e-3)


@pytest.mark.parametrize("kernel", marked(pytest.mark.slow, ["nngp", "ntk"]))
@pytest.mark.parametrize("objective", marked(pytest.mark.slow, ["loo", "evidence"]))
def test_the_digits(objective, kernel):
    """Two classes of 40 digits: the objective rises from each start to the end of the table."""
    with np.load(DIGITS) as archive:
        x, labels = archive["x"], archive["y"]
    chosen = np.flatnonzero(labels < 2)[:40]
    targets = nk.one_hot(labels[chosen])[0]
    best = nk.fit_hyperparameters(
        NET, x[chosen], targets, objective=objective, kernel=kernel, starts=2, refine=1
    )
    process = nk.gaussian_process(best.net, x[chosen], targets, noise=best.noise, kernel=kernel)
    density = process.leave_one_out().log_density.sum()
    value = process.log_marginal_likelihood if objective == "evidence" else density
    assert best.value == pytest.approx(value, rel=1e-8)
    assert best.value > max(start.value for start in best.screened)
    assert (best.objective, best.kernel) == (objective, kernel)


def test_activations_and_depths():
    x, y = draws(nk.MLP(2, "relu", 1.5, 0.3), 0.1, count=20, outputs=3)
    options = {"depths": [1, 2], "activations": ["relu", "abs"], "starts": 2, "refine": 1}
    fit = nk.fit_hyperparameters(NET, x, y, **options)
    assert {(r.activation, r.depth) for r in fit.table} == {("none", 1), ("relu", 2), ("abs", 2)}
    assert fit == nk.fit_hyperparameters(NET, x, y, **options)  # the same in every bit
    other = nk.fit_hyperparameters(NET, x, y, **options, seed=1)
    assert other.screened != fit.screened
    assert other.value == pytest.approx(fit.value, abs=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["erf", "tanh"])
def test_other_activations(activation):
    true = nk.MLP(3, activation, 1.5, 0.3)
    x, y = draws(true, 0.05, count=30, outputs=10)
    fit = nk.fit_hyperparameters(true.replace(w_std=1.0), x, y, starts=2, refine=1)
    process = nk.gaussian_process(true, x, y, noise=0.05)
    assert fit.value > process.log_marginal_likelihood
    assert fit.noise == pytest.approx(0.05, rel=0.5)


def test_what_is_not_fitted_stays():
    x, y = draws(NET, 0.1, count=20, outputs=2)
    options = {"starts": 2, "refine": 1}
    fit = nk.fit_hyperparameters(NET, x, y, fit=["w_std"], noise=0.3, **options)
    assert fit.noise == 0.3 and fit.net.b_std == NET.b_std and fit.net.w_std != NET.w_std
    fit = nk.fit_hyperparameters(NET, x, y, fit="noise", **options)
    assert fit.net == NET and fit.noise != 0.01
    fit = nk.fit_hyperparameters(NET, x, y, fit=[], noise=0.0, **options)
    assert fit.net == NET and fit.noise == 0 and fit.table[0].evaluations == 1
    process = nk.gaussian_process(NET, x, y, noise=0.0)
    assert fit.value == pytest.approx(process.log_marginal_likelihood, rel=1e-9)
    per_layer = nk.MLP(2, "relu", [1.0, 1.5], [0.0, 0.2])
    fit = nk.fit_hyperparameters(per_layer, x, y, shared=False, starts=1)
    row = fit.table[0]
    assert row.w_std == fit.net.w_std and len(set(row.w_std)) == 2
    assert f"{row.w_std[0]:.4g} {row.w_std[1]:.4g}" in str(fit)
    fit = nk.fit_hyperparameters(per_layer, x, y, fit=["noise"], **options)
    assert fit.net == per_layer


def test_the_scale_of_a_homogeneous_network():
    """With β = 0 the scale is that at which yᵀA⁻¹y/N is 1, for any other choice of the targets."""
    x, y = draws(NET.replace(b_std=0.0), 0.1, count=20, outputs=2)
    scales = []
    for scale in (1.0, 1e4):
        net, noise = NET.replace(b_std=0.0), 0.1
        fit = nk.fit_hyperparameters(net, x, scale * y, fit=["w_std"], noise=noise, starts=1)
        process = nk.gaussian_process(fit.net, x, scale * y, noise=noise)
        assert np.vdot(scale * y, process.dual_coef) / y.size == pytest.approx(1, abs=1e-3)
        scales.append(fit.net.w_std[0])
    assert (scales[1] / scales[0]) ** 3 == pytest.approx(1e4, rel=1e-2)
    free = nk.fit_hyperparameters(NET.replace(b_std=0.0), x, y, starts=1, refine=1)
    assert free.net.b_std[0] > 0  # it starts from 0.1


def test_bounds_are_kept_and_named():
    x, y = draws(NET, 0.1, count=20, outputs=2)
    bounds = {"w_std": np.array([3.0, 4.0]), "noise": [1e-3, 5e-3]}
    fit = nk.fit_hyperparameters(NET, x, y, bounds=bounds, starts=3, refine=1)
    assert fit.net.w_std[0] == pytest.approx(3.0) and fit.noise == pytest.approx(1e-3)
    assert {"w_std", "noise"} <= set(fit.table[0].at_bounds)
    assert "w_std at its bound" in str(fit) and all(3 <= s.w_std <= 4 for s in fit.screened)


def test_samples_of_float32_from_a_file(tmp_path):
    x, y = draws(NET, 0.1, count=20, outputs=1)
    np.save(tmp_path / "x.npy", x.astype("float32"))
    options = {"starts": 1, "refine": 1, "preprocess": "standardize"}
    found = nk.fit_hyperparameters(NET, tmp_path / "x.npy", y[:, 0], **options)
    wanted = nk.fit_hyperparameters(NET, x, y, **options)
    assert found.value == pytest.approx(wanted.value, abs=1e-3)
    process = nk.gaussian_process(found.net, x, y, noise=found.noise, preprocess="standardize")
    assert process.log_marginal_likelihood == pytest.approx(found.value, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "aic"}, "objective must be 'evidence' or 'loo'"),
        ({"kernel": "ensemble"}, "kernel must be 'nngp' or 'ntk', not 'ensemble'"),
        ({"fit": ["depth"]}, "fit: 'depth' is none of w_std, b_std, noise"),
        ({"noise": 0.0}, "noise must be more than 0"),
        ({"noise": -1.0, "fit": ["w_std"]}, "noise must be finite and not negative"),
        ({"bounds": {"ridge": (1, 2)}}, "bounds: 'ridge' is none of"),
        ({"bounds": {"noise": 3}}, "bounds of noise must be a pair"),
        ({"bounds": {"noise": np.ones(3)}}, "bounds of noise must be a pair"),
        ({"bounds": {"noise": (0, 1)}}, "the lower bound of noise must be more than 0"),
        ({"bounds": {"noise": (2, 1)}}, "the upper bound of noise must be more than 2"),
        ({"depths": []}, "depths is empty"),
        ({"depths": 3}, "depths must be a sequence"),
        ({"depths": np.int64(3)}, "depths must be a sequence"),
        ({"activations": 3}, "activations must be a sequence"),
        ({"fit": None}, "fit must be a sequence"),
        ({"bounds": [("noise", (1, 2))]}, "bounds must be a mapping"),
        ({"objective": np.array(["loo", "loo"])}, "objective must be 'evidence' or 'loo'"),
        ({"depths": [0]}, "depths must be at least 1"),
        ({"activations": []}, "activations is empty"),
        ({"activations": ["rleu"]}, "rleu"),
        ({"starts": 0}, "starts must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        (
            {"memory": "1 kB"},
            "20 samples take 6.25 KiB in memory, more than .*; take fewer samples$",
        ),
        ({"preprocess": "whiten"}, "preprocess must be None or 'standardize'"),
    ],
)
def test_wrong_arguments(options, message):
    x, y = draws(NET, 0.1, count=20, outputs=1)
    with pytest.raises((ValueError, TypeError), match=message):
        nk.fit_hyperparameters(NET, x, y, **options)


def test_depths_beyond_a_network_whose_layers_differ():
    x, y = draws(NET, 0.1, count=10, outputs=1)
    net, options = nk.MLP(3, ["relu", "abs"]), {"starts": 1, "refine": 1, "iterations": 1}
    with pytest.raises(ValueError, match="depths: net has depth 3, and its activation is not"):
        nk.fit_hyperparameters(net, x, y, depths=[4], **options)
    fit = nk.fit_hyperparameters(net, x, y, depths=[1, 4], activations=["relu"], **options)
    assert {(row.activation, row.depth) for row in fit.table} == {("none", 1), ("relu", 4)}
    per_layer = nk.MLP(2, "relu", [1.0, 1.5])
    with pytest.raises(ValueError, match=r"its w_std is not .*; give a net of depth 3"):
        nk.fit_hyperparameters(per_layer, x, y, depths=[3], fit="noise", **options)


def test_wrong_data():
    x, y = draws(NET, 0.1, count=20, outputs=1)
    with pytest.raises(ValueError, match="y has 19 rows and X has 20"):
        nk.fit_hyperparameters(NET, x, y[1:])
    y[3] = np.nan
    with pytest.raises(ValueError, match="y: row 3"):
        nk.fit_hyperparameters(NET, x, y)
    x[4, 1] = np.inf
    with pytest.raises(ValueError, match="X: row 4"):
        nk.fit_hyperparameters(NET, x, y)


def test_no_start_can_be_computed():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="can be computed at no start; at the first, nngp with"):
        nk.fit_hyperparameters(NET, x, [0.0, 1.0, 2.0], fit=["w_std"], noise=0.0, starts=2)
    bounds = {"w_std": (1e5, 1e6)}
    with pytest.raises(ValueError, match="can be computed at no start; at the first, X: row 0"):
        nk.fit_hyperparameters(nk.MLP(40), x, [0.0, 1.0, 2.0], bounds=bounds)
    shallow = nk.fit_hyperparameters(nk.MLP(40), x, [0.0, 1.0, 2.0], bounds=bounds, depths=[2, 40])
    assert shallow.net.depth == 2 and "failed: X: row 0" in str(shallow)
