"""Standardised features, of awkward data too."""

import numpy as np
import pytest

from ntk_numba.inputs.source import open_source
from ntk_numba.predict.preprocess import Standardize, fit_preprocess


def fitted(x):
    return Standardize.of(open_source(x, "X"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_mean_and_deviation(dtype):
    x = (100 * np.random.default_rng(1).standard_normal((500, 3)) + 40).astype(dtype)
    map_ = fitted(x)
    wide = x.astype(float)
    assert map_.mean == pytest.approx(wide.mean(axis=0), rel=1e-13)
    assert map_.scale == pytest.approx(wide.std(axis=0), rel=1e-12)
    source = open_source(x, "X")
    rows = map_.apply(source.read(0, 500))
    assert rows.dtype == source.dtype
    assert rows.mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert rows.std(axis=0) == pytest.approx(1, abs=1e-6)


def test_features_that_do_not_vary():
    x = np.column_stack([np.full(7, 0.1), np.zeros(7), np.arange(7.0), np.full(7, 1e300)])
    map_ = fitted(x)
    assert map_.scale.tolist() == [1, 1, 2, 1]
    assert map_.apply(x)[:, [0, 1, 3]] == pytest.approx(0, abs=1e285)
    assert fitted(x[:1]).scale.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_no_square_overflows(size):
    x = np.array([[-1.0], [1.0], [3.0]]) * size
    assert fitted(x).apply(x)[:, 0] == pytest.approx([-1.224744871391589, 0, 1.224744871391589])


def test_what_it_may_be():
    source = open_source(np.ones((4, 2)), "X")
    assert fit_preprocess(None, source) is None
    map_ = Standardize(np.zeros(2), np.ones(2))
    assert fit_preprocess(map_, source) is map_
    with pytest.raises(ValueError, match="preprocess is of 3 features, X has 2"):
        fit_preprocess(Standardize(np.zeros(3), np.ones(3)), source)
    with pytest.raises(ValueError, match="preprocess must be None or 'standardize'"):
        fit_preprocess(True, source)
    with pytest.raises(ValueError, match="preprocess must be None or 'standardize'"):
        fit_preprocess(np.ones(2), source)
