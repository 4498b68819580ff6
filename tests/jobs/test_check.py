"""The check passes what is right as often as it says, and fails what is wrong."""

import json

import numpy as np
import pytest
from plain import relu_kernels

import ntk_numba as nk
from ntk_numba.jobs import check, claims
from ntk_numba.jobs.memory import gram

EQUATIONS = ["8", "9", "10", "18", "11", "11", "11", "12", "24", "25", "26", "26", "27", "23-24",
             "Prop. 1"]  # fmt: skip


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((8, 5))


def small(net, x, **options):
    job = {"width": 128, "draws": 48, "samples": 8, "n_out": 2} | options
    return nk.check(net, x, **job)


def failed(report):
    return [row.claim for row in report.rows if not row.passed]


@pytest.mark.parametrize(
    "net",
    [
        nk.MLP(1, w_std=0.7, b_std=0.2),
        nk.MLP(2, "abs", 1.0, 0.1),
        nk.MLP(3, ["relu", "identity"], [1.0, 1.3, 0.6], [0.3, 0.0, 0.2]),
        nk.MLP(4, "relu", 2**0.5, 0.1),
        nk.MLP(4, ["leaky_relu:0.2", "ab_relu:-0.5,1.5", "abs"]),
    ],
)
def test_every_claim_of_the_note_holds(net, x):
    report = small(net, x, n_out=3)
    assert report.passed, str(report)
    equations = [row.equation for row in report.rows]
    assert equations == (EQUATIONS if net.depth > 1 else ["8", "9", "10", "18", "Prop. 1"])


def test_on_real_data(digits):
    report = nk.check(nk.MLP(4, "relu", 1.0, 0.1), digits, width=512, draws=32)
    assert report.passed, str(report)
    assert report.samples == 32 and report.widths == (128, 256, 512)


def test_false_alarms_are_as_rare_as_stated():
    """40 checks of what is true, of which a fifth may fail; the binomial's 99.9 % is 17."""
    x = np.random.default_rng(1).standard_normal((6, 4))
    net = nk.MLP(3, b_std=0.2)
    alarms = [not nk.check(net, x, 64, 24, 6, 2, false_alarm=0.2, seed=s).passed for s in range(40)]
    assert sum(alarms) <= 17
    assert sum(alarms) >= 1  # it is a test, not a formality


WRONG = {
    "a factor of 2 in E[σσ]": {"factor": 2.0},
    "no β² in the last layer": {"last_bias": 0.0},
    "a derivative without its ½": {"derivative": 2.0},
    "a derivative 5 % off": {"derivative": 1.05},
    "ρ 1 % off": {"rho": 0.99},
}


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("depth", [2, 4])
def test_wrong_formulas_are_found(mistake, depth, digits, monkeypatch):
    net = nk.MLP(depth, "relu", 1.0, 0.3)

    def wrong(net, x, **options):
        return nk.Gram(*relu_kernels(x, net.w_std, net.b_std, **WRONG[mistake]))

    # ink from 0 to 1, so that β² = 0.09 counts
    job = {"X": digits / 16, "width": 1024, "draws": 64, "samples": 16}
    monkeypatch.setattr(claims, "gram", wrong)
    report = nk.check(net, **job)
    assert not report.passed, f"{mistake} was not seen\n{report}"
    # and it is the mistake that is seen: the plain formulas without one pass
    monkeypatch.setitem(WRONG, mistake, {})
    report = nk.check(net, **job)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", claims.make_claims(nk.MLP(3, b_std=0.2), np.eye(3), 2))
def test_every_claim_can_fail(name, x, monkeypatch):
    """5 % of its scale off: that row fails, however the others stand. Means take 50 %."""
    made = claims.make_claims

    def off(net, x, n_out):
        all_claims = made(net, x, n_out)
        claim = all_claims[name]
        by = 0.5 if name in ("mean", "units", "first", "outputs") else 0.1
        all_claims[name] = claim._replace(expected=claim.expected + by * claim.scale)
        return all_claims

    monkeypatch.setattr(check, "make_claims", off)
    report = small(nk.MLP(3, b_std=0.2), x, width=512)
    assert claims.make_claims(nk.MLP(3, b_std=0.2), x, 2)[name].text in failed(report)


def test_outputs_that_are_not_gaussian_are_seen(x, monkeypatch):
    """Networks of one unit: f is a product, with heavy tails."""
    seen = check.observe

    def heavy(params, x, all_claims):
        values = seen(params, x, all_claims)
        return values | {"raw": np.sign(values["raw"]) * values["raw"] ** 2}

    monkeypatch.setattr(check, "observe", heavy)
    assert "outputs Gaussian" in failed(small(nk.MLP(2), x, draws=200))


def test_a_wrong_exponent_is_seen(x, monkeypatch):
    """Deviations that do not shrink as networks widen."""
    seen = check.observe

    def noisy(params, x, all_claims):
        values = seen(params, x, all_claims)
        scale = 1 + params.weights[-1][0, 0]
        return values | {"ntk": values["ntk"] * scale}

    monkeypatch.setattr(check, "observe", noisy)
    report = small(nk.MLP(3, b_std=0.2), x, width=256, draws=400)
    row = next(r for r in report.rows if r.claim == "Θ, mean over outputs")
    assert row.largest <= row.limit and abs(row.exponent) < 0.2 and not row.passed


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads, x):
    assert small(nk.MLP(3), x, threads=threads).rows == small(nk.MLP(3), x, threads=1).rows


def test_awkward_data():
    """Equal, opposite, zero rows; orthogonal ones, whose Θ⁽¹⁾ is 0; one row alone."""
    x = np.random.default_rng(0).choice([-1.0, 1.0], (8, 16))
    x[1], x[2], x[3] = x[0], -x[0], 0
    for net in (nk.MLP(3), nk.MLP(3, b_std=0.1), nk.MLP(3, "identity")):
        report = small(net, x)
        assert report.passed, str(report)
        assert all(np.isfinite(row.largest) for row in report.rows)
    assert small(nk.MLP(3), x[:1]).passed


def test_the_report(x):
    report = small(nk.MLP(3, b_std=0.1), x)
    text = str(report).splitlines()
    assert len(text) == 1 + len(report.rows) + 3
    assert text[0].split()[:4] == ["claim", "eq.", "entries", "test"]
    assert "8 samples, 48 networks of each of the widths 32, 64, 128" in text[-2]
    assert text[-1].startswith("PASS (of checks of what is true, 0.001 fail)")
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert facts["passed"] and len(facts["claims"]) == len(report.rows)
    row = next(c for c in facts["claims"] if c["claim"] == "Θ, mean over outputs")
    assert row["low"] < row["high"] < row["limit"] and row["largest"] <= row["limit"]
    assert abs(row["exponent"] + 0.5) <= row["exponent_limit"]
    assert gram(report.net, x).ntk.shape == (8, 8)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"net": "relu"}, TypeError, "net must be an ntk_numba.MLP"),
        ({"width": 31}, ValueError, "width must be at least 32, not 31"),
        ({"width": 64.0}, TypeError, "width must be a whole number"),
        ({"draws": 7}, ValueError, "draws must be at least 8, not 7"),
        ({"samples": 0}, ValueError, "samples must be at least 1, not 0"),
        ({"n_out": 0}, ValueError, "n_out must be at least 1, not 0"),
        ({"false_alarm": 0}, ValueError, "false_alarm must be between 0 and 1, not 0"),
        ({"false_alarm": float("nan")}, ValueError, "false_alarm must be between 0 and 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"X": np.full((3, 2), np.nan)}, ValueError, "X: "),
        ({"width": 1_000_000}, ValueError, r"would take .* bytes"),
    ],
)
def test_what_it_refuses(change, error, text, x):
    with pytest.raises(error, match=text):
        nk.check(**({"net": nk.MLP(3), "X": x, "width": 64} | change))
