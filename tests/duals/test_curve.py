import itertools

import numpy as np
import pytest
from marks import marked

from ntk_numba import activations
from ntk_numba.duals.curve import Curve, curve_of

# By activation: λ(q) up to a constant, and κ/√12
KNOWN = {
    "exp": (np.sqrt, 0.5),
    "exp:2,-0.5": (lambda q: np.sqrt(q) / 2, 0.5),
    "rbf": (lambda q: np.sqrt(2 * q), 0.5),
    "rbf:0.1": (lambda q: np.sqrt(0.2 * q), 0.5),
    "gaussian": (lambda q: np.log1p(4 * q) / 8**0.5, np.sqrt(7 / 12)),
    "gaussian:1,-0.3": (lambda q: np.log1p(1.2 * q) / 8**0.5, np.sqrt(7 / 12)),
}


@pytest.mark.parametrize("spec", marked(pytest.mark.slow, KNOWN, KNOWN.keys() - {"rbf", "rbf:0.1"}))
def test_curves_that_are_known(spec):
    """For exp the variances are small: its quadrature ends at REACH standard deviations."""
    length, bend = KNOWN[spec]
    q = np.array([1e-3, 0.01, 0.3, 1, 3, 9] + ([100, 1e3] if "exp" not in spec else []))
    got = Curve(activations.get(spec))(q)
    np.testing.assert_allclose(np.diff(got[0]), np.diff(length(q)), rtol=2e-12, atol=1e-14)
    np.testing.assert_allclose(got[1], bend, rtol=1e-4)


@pytest.mark.parametrize("spec", ["erf", "gelu", "gabor", "normal_cdf"])
def test_the_length_is_the_sum_of_chords(spec):
    curve = curve_of(activations.get(spec))
    q = np.exp(np.linspace(np.log(0.2), np.log(30), 2001))
    chords = sum(np.sqrt(curve.chord(a, b)) for a, b in itertools.pairwise(q))
    ends = curve(q[[0, -1]])[0]
    assert ends[1] - ends[0] == pytest.approx(chords, rel=1e-6)


@pytest.mark.parametrize("spec", ["erf", "gelu", "gabor", "normal_cdf", "gaussian"])
@pytest.mark.parametrize("q", [0.05, 1.0, 30.0, 1e4])
def test_chords_are_what_length_and_bend_make_of_them(spec, q):
    curve = curve_of(activations.get(spec))
    low, high = curve(np.array([q, 1.01 * q])).T
    square = (high[0] - low[0]) ** 2
    chord = square * (1 - low[1] * high[1] * square)
    assert chord == pytest.approx(curve.chord(q, 1.01 * q), rel=1e-9)


@pytest.mark.parametrize("spec", ["relu", "abs", "identity"])
def test_functions_without_a_scale_do_not_turn(spec):
    got = curve_of(activations.get(spec))(np.array([1e-3, 1.0, 1e3]))
    assert (abs(got[0] - got[0, 0]) < 1e-14).all() and (got[1] == 0).all()


def test_the_zero_variance():
    got = curve_of(activations.get("gelu"))(np.array([0.0, 1e-40, 1e40]))
    assert np.isfinite(got).all()
