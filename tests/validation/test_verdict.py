"""The statistics of the check on synthetic draws, whose distribution is known."""

import numpy as np
import pytest
from scipy import stats

from ntk_numba.validation import verdict
from ntk_numba.validation.claims import Claim


def claim(entries, noise=0.0, units=0, narrowing=False):
    full = np.ones(entries)
    return Claim("it", "0", 0 * full, full, noise * full, (units * full).astype(int),
                 False, narrowing)  # fmt: skip


@pytest.mark.parametrize("entries", [1, 30])
@pytest.mark.parametrize("alarm", [0.2, 0.01])
def test_the_limit_of_independent_entries(entries, alarm):
    """The largest of independent Student variables exceeds the limit as often as stated."""
    draws = 20
    values = np.abs(stats.t(draws - 1).rvs((20_000, entries), random_state=1)).max(axis=1)
    limit = verdict._limit(float(np.quantile(values, 0.95)), alarm, draws, np.inf)
    assert np.mean(values > limit) == pytest.approx(alarm, rel=0.25)


@pytest.mark.parametrize("kind", ["independent", "equal", "between", "squares"])
def test_alarms_are_as_rare_as_stated(kind, monkeypatch):
    """The entries are correlated in several ways, or squares of Gaussians with known noise."""
    monkeypatch.setattr(verdict, "FLIPS", 300)
    rng, alarms, checks, entries, draws = np.random.default_rng(2), 0, 300, 12, 24
    for _ in range(checks):
        own, common = rng.standard_normal((draws, entries)), rng.standard_normal((draws, 1))
        seen = {
            "independent": own,
            "equal": common + 0 * own,
            "between": 0.5 * own + common,
            "squares": own**2 - 1,
        }[kind]
        made = claim(entries, 2.0, 1) if kind == "squares" else claim(entries)
        alarms += not verdict.judge(made, [seen], (100,), 1, 0.1, rng).passed
    assert alarms <= stats.binom(checks, 0.1).isf(1e-3)
    assert kind == "squares" or alarms >= stats.binom(checks, 0.1).ppf(1e-3)


def test_a_wrong_entry_is_found():
    rng = np.random.default_rng(3)
    seen = rng.standard_normal((50, 20))
    seen[:, 7] += 1.5
    row = verdict.judge(claim(20), [seen], (100,), 1, 1e-3, rng)
    assert not row.passed and row.largest > row.limit and row.over3 == 1 / 20


def test_entries_without_noise_must_be_exact():
    rng, zeros = np.random.default_rng(4), np.zeros((9, 3))
    assert verdict.judge(claim(3), [zeros], (100,), 1, 1e-3, rng).passed
    row = verdict.judge(claim(3), [zeros + 1e-10], (100,), 1, 1e-3, rng)
    assert row.statistic == "error" and not row.passed
    blank = claim(3)._replace(scale=np.zeros(3))
    assert verdict.judge(blank, [zeros], (100,), 1, 1e-3, rng).passed
    assert not verdict.judge(blank, [zeros + 1e-3], (100,), 1, 1e-3, rng).passed


def test_gaussian_outputs():
    rng = np.random.default_rng(5)
    half = rng.standard_normal((6, 6))
    nngp, checks = half @ half.T, 200
    alarms = 0
    for _ in range(checks):
        outputs = np.einsum("nm,dmk->dnk", half, rng.standard_normal((30, 6, 2)))
        alarms += not verdict.judge_gaussian(nngp, outputs, 10**9, 2, 0.1).passed
    low, high = stats.binom(checks, 0.1).ppf([1e-3, 1 - 1e-3])
    assert low <= alarms <= high
    assert not verdict.judge_gaussian(2 * nngp, outputs, 10**9, 2, 1e-3).passed
