"""Regression with centres against its normal equations, and against the exact regression."""

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.errors import InvalidTypeError, InvalidValueError

NET = nk.MLP(3, "relu", 2**0.5, 0.1)
RNG = np.random.default_rng(7)
X, Z = RNG.standard_normal((90, 4)), RNG.standard_normal((20, 4))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]])
CENTRES = np.sort(RNG.choice(90, 25, replace=False))


def solved(net, centres, ridge, kernel="ntk"):
    """Return predictions for X and Z, and coefficients, by least squares with a square root."""
    k = getattr(nk.gram(net, X), kernel)
    root = np.linalg.cholesky(k[np.ix_(centres, centres)]).T
    rows = np.concatenate([k[:, centres], np.sqrt(ridge) * root])
    right = np.concatenate([Y, np.zeros((len(centres), 2))])
    weights = np.linalg.lstsq(rows, right, rcond=None)[0]
    return k[:, centres] @ weights, getattr(nk.gram(net, Z, X[centres]), kernel) @ weights, weights


@pytest.mark.parametrize("ridge", marked(pytest.mark.slow, [0.5, 1e-6]))
def test_it_solves_the_normal_equations(ridge):
    model = nk.nystrom_regression(NET, X, Y, centres=CENTRES, ridge=ridge, absolute=True)
    on_x, on_z, weights = solved(NET, CENTRES, ridge)
    assert sorted(model.centres) == CENTRES.tolist() and model.ridge == ridge
    assert model.predict(X) == pytest.approx(on_x, abs=1e-10)
    assert model.predict(Z) == pytest.approx(on_z, abs=1e-10)
    order = np.argsort(model.centres)
    assert model.dual_coef[order] == pytest.approx(weights, rel=1e-7, abs=1e-9)


def test_what_it_says_of_its_errors():
    k = nk.gram(NET, X).ntk
    for ridge in (1e-6, 0.1):
        model, exact = (
            f(NET, X, Y, ridge=ridge, **more)
            for f, more in ((nk.nystrom_regression, {"centres": 30}), (nk.kernel_ridge, {}))
        )
        assert model.ridge == pytest.approx(exact.ridge, rel=1e-14)
        alpha = np.zeros((90, 2))
        alpha[model.centres] = model.dual_coef
        rest = Y - k @ alpha - model.ridge * alpha
        lengths = np.linalg.norm(Y, axis=0)
        assert model.residual == pytest.approx((np.linalg.norm(rest, axis=0) / lengths).max())
        off = np.linalg.norm(model.predict(X) - exact.predict(X), axis=0) / lengths
        assert (off <= model.residual).all()
        c = model.centres
        nystrom = k[:, c] @ np.linalg.solve(k[np.ix_(c, c)], k[c])
        assert model.left_out == pytest.approx(1 - np.trace(nystrom) / np.trace(k), rel=1e-9)
    found, other = model.predict(Z), exact.predict(Z)
    compared = model.compare(exact, Z)
    assert compared.relative == np.linalg.norm(found - other) / np.linalg.norm(other)
    assert compared.largest == np.abs(found - other).max()
    assert compared.agreement == np.mean(found.argmax(axis=1) == other.argmax(axis=1))
    wanted = np.sqrt(np.mean((found - 1) ** 2, axis=0))
    assert model.error(Z, np.ones((20, 2))) == pytest.approx(wanted, rel=1e-14)
    assert "30 of 90 samples as centres, within 0." in repr(model)


def test_all_samples_as_centres_are_exact_regression():
    model = nk.nystrom_regression(NET, X, Y, centres=1000, ridge=1e-8, kernel="nngp")
    exact = nk.kernel_ridge(NET, X, Y, ridge=1e-8, kernel="nngp")
    assert len(model.centres) == 90
    assert model.compare(exact, Z).relative < 1e-9 and model.residual < 1e-7


def test_dependent_centres_are_left_out():
    x = np.concatenate([X[:40], X[:40]])
    model = nk.nystrom_regression(NET, x, np.tile(Y[:40], (2, 1)), centres=80, ridge=0)
    assert len(model.centres) == 40
    assert model.predict(X[:40]) == pytest.approx(Y[:40], abs=1e-8)


@pytest.mark.slow
def test_blocks_of_rows_and_options(monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", 3 * X + 1)
    whole = nk.nystrom_regression(
        NET, 3 * X + 1, Y[:, 0], centres=20, preprocess="standardize", seed=3
    )
    monkeypatch.setattr("ntk_numba.predict.nystrom.LEAST_ROWS", 24)
    again = nk.nystrom_regression(
        NET, tmp_path / "x.npy", Y[:, 0], centres=20, preprocess="standardize", seed=3
    )
    assert (whole.centres == again.centres).all()
    assert again.predict(3 * Z + 1) == pytest.approx(whole.predict(3 * Z + 1), abs=1e-10)
    assert again.predict(3 * Z + 1).shape == (20,)
    single = nk.nystrom_regression(NET, X, Y, centres=20, dtype="float32")
    double = nk.nystrom_regression(NET, X, Y, centres=20)
    assert single.compare(double, Z).relative < 1e-3


@pytest.mark.slow
def test_activations_are_fitted_up_to_rows_that_are_no_centres():
    tanh = nk.MLP(2, "tanh", 1.5, 0.1)
    far = np.concatenate([X, [[30.0, 0, 0, 0]]])
    model = nk.nystrom_regression(tanh, far, np.append(Y[:, 0], 1), centres=np.arange(20))
    same = nk.nystrom_regression(
        tanh, far, np.append(Y[:, 0], 1), centres=np.arange(20), up_to=30.0
    )
    assert model.predict(Z) == pytest.approx(same.predict(Z), rel=1e-9)


@pytest.mark.slow
def test_targets_near_the_limits_of_float64():
    model = nk.nystrom_regression(NET, X, Y * [1e200, 1e-200], centres=CENTRES)
    plain = nk.nystrom_regression(NET, X, Y, centres=CENTRES)
    assert model.dual_coef * [1e-200, 1e200] == pytest.approx(plain.dual_coef, rel=1e-8)
    assert model.residual == pytest.approx(plain.residual, rel=1e-8)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"centres": 0}, InvalidValueError, "centres must be at least 1"),
        ({"centres": [1, 90]}, InvalidValueError, r"X has no row 90 \(counted from 0\), but 90"),
        ({"centres": [3, 3]}, InvalidValueError, "row 3 occurs twice"),
        ({"centres": [0.5]}, InvalidTypeError, "numbers of rows"),
        ({"ridge": "loo"}, InvalidValueError, "ridge must be a number"),
        ({"kernel": "both"}, InvalidValueError, "kernel must be"),
        ({"memory": "100kB"}, InvalidValueError, "memory=.* is too little: 90 centres take"),
    ],
)
def test_bad_arguments(change, error, text):
    with pytest.raises(error, match=text):
        nk.nystrom_regression(NET, X, Y, **change)


def test_bad_samples_and_models_to_compare_with():
    model = nk.nystrom_regression(NET, X, Y, centres=3)
    with pytest.raises(InvalidValueError, match=r"y_test must be of shape \(20, 2\), not \(20,\)"):
        model.error(Z, np.ones(20))
    with pytest.raises(InvalidValueError, match="other model has outputs of shape"):
        model.compare(nk.nystrom_regression(NET, X, Y[:, 0], centres=3), Z)
