"""The regressor and the classifier, and scikit-learn's own checks of estimators."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from marks import marked
from scipy.special import log_ndtr
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ntk_numba as nk
from ntk_numba.sklearn import NTKClassifier, NTKRegressor

NET = nk.MLP(3, "relu", 1.0, 0.1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((30, 4))


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(1).standard_normal((7, 4))


def plain_posterior(x, z, y, relative):
    """Return mean and variance of the Gaussian process with K = Θ, its weights and the ridge."""
    k, cross = nk.gram(NET, x).ntk, nk.gram(NET, z, x).ntk
    ridge = relative * np.trace(k) / len(k)
    inverse = np.linalg.inv(k + ridge * np.eye(len(k)))
    variance = nk.diagonal(NET, z).ntk - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    return cross @ inverse @ y, variance, inverse @ y, ridge


@pytest.mark.parametrize("outputs", [(), (1,), (3,)])
def test_the_regressor_is_ridge_regression_with_the_kernel(x, z, outputs):
    y = np.random.default_rng(2).standard_normal((30, *outputs)) + 5
    model = NTKRegressor(ridge=1e-3).fit(x, y)
    mean, variance, weights, ridge = plain_posterior(x, z, y, 1e-3)
    np.testing.assert_allclose(model.predict(z), mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(model.dual_coef_, weights, rtol=1e-9, atol=1e-9)
    assert model.ridge_ == pytest.approx(ridge, rel=1e-12)
    again, std = model.predict(z, return_std=True)
    assert np.array_equal(again, model.predict(z))
    scale = np.sqrt((y * weights).mean(axis=0))
    right = np.multiply.outer(np.sqrt(variance), scale)
    np.testing.assert_allclose(std, right, rtol=1e-9)
    assert mean.shape == std.shape == (7, *outputs)
    same = nk.kernel_ridge(NET, x, y, ridge=1e-3).predict(z)
    assert np.array_equal(again, same)


@pytest.mark.parametrize("unit", [100, 1e200, 1e-200])
def test_standard_deviations_have_the_units_of_the_targets(x, z, unit):
    y = x[:, 0] * x[:, 1]
    _, std = NTKRegressor().fit(x, y).predict(z, return_std=True)
    _, other = NTKRegressor().fit(x, unit * y).predict(z, return_std=True)
    np.testing.assert_allclose(other, unit * std, rtol=1e-9)
    larger = NTKRegressor(w_std=2.0, b_std=0.2)  # the kernel times 64
    _, other = larger.fit(x, y).predict(z, return_std=True)
    _, std = NTKRegressor(w_std=1.0, b_std=[0.1, 0.05, 0.025]).fit(x, y).predict(z, return_std=True)
    np.testing.assert_allclose(other, std, rtol=1e-9)


@pytest.mark.parametrize("names", [[3, 7], ["cat", "dog", "eel"], [False, True]])
def test_the_classifier_takes_labels_of_any_type(x, z, names):
    names = np.array(names)
    numbers = np.digitize(x[:, 0], [-0.4, 0.4][: len(names) - 1])
    model = NTKClassifier(ridge=1e-3).fit(x, names[numbers])
    targets = np.eye(len(names))[numbers] - 1 / len(names)
    outputs = plain_posterior(x, z, targets, 1e-3)[0]
    assert np.array_equal(model.classes_, names)
    assert np.array_equal(model.predict(z), names[outputs.argmax(axis=1)])
    chances = model.predict_proba(z)
    assert np.array_equal(chances.argmax(axis=1), outputs.argmax(axis=1))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-12)
    assert chances.max() <= 1
    decision = model.decision_function(z)
    if len(names) == 2:
        np.testing.assert_allclose(decision, outputs[:, 1] - outputs[:, 0], rtol=1e-9)
    else:
        np.testing.assert_allclose(decision, outputs, rtol=1e-9, atol=1e-10)
    assert model.score(x, names[numbers]) == 1


def test_ridges_are_chosen_from_the_targets(x):
    y = x[:, 0] + np.random.default_rng(3).standard_normal(30)
    for ridge in "loo", "evidence":
        right = nk.kernel_ridge(NET, x, y, ridge=ridge).ridge
        assert NTKRegressor(ridge=ridge).fit(x, y).ridge_ == right
        NTKClassifier(ridge=ridge).fit(x, y > 0)


def test_data_frames_and_sparse_matrices(x, z):
    frame = pd.DataFrame(x, columns=list("abcd"))
    model = NTKRegressor().fit(frame, frame["a"])
    assert model.feature_names_in_.tolist() == list("abcd") and model.n_features_in_ == 4
    right = NTKRegressor().fit(x, x[:, 0]).predict(z)
    assert np.array_equal(model.predict(pd.DataFrame(z, columns=list("abcd"))), right)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(pd.DataFrame(z, columns=list("abce")))
    model = NTKRegressor().fit(scipy.sparse.csr_array(x), x[:, 0])
    np.testing.assert_allclose(model.predict(scipy.sparse.csc_matrix(z)), right, rtol=1e-12)
    model = NTKRegressor().fit(x.astype(np.float32), x[:, 0])  # in float64 all the same
    assert model.model_.factor.dtype == np.float64
    np.testing.assert_allclose(model.predict(z.astype(np.float32)), right, rtol=1e-5)


def test_fitted_estimators_are_pickled_without_the_factor(x, z):
    x = np.tile(x, (5, 1)) + np.random.default_rng(4).standard_normal((150, 4))
    model = NTKClassifier().fit(x, x[:, 0] > 0)
    before = pickle.loads(pickle.dumps(model))  # before the first probabilities
    chances = model.predict_proba(z)
    data = pickle.dumps(model)
    assert len(data) < 8 * 150 * 150 / 4
    for copy in (before, pickle.loads(data)):
        assert np.array_equal(copy.decision_function(z), model.decision_function(z))
        np.testing.assert_allclose(copy.predict_proba(z), chances, rtol=1e-9)
    regressor = NTKRegressor().fit(x, x[:, 0])
    copy = pickle.loads(pickle.dumps(regressor))
    std = regressor.predict(z, return_std=True)[1]
    np.testing.assert_allclose(copy.predict(z, return_std=True)[1], std, rtol=1e-9)
    unfitted = clone(model)
    assert unfitted.get_params() == model.get_params() and not hasattr(unfitted, "model_")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"activation": "rleu"}, "rleu"),
        ({"w_std": -1}, "w_std of layer 1 must be finite and not negative"),
        ({"kernel": "rbf"}, "kernel.* 'rbf'"),
        ({"ridge": -1}, "ridge must be finite and not negative, not -1"),
        ({"ridge": "cv"}, "ridge must be a number, 'loo' or 'evidence', not 'cv'"),
    ],
)
def test_wrong_parameters_are_named_by_fit(x, wrong, text):
    for kind in (NTKRegressor, NTKClassifier):
        with pytest.raises(ValueError, match=text):
            kind(**wrong).fit(x, (x[:, 0] > 0).astype(int))


def test_equal_samples_need_a_ridge(x):
    twice = np.vstack([x, x[3:4]])
    text = r"rows 3 and 30 are equal.*a positive ridge"
    with pytest.raises(nk.errors.NotPositiveDefiniteError, match=text):
        NTKRegressor(ridge=0).fit(twice, twice[:, 0])
    with pytest.raises(ValueError, match="all samples are of one class, 'a';"):
        NTKClassifier().fit(x, ["a"] * 30)


def test_it_works_in_a_pipeline_and_a_search():
    x, names = load_wine(return_X_y=True, as_frame=True)
    names = names.map({0: "red", 1: "white", 2: "rosé"})
    model = make_pipeline(StandardScaler(), NTKClassifier())
    grid = {"ntkclassifier__depth": [1, 2], "ntkclassifier__kernel": ["ntk", "nngp"]}
    search = GridSearchCV(model, grid, cv=3).fit(x, names)
    assert search.best_score_ > 0.95
    assert set(search.predict(x)) == {"red", "white", "rosé"}


@pytest.mark.cluster
def test_a_search_in_several_processes():
    x, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), NTKRegressor(2))
    grid = {"ntkregressor__ridge": [0.1, 1.0], "ntkregressor__activation": ["relu", "erf"]}
    alone, search = (
        GridSearchCV(model, grid, cv=3, n_jobs=jobs).fit(x, y) for jobs in (1, 2)
    )  # fmt: skip
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(search.cv_results_[key], alone.cv_results_[key], rtol=1e-9)
    assert alone.best_params_ == search.best_params_


def test_probabilities_are_calibrated():
    """Their log loss for other samples is no larger than with half or twice the spread."""
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    model = NTKClassifier(ridge=0.1).fit(x[::2], y[::2])
    chances = model.predict_proba(x[1::2])
    loss = log_loss(y[1::2], chances)
    assert loss < 0.12
    spread = model._calibration.spread
    for factor in (0.5, 2):
        outputs = model.model_.predict(x[1::2])
        assert loss < log_loss(y[1::2], nk.class_probabilities(outputs, factor * spread))


def test_the_calibration_maximises_the_leave_one_out_likelihood(x):
    """Compared with a search on a grid, with the errors of N separate fits."""
    numbers = (x[:, 0] + x[:, 1] > 0).astype(int)
    signs = 2 * numbers - 1
    model = NTKClassifier(ridge=0.1).fit(x, numbers)
    targets = np.eye(2)[numbers] - 0.5
    left_out = np.empty((30, 2))
    k = nk.gram(NET, x).ntk + model.ridge_ * np.eye(30)
    for i in range(30):
        rest = np.arange(30) != i
        left_out[i] = k[i, rest] @ np.linalg.solve(k[np.ix_(rest, rest)], targets[rest])
    others = 1 / (np.bincount(numbers)[numbers] + 2)

    def loss(spread):
        away = signs * (left_out[:, 1] - left_out[:, 0]) / (2**0.5 * spread)
        return -np.mean((1 - others) * log_ndtr(away) + others * log_ndtr(-away))

    grid = np.geomspace(0.02, 5, 2000)
    best = grid[np.argmin([loss(s) for s in grid])]
    assert model._calibration.spread == pytest.approx(best, rel=5e-3)


CHECKED = [NTKRegressor(), NTKClassifier(), NTKClassifier(2, "erf", kernel="nngp", ridge=1e-3)]


@pytest.mark.parametrize("estimator", marked(pytest.mark.slow, CHECKED), ids=repr)
def test_scikit_learn_accepts_the_estimator(estimator):
    from sklearn.utils.estimator_checks import check_estimator

    results = check_estimator(estimator, on_skip=None)  # raises at a failure
    allowed = {"check_array_api_input"} if "SCIPY_ARRAY_API" not in os.environ else set()
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= allowed
    assert len(results) > 50


@pytest.mark.slow
def test_the_diabetes_are_predicted_as_well_as_by_others():
    x, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), NTKRegressor(2, ridge=1.0))
    assert cross_val_score(model, x, y - y.mean()).mean() > 0.45
