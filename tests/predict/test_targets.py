"""Class labels as targets, and the probabilities of classes."""

import datetime

import mpmath
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.errors import NtkNumbaError
from ntk_numba.predict.targets import read_targets


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0, 1, 0],
        ["c", "a", "b", "a"],
        np.array([7.5, -1.0, 3.0, -1.0]),
        np.array(["z", "x", "y", "x"], object),
        [datetime.date(2020, 1, 3), datetime.date(2020, 1, 1), datetime.date(2020, 1, 2),
         datetime.date(2020, 1, 1)],
    ],
    ids=["int", "str", "float", "object", "date"],
)  # fmt: skip
def test_one_hot(labels):
    targets, classes = nk.one_hot(labels)
    assert list(classes) == sorted(set(labels))
    wanted = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]) - 1 / 3
    assert targets == pytest.approx(wanted, rel=1e-15)
    assert list(classes[targets.argmax(axis=1)]) == list(labels)


def test_two_classes_of_truth_values():
    targets, classes = nk.one_hot([True, False])
    assert classes.tolist() == [False, True] and targets.tolist() == [[-0.5, 0.5], [0.5, -0.5]]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([1, 1], "all samples are of one class, 1"),
        (["a"], "all samples are of one class, 'a'"),
        ([], "it is empty"),
        ([1.0, np.nan, 2.0], r"row 1 \(counted from 0\) has no label"),
        (["a", None], "row 1"),
        (["a", np.nan], r"row 1 .* has no label \(nan\)"),
        (np.ma.array([1, 2, 3], mask=[0, 0, 1]), "row 2 .* has no label"),
        ([1, "1", 2], "different types cannot be sorted"),
        ([[1, 2], [3]], "some of them are sequences"),
        ([[1], [2]], r"labels must be of shape \(N,\)"),
        (np.array([1, "a", 2], object), "different types cannot be sorted"),
    ],
)
def test_bad_labels(labels, text):
    with pytest.raises(NtkNumbaError, match=text):
        nk.one_hot(labels)


def test_targets_are_copied():
    y = np.ones(3)
    read = read_targets(y, 3)
    y[:] = 2
    assert read.tolist() == [[1.0]] * 3 and read.dtype == float
    assert read_targets(np.array([[1, 2]]), 1).tolist() == [[1.0, 2.0]]


def exact(mean, std):
    """Return the probabilities by adaptive quadrature in 20 digits."""
    with mpmath.workdps(20):
        m = [mpmath.mpf(float(v)) / mpmath.mpf(float(std)) for v in mean]

        def density(u, c):
            others = (mpmath.ncdf(u - v) for k, v in enumerate(m) if k != c)
            return mpmath.npdf(u - m[c]) * mpmath.fprod(others)

        span = mpmath.linspace(max(m) - 12, max(m) + 12, 13)
        return [float(mpmath.quad(lambda u, c=c: density(u, c), span)) for c in range(len(m))]


@pytest.mark.parametrize(
    ("mean", "std"),
    marked(
        pytest.mark.slow,
        [([0.0, 5.0, 4.9], 0.05), ([0.3, -0.2], 0.7), ([0.9, -0.1, -0.05, 0.0], 0.3)],
    ),
)
def test_class_probabilities(mean, std):
    found = nk.class_probabilities([mean], [std])[0]
    assert found == pytest.approx(exact(mean, std), abs=1e-13)
    assert found.sum() == pytest.approx(1, abs=1e-13)


def test_probabilities_of_many_classes():
    rng = np.random.default_rng(4)
    mean = rng.standard_normal((3, 200))
    found = nk.class_probabilities(mean, np.full(3, 0.8))
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    draws = (mean[0] + 0.8 * rng.standard_normal((20_000, 200))).argmax(axis=1)
    seen = np.bincount(draws, minlength=200) / 20_000
    assert np.abs(seen - found[0]).max() < 5 * np.sqrt(found[0].max() / 20_000)
    assert nk.class_probabilities(np.zeros((1, 50)), 1e-9) == pytest.approx(0.02, abs=1e-13)


def test_probabilities_without_spread():
    found = nk.class_probabilities([[1.0, 0.0, 1.0], [0.0, -1e9, 2.0]], [0.0, 1e-300])
    assert found.tolist() == [[0.5, 0.0, 0.5], pytest.approx([0, 0, 1], abs=1e-13)]
    assert nk.class_probabilities([[1.7e308, -1.7e308]], 1.0).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        ([[1.0]], 1.0, "C ≥ 2"),
        ([1.0, 2.0], 1.0, "mean must be of shape"),
        ([[1.0, 2.0]], [1.0, 1.0], r"std must be a number or of shape \(1,\)"),
        ([[1.0, np.nan]], 1.0, "mean holds numbers"),
        ([[1.0, 2.0]], -1.0, "std must not be negative"),
    ],
)
def test_bad_outputs(mean, std, text):
    with pytest.raises(ValueError, match=text):
        nk.class_probabilities(mean, std)
