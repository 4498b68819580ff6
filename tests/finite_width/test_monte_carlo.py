"""Means and standard errors over draws, and the limits of the means as networks widen."""

import sys

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import finite_width as fw
from ntk_numba.finite_width import networks, pool
from ntk_numba.finite_width.monte_carlo import add_values, intercept

NET = nk.MLP(4, "relu", 2**0.5)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 5)), rng.standard_normal((4, 5))


@pytest.mark.parametrize("symmetric", [True, False])
def test_they_are_means_of_the_draws(data, symmetric):
    x, z = data[0], None if symmetric else data[1]
    net = nk.MLP(3, ["abs", "relu"], [1.0, 1.2, 0.9], [0.1, 0.0, 0.3])
    mc = fw.monte_carlo(net, x, z, width=(7, 9), draws=20, n_out=3, seed=4)
    draws = [fw.sample(net, 5, (7, 9), 3, networks.seed_sequence(4, (k,))) for k in range(20)]
    theta = np.array([fw.empirical_ntk(p, x, z).trace(axis1=2, axis2=3) / 3 for p in draws])
    features, outputs = (
        np.array([fw.empirical_nngp(p, x, z, by=by) for p in draws])
        for by in ("features", "outputs")
    )
    for name, seen in {"ntk": theta, "nngp": features, "nngp_outputs": outputs}.items():
        assert getattr(mc, name) == pytest.approx(seen.mean(axis=0), rel=1e-12, abs=1e-13)
        sem = seen.std(axis=0, ddof=1) / 20**0.5
        assert getattr(mc, name + "_sem") == pytest.approx(sem, rel=1e-10, abs=1e-13)
    assert (mc.draws, mc.widths) == (20, (5, 7, 9, 3))


def test_threads_change_no_bit(data):
    one, two = (fw.monte_carlo(NET, data[0], width=40, draws=21, seed=1, threads=t) for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert np.all(a == b)


def test_a_mean_keeps_its_digits_far_from_zero():
    """A sum of squares would lose all digits of the variance."""
    values = 1e8 + np.random.default_rng(2).standard_normal((1000, 7))
    mean, squares = np.zeros(7), np.zeros(7)
    for count, row in enumerate(values, start=1):
        add_values(mean, squares, row, count)
    assert mean == pytest.approx(values.mean(axis=0), rel=1e-14)
    assert squares / 999 == pytest.approx(values.var(axis=0, ddof=1), rel=1e-6)


def test_it_stops_at_a_wanted_standard_error(data):
    mc = fw.monte_carlo(NET, data[0], width=64, draws=4000, tolerance=0.05)
    assert 16 < mc.draws < 4000 and mc.draws % 16 == 0
    for mean, sem in ((mc.nngp, mc.nngp_sem), (mc.ntk, mc.ntk_sem)):
        assert sem.max() <= 0.05 * abs(mean).max()
    before = fw.monte_carlo(NET, data[0], width=64, draws=mc.draws - 16)
    pairs = (before.ntk_sem, before.ntk), (before.nngp_sem, before.nngp)
    assert max(sem.max() / abs(mean).max() for sem, mean in pairs) > 0.05
    assert (fw.monte_carlo(NET, data[0], width=64, draws=mc.draws).ntk == mc.ntk).all()


def test_outputs_have_more_noise_than_features(data):
    mc = fw.monte_carlo(NET, data[0], width=200, draws=40)
    assert (mc.nngp_outputs_sem > 2 * mc.nngp_sem).all()
    pooled = fw.monte_carlo(NET, data[0], width=200, draws=40, n_out=16)
    assert np.median(pooled.nngp_outputs_sem / mc.nngp_outputs_sem) < 0.4


def test_the_mean_shifts_at_finite_width_and_the_extrapolation_does_not(data):
    """At n = 10, Θ is about 12 % too small off the diagonal, and unbiased on it."""
    x, widths = data[0], (10, 20, 40)
    exact = nk.gram(NET, x).ntk
    off = ~np.eye(len(x), dtype=bool)
    narrow = fw.monte_carlo(NET, x, width=10, draws=2000, n_out=2)
    z = (narrow.ntk - exact) / narrow.ntk_sem
    assert z[off].min() < -5 and np.abs(z[~off]).max() < 4
    limit = fw.extrapolate(NET, x, widths=widths, draws=2000, n_out=2)
    assert np.abs((limit.ntk - exact) / limit.ntk_sem).max() < 4
    assert np.abs((limit.nngp - nk.gram(NET, x).nngp) / limit.nngp_sem).max() < 4
    assert limit.draws == 6000 and limit.widths == (5, 40, 40, 40, 2)


def test_between_two_sets(data):
    net = nk.MLP(2, "abs", 1.0, 0.2)
    mc = fw.monte_carlo(net, *data, width=300, draws=200, n_out=4)
    exact = nk.gram(net, *data)
    assert mc.ntk.shape == (6, 4)
    assert np.abs((mc.ntk - exact.ntk) / mc.ntk_sem).max() < 4
    assert np.abs((mc.nngp - exact.nngp) / mc.nngp_sem).max() < 4


def test_the_intercept_is_exact_for_its_law():
    widths = np.array([30, 50, 110])
    factors = intercept(widths)
    assert factors @ (3 + 7 / widths) == pytest.approx(3, rel=1e-13)
    # these factors have the least noise of all that are exact, for variances in proportion to 1/n
    other = np.linalg.pinv(np.stack([np.ones(3), 1 / widths], 1))[0]
    assert other @ (3 + 7 / widths) == pytest.approx(3)
    assert (factors**2 / widths).sum() < (other**2 / widths).sum()


def test_float32(data):
    single = fw.monte_carlo(NET, data[0], width=50, draws=200, dtype="float32")
    assert single.ntk.dtype == np.float64
    exact = nk.gram(NET, data[0]).ntk
    assert (np.abs(single.ntk - exact) / single.ntk_sem)[np.eye(6, dtype=bool)].max() < 4


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"net": None}, TypeError, "net must be an ntk_numba.MLP"),
        ({"draws": 1}, ValueError, "draws must be at least 2, not 1"),
        ({"draws": 2.0}, TypeError, "draws must be a whole number"),
        ({"tolerance": 0}, ValueError, "tolerance must be more than 0 and finite, not 0"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be"),
        ({"width": 10**8}, ValueError, r"widths 5, 1\d*, 1\d*, 1\d*, 1 would take .* bytes"),
        ({"Z": np.ones((2, 4))}, ValueError, "Z has 4 features, but the network has 5 inputs"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number"),
        ({"tolerance": "x"}, TypeError, "tolerance must be a number, not 'x'"),
        ({"X": np.full((2, 5), 1e200)}, ValueError, "row 0 is too large for float64; scale"),
    ],
)
def test_bad_arguments(change, error, text, data):
    with pytest.raises(error, match=text):
        fw.monte_carlo(**({"net": NET, "X": data[0], "width": 8, "draws": 2} | change))


@pytest.mark.parametrize("widths", [(8,), (8, 8), ()])
def test_bad_widths_of_an_extrapolation(widths, data):
    with pytest.raises(ValueError, match="widths must be at least two different widths"):
        fw.extrapolate(NET, data[0], widths=widths, draws=2)
    with pytest.raises(nk.NtkNumbaError, match="at least two different widths, not 8"):
        fw.extrapolate(NET, data[0], widths=8, draws=2)


def test_threads_are_as_many_as_memory_has_room_for(monkeypatch, data):
    asked = []
    fitting = pool.fitting_threads
    monkeypatch.setattr(
        sys.modules[add_values.__module__],
        "fitting_threads",
        lambda *a: asked.append(fitting(*a)) or asked[-1],
    )
    widths = networks.layer_widths(NET, 5, 100)
    each = networks.parameter_bytes(widths) + networks.pass_bytes(widths, 6) + 6 * 8 * 36
    monkeypatch.setattr(pool, "available_memory", lambda: 48 * 36 + int(1.5 * each))
    fw.monte_carlo(NET, data[0], width=100, draws=2)
    assert asked == [1]
