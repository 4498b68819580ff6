"""The check passes right kernels as often as it promises, and fails wrong ones."""

import importlib
import json

import numpy as np
import pytest
from marks import marked
from plain import relu_kernels

import ntk_numba as nk
from ntk_numba.validation.claims import make_claims, observe
from ntk_numba.validation.verdict import Finding

check = importlib.import_module("ntk_numba.validation.check")

EQUATIONS = ["", "8", "9", "10", "18", "12", "11", "11", "11", "24", "25", "26", "26", "27",
             "23-24", "Prop. 1"]  # fmt: skip


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
    assert equations == (EQUATIONS if net.depth > 1 else [*EQUATIONS[:5], "Prop. 1"])


@pytest.mark.slow
def test_on_real_data(digits):
    report = nk.check(nk.MLP(4, "relu", 1.0, 0.1), digits, width=512, draws=32)
    assert report.passed, str(report)
    assert report.samples == 32 and report.widths == (128, 256, 512)


@pytest.mark.parametrize(("checks", "most"), marked(pytest.mark.slow, [(8, 6), (40, 16)]))
def test_false_alarms_are_as_rare_as_stated(checks, most):
    """A fifth of the checks of true claims may fail; `most` is the binomial's 99.9 % quantile."""
    x = np.random.default_rng(1).standard_normal((6, 4))
    net = nk.MLP(3, b_std=0.2)
    alarms = [
        not nk.check(net, x, width=64, draws=24, samples=6, n_out=2, false_alarm=0.2, seed=s).passed
        for s in range(checks)
    ]
    assert sum(alarms) <= most
    assert sum(alarms) >= 1  # a check that never fails would test nothing


WRONG = {
    "a factor of 2 in E[σσ]": {"factor": 2.0},
    "no β² in the last layer": {"last_bias": 0.0},
    "a derivative without its ½": {"derivative": 2.0},
    "a derivative 5 % off": {"derivative": 1.05},
    "ρ 1 % off": {"rho": 0.99},
}


@pytest.mark.parametrize("mistake", [*WRONG, None])
@pytest.mark.parametrize("depth", marked(pytest.mark.slow, [2, 4]))
def test_wrong_formulas_are_found(mistake, depth, digits, monkeypatch):
    net = nk.MLP(depth, "relu", 1.0, 0.3)

    def wrong(net, x, **options):
        return nk.Gram(*relu_kernels(x, net.w_std, net.b_std, **WRONG.get(mistake, {})))

    monkeypatch.setattr(check, "gram", wrong)
    report = nk.check(net, digits, width=1024, draws=64, samples=16)
    # the plain formulas without a mistake pass, so it is the mistake that is found
    assert report.passed == (mistake is None), f"{mistake}\n{report}"


NET = nk.MLP(3, b_std=0.2)
TEXTS = {
    name: claim.text
    for name, claim in make_claims(NET, *nk.gram(NET, np.eye(3), layers="all"), 2).items()
}


# Rows do not depend on each other's claims, so that all at once and each alone are the same test
CLAIMS = marked(pytest.mark.slow, [list(TEXTS), *([name] for name in TEXTS)])


@pytest.mark.parametrize("names", CLAIMS)
def test_every_claim_can_fail(names, x, monkeypatch):
    """A claim that is off by 10 % of its scale, or 50 % if units are few, fails in its row."""

    def off(*arguments):
        all_claims = make_claims(*arguments)
        for name in names:
            claim = all_claims[name]
            by = 0.5 if name in ("mean", "units", "first", "outputs") else 0.1
            all_claims[name] = claim._replace(expected=claim.expected + by * claim.scale)
        return all_claims

    monkeypatch.setattr(check, "make_claims", off)
    assert {TEXTS[name] for name in names} <= {*failed(small(NET, x, width=512))}


def test_outputs_that_are_not_gaussian_are_seen(x, monkeypatch):
    """Signed squares of Gaussian outputs have heavy tails."""

    def heavy(params, x, all_claims):
        values = observe(params, x, all_claims)
        return values | {"raw": np.sign(values["raw"]) * values["raw"] ** 2}

    monkeypatch.setattr(check, "observe", heavy)
    assert "outputs Gaussian" in failed(small(nk.MLP(2), x, draws=200))


def test_a_wrong_exponent_is_seen(x, monkeypatch):
    """Deviations that do not shrink as networks widen."""

    def noisy(params, x, all_claims):
        values = observe(params, x, all_claims)
        scale = 1 + params.weights[-1][0, 0]
        return values | {"ntk": values["ntk"] * scale}

    monkeypatch.setattr(check, "observe", noisy)
    report = small(nk.MLP(3, b_std=0.2), x, width=256, draws=400)
    row = next(r for r in report.rows if r.claim == "Θ, mean over outputs")
    assert row.largest <= row.limit and abs(row.exponent) < 0.2 and not row.passed


def test_threads_change_nothing(x):
    assert small(nk.MLP(3), x, threads=2).rows == small(nk.MLP(3), x, threads=1).rows


NOT_KERNELS = {
    "all 0": lambda nngp, ntk: (0 * nngp, 0 * ntk),
    "Θ all 0": lambda nngp, ntk: (nngp, 0 * ntk),
    "Θ not a number": lambda nngp, ntk: (nngp, np.nan * ntk),
    "Σ not a number": lambda nngp, ntk: (np.nan * nngp, ntk),
    "an entry not a number": lambda nngp, ntk: (nngp, put(ntk, (2, 3, 1), np.nan)),
    "an infinite entry": lambda nngp, ntk: (nngp, put(ntk, (2, 3, 1), np.inf)),
    "a middle layer not a number": lambda nngp, ntk: (put(nngp, 1, np.nan), ntk),
    "Θ of a middle layer 0": lambda nngp, ntk: (nngp, put(ntk, 1, 0.0)),
    "a row of Θ 0": lambda nngp, ntk: (nngp, put(put(ntk, np.s_[2, 3], 0.0), np.s_[2, :, 3], 0.0)),
    "a row of Σ 0": lambda nngp, ntk: (put(put(nngp, np.s_[:, 3], 0.0), np.s_[:, :, 3], 0.0), ntk),
    "above the diagonal": lambda nngp, ntk: (nngp, put(ntk, (2, 1, 3), ntk[2, 1, 3] * 1.5)),
    "beyond Cauchy and Schwarz": lambda nngp, ntk: (
        nngp, put(put(ntk, (2, 1, 3), 99.0), (2, 3, 1), 99.0)
    ),
}  # fmt: skip


def put(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize("mistake", NOT_KERNELS)
def test_matrices_that_are_no_kernels_fail(mistake, x, monkeypatch):
    def wrong(net, x, **options):
        return nk.Gram(*NOT_KERNELS[mistake](*nk.gram(net, x, **options)))

    monkeypatch.setattr(check, "gram", wrong)
    report = small(NET, x)
    assert not report.passed and str(report).splitlines()[-1].startswith("FAIL")


@pytest.mark.parametrize("names", CLAIMS)
def test_an_observation_that_is_missing_fails(names, x, monkeypatch):
    """An observation that is not a number fails its claim."""

    def blind(params, x, all_claims):
        values = observe(params, x, all_claims)
        return values | {name: put(values[name], 0, np.nan) for name in names}

    monkeypatch.setattr(check, "observe", blind)
    assert failed(small(NET, x)) == [TEXTS[name] for name in names]


FEW = [
    (nk.MLP(1, w_std=0.7, b_std=0.2), {"n_out": 1, "draws": 8, "width": 32}),
    (nk.MLP(16, "relu", 2**0.5, 0.1), {"n_out": 4, "draws": 64, "width": 32}),
    (nk.MLP(1, w_std=0.7, b_std=0.2), {"n_out": 1, "draws": 32, "width": 32}),
    (nk.MLP(2), {"n_out": 1, "draws": 16, "width": 64}),
]


@pytest.mark.parametrize(("net", "options"), marked(pytest.mark.slow, FEW, FEW[:2]))
def test_few_outputs_and_deep_narrow_networks_are_no_alarm(net, options, x):
    """Squares of one output are χ², and outputs of narrow networks not quite Gaussian."""
    seeds = range(25 if net.depth < 3 else 5)
    alarms = [failed(small(net, x[:4], seed=seed, **options)) for seed in seeds]
    assert sum(map(bool, alarms)) <= 1, alarms


@pytest.mark.parametrize("name", marked(pytest.mark.slow, ["relu", "abs", "leaky_relu:0.2"]))
@pytest.mark.parametrize("depth", marked(pytest.mark.slow, [2, 3]))
@pytest.mark.parametrize("sign", [1, -1])
def test_nearly_equal_and_opposite_samples_are_no_alarm(name, depth, sign, x):
    """The σ' of such samples differ in so few units that perhaps no draw shows a difference."""
    rng = np.random.default_rng(2)
    for near in (1e-9, 1e-5, 1e-3, 1e-2, 1e-1):
        pairs = np.concatenate([x[:3], sign * x[:3] + near * rng.standard_normal((3, 5))])
        report = small(nk.MLP(depth, name), pairs, draws=16)
        assert report.passed, f"{near}\n{report}"


def test_rare_alarms_have_wide_limits(x):
    limits = [
        [r.limit for r in small(NET, x, false_alarm=p).rows if r.statistic == "z"]
        for p in (1e-3, 1e-9, 1e-18)
    ]
    for usual, rare, rarest in zip(*limits, strict=True):
        assert usual < rare < rarest < 100


def test_a_row_that_is_not_a_number_fails():
    assert not Finding("", "", 1, "z", float("nan"), 0.0, 1.0, 2.0).passed


def test_awkward_data():
    """The data has equal, opposite and zero rows, and orthogonal ones, whose Θ⁽¹⁾ is 0."""
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
    assert "8 samples and the origin, 48 networks of each of the widths 32, 64, 128" in text[-2]
    assert text[-1].startswith("PASS (probability of failing although all is right: 0.001)")
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert facts["passed"] and len(facts["claims"]) == len(report.rows)
    row = next(c for c in facts["claims"] if c["claim"] == "Θ, mean over outputs")
    assert row["low"] < row["high"] < row["limit"] and row["largest"] <= row["limit"]
    assert abs(row["exponent"] + 0.5) <= row["exponent_limit"]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"net": "relu"}, TypeError, "net must be an ntk_numba.MLP"),
        ({"width": 31}, ValueError, "width must be at least 32, not 31"),
        ({"width": 64.0}, TypeError, "width must be a whole number"),
        ({"draws": 7}, ValueError, "draws must be at least 8, not 7"),
        ({"samples": 0}, ValueError, "samples must be at least 1, not 0"),
        ({"n_out": 0}, ValueError, "n_out must be at least 1, not 0"),
        ({"false_alarm": 0}, ValueError, "false_alarm must be more than 0 and less than 1, not 0"),
        ({"false_alarm": float("nan")}, ValueError, "false_alarm must be more than 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"X": np.full((3, 2), np.nan)}, ValueError, "X: "),
        ({"false_alarm": "often"}, TypeError, "false_alarm must be a number, not 'often'"),
        ({"width": 1_000_000}, ValueError, r"networks of width 1,000,000 would take .* bytes"),
        ({"n_out": 10**9}, ValueError, r"would take .* bytes"),
        ({"X": np.full((3, 2), 1e200)}, ValueError, "X: row 0 has norm 1.41e.200"),
    ],
)
def test_bad_arguments(change, error, text, x):
    with pytest.raises(error, match=text):
        nk.check(**({"net": nk.MLP(3), "X": x, "width": 64} | change))
