import mpmath as mp
import numpy as np
import pytest
from marks import marked
from plain import SIGMA
from scipy.special import erf

import ntk_numba as nk
from ntk_numba import activations


def mean(f, q):
    """Return E[f(√q t)] by the trapezoidal rule, which is exact to rounding for entire f."""
    t = np.linspace(-12, 12, 20001)
    return np.sum(np.exp(-t * t / 2) * f(np.sqrt(q) * t)) * (t[1] - t[0]) / np.sqrt(2 * np.pi)


def slope(x):
    return 2 / np.sqrt(np.pi) * np.exp(-x * x)


@pytest.mark.parametrize(("w_std", "b_std"), [(1.5, 0.1), (2.0, 0.3), (0.5, 0.2), (3.0, 0.0)])
def test_fixed_point_is_one(w_std, b_std):
    q = nk.fixed_point("erf", w_std=w_std, b_std=b_std)
    assert q == pytest.approx(w_std**2 * mean(lambda x: erf(x) ** 2, q) + b_std**2, rel=1e-11)


def test_fixed_points_at_zero_and_infinity():
    assert nk.fixed_point("erf", w_std=0.5) == 0
    assert nk.fixed_point("relu", w_std=2) == np.inf
    assert nk.fixed_point("relu", w_std=2**0.5) == 1
    assert nk.fixed_point("relu", w_std=1, b_std=1) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("w_std", [3.0, 10.0, 100.0])
def test_fixed_points_do_not_need_a_series(w_std):
    # the series of tanh ends far below these variances
    q = nk.fixed_point("tanh", w_std=w_std)
    assert q == pytest.approx(w_std**2 * mean(lambda x: np.tanh(x) ** 2, q), rel=1e-11)
    assert nk.fixed_point("silu", w_std=2) == nk.fixed_point("exp", w_std=3) == np.inf


@pytest.mark.parametrize("b_std", [0.05, 0.3, 0.6])
def test_critical_init_is_at_the_edge(b_std):
    found = nk.critical_init("erf", b_std=b_std)
    assert found.b_std == b_std
    assert found.w_std**2 * mean(lambda x: slope(x) ** 2, found.q) == pytest.approx(1, rel=1e-11)
    assert nk.fixed_point("erf", w_std=found.w_std, b_std=b_std) == pytest.approx(found.q, rel=1e-6)
    again = nk.critical_init("erf", q=found.q)
    assert again == pytest.approx(found, rel=1e-9)


def test_critical_init_without_bias():
    assert nk.critical_init("relu") == pytest.approx((2**0.5, 0, 1), rel=1e-14)
    assert nk.critical_init("abs") == pytest.approx((1, 0, 1), rel=1e-14)
    assert nk.critical_init("erf") == pytest.approx((np.pi**0.5 / 2, 0, 0), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"b_std": 0.1}, "nowhere critical with b_std = 0.1; β may be from 0 to 0"),
        ({"q": -1.0}, "q must be a positive variance"),
        ({"b_std": -1.0}, "b_std must be finite and not negative"),
        ({"b_std": 1.0, "q": 1.0}, "give either"),
    ],
)
def test_networks_that_cannot_be_critical(options, text):
    with pytest.raises(ValueError, match=text):
        nk.critical_init("relu", **options)


def test_correlations_over_depth_are_those_of_the_kernel():
    x = np.array([[1.0, 0], [0.6, 0.8], [-1, 0]]) * 2**0.5  # Σ⁽¹⁾(x,x) = 1
    net = nk.MLP(6, "erf", [1, *[1.4] * 5], [0, *[0.2] * 5])
    sigma = nk.gram(net, x, layers="all").nngp
    root = np.sqrt(np.diagonal(sigma, axis1=1, axis2=2))
    right = sigma[:, 0, 1:] / (root[:, :1] * root[:, 1:])
    got = nk.correlation_map("erf", [0.6, -1], 6, w_std=1.4, b_std=0.2)
    np.testing.assert_allclose(got, right, atol=1e-13)
    nothing = nk.correlation_map("relu", 0.3, 3, w_std=0)
    assert nothing[0] == 0.3 and np.isnan(nothing[1:]).all()


def test_on_the_edge_correlations_change_least():
    """Off the edge they approach their limit exponentially in the depth, on it as a power."""
    critical = nk.critical_init("erf", b_std=0.2)
    left = []
    for w_std in (0.7 * critical.w_std, critical.w_std):
        q = nk.fixed_point("erf", w_std=w_std, b_std=0.2)
        left.append(1 - nk.correlation_map("erf", 0.0, 40, w_std=w_std, b_std=0.2, q=q)[-1])
    assert left[0] < 1e-6 < 0.02 < left[1]


def slope_at_zero(name):
    """Return (σ'(0−)² + σ'(0+)²)/2, by complex steps beside 0, or 0 where σ(0) ≠ 0."""
    sigma = SIGMA[name]
    if abs(sigma(np.array([-1e-150, 1e-150]) + 0j)).max() > 1e-20:
        return 0.0
    slopes = [(sigma(np.array([x + 1e-150j])) / 1e-150).imag[0] for x in (-1e-30, 1e-30)]
    squared = float(np.mean(np.square(slopes)))
    return squared if squared > 1e-20 else 0.0


@pytest.mark.parametrize("name", [name for name in SIGMA if slope_at_zero(name)])
def test_without_bias_the_limit_of_small_variances_is_exact(name):
    """E[σ'(√q t)²] → (σ'(0−)² + σ'(0+)²)/2 for q → 0."""
    squared = slope_at_zero(name)
    found = nk.critical_init(name)
    assert found.w_std == pytest.approx(squared**-0.5, rel=1e-13)
    assert found.b_std == 0 and found.q in (0, 1)


@pytest.mark.parametrize("b_std", [1e-3, 1e-8, 1e-30])
def test_small_fixed_points(b_std):
    """With relu, q* = β²/(1 − σ_w²/2), however small it is."""
    q = nk.fixed_point("relu", w_std=0.5, b_std=b_std)
    assert q == pytest.approx(b_std**2 / (1 - 0.125), rel=1e-12)


@pytest.mark.parametrize("excess", [1e-3, 1e-7, 1e-10])
def test_fixed_points_just_above_the_critical_width(excess):
    """For sin, E[σ²] = (1 − exp(−2q))/2, so that q* is about the excess of σ_w²."""
    q = nk.fixed_point("sin", w_std=(1 + excess) ** 0.5)
    assert q == pytest.approx(excess, rel=2 * excess + 1e-5)
    assert nk.fixed_point("sin", w_std=1) == nk.fixed_point("sin", w_std=1 - excess) == 0


@pytest.mark.parametrize("wrong", ["1", None, True, [1.0], 1j, np.array([1.0, 2])])
def test_arguments_that_are_no_numbers(wrong):
    calls = [
        lambda: nk.critical_init("relu", q=wrong),
        lambda: nk.critical_init("relu", b_std=wrong),
        lambda: nk.fixed_point("relu", w_std=wrong),
        lambda: nk.fixed_point("relu", b_std=wrong),
        lambda: nk.correlation_map("relu", 0.5, 3, q=wrong),
        lambda: nk.correlation_map("relu", 0.5, 3, w_std=wrong),
        lambda: nk.correlation_map("relu", "one", 3),
        lambda: activations.normalised(activations.get("relu"), wrong),
    ]
    for k, call in enumerate(calls):
        if wrong is None and k < 2:
            continue  # the default
        with pytest.raises(nk.errors.InvalidTypeError, match="number"):
            call()


@pytest.mark.parametrize("right", [np.array(0.5), np.float32(0.5), np.float64(0.5)])
def test_arguments_that_are_numbers_of_numpy(right):
    assert nk.critical_init("erf", q=right) == nk.critical_init("erf", q=0.5)
    assert nk.fixed_point("erf", b_std=right) == nk.fixed_point("erf", b_std=0.5)


SMOOTH = {
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2, (0.75, 2 / 3)),
    "sin": (mp.sin, mp.cos, (3, 2 / 3)),
    "gelu": (lambda x: x * mp.ncdf(x), lambda x: mp.ncdf(x) + x * mp.npdf(x), (np.pi / 2, 1)),
    "elu": (
        lambda x: x if x > 0 else mp.expm1(x), lambda x: mp.exp(min(x, 0)), (8, 1),
    ),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2, (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", marked(pytest.mark.slow, SMOOTH, ["elu", "tanh"]))
def test_small_biases_have_critical_variances(name):
    """β² = q − E[σ²]/E[σ'²], which cancels in floats; as q → 0, q = (√c β)^p."""
    sigma, slope, (constant, power) = SMOOTH[name]
    for b_std in (1e-8, 1e-4, 0.05):
        with mp.workdps(40):
            found = nk.critical_init(name, b_std=b_std)
            q, ends = mp.mpf(found.q), [-13, -9, -6, -3, 0, 3, 6, 9, 13]
            one, two = (
                mp.quad(lambda t, f=f, q=q: mp.npdf(t) * f(mp.sqrt(q) * t) ** 2, ends)
                for f in (sigma, slope)
            )
            assert abs((q - one / two) / mp.mpf(b_std) ** 2 - 1) < 1e-11
            assert abs(found.w_std**2 * two - 1) < 1e-12
        again = nk.critical_init(name, q=found.q)
        assert again == pytest.approx(found, rel=1e-12)
    for b_std in (1e-20, 1e-100, 1e-300):
        limit = constant ** (power / 2) * b_std**power
        assert nk.critical_init(name, b_std=b_std).q == pytest.approx(limit, rel=1e-9)


@pytest.mark.parametrize("b_std", marked(pytest.mark.slow, [0.3, 1e-9, 1e-30]))
@pytest.mark.parametrize(
    ("name", "factor"), marked(pytest.mark.slow, [("monomial:2", 4), ("monomial:3", 27 / 12)])
)
def test_small_biases_of_powers(name, factor, b_std):
    """For x², E[σ²] = 3q² and E[σ'²] = 4q, so that β² = q/4; for x³, β² = q(1 − 15/27)."""
    assert nk.critical_init(name, b_std=b_std).q == pytest.approx(factor * b_std**2, rel=1e-12)


def test_biases_that_are_too_small_are_named():
    with pytest.raises(ValueError, match="give 0 or at least"):
        nk.critical_init("hard_tanh", b_std=1e-200)
    for b_std in (1e-300, 1e-9, 1.0):
        with pytest.raises(ValueError, match=r"leaky_relu:0\.2 is nowhere critical"):
            nk.critical_init("leaky_relu:0.2", b_std=b_std)
