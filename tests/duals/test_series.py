"""Certified series: tolerances that are refused, terms left out, kernels of awkward rows."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.duals import hermite, mixture, series


@pytest.mark.parametrize(
    ("name", "q_max", "text"),
    [
        ("mish:1e-13", 30.0, "ask for mish:"),
        ("gelu_tanh", 60, r"activation gelu_tanh: at variances up to 64 .* gelu_tanh:"),
    ],
)
@pytest.mark.slow
def test_a_tolerance_out_of_reach_is_refused_with_one_in_reach(name, q_max, text):
    with pytest.raises(ValueError, match=text):
        activations.get(name).dual(q_max)


@pytest.mark.parametrize(
    ("name", "q", "text"),
    [("mish", 4.0, "down, or ask for mish:"), ("gelu_tanh", 1e6, "w_std down$")],
)
def test_a_refusal_of_short_series(name, q, text, monkeypatch):
    monkeypatch.setattr(series, "DEGREES", (32,))
    whole = rf"at variances up to \S+ the series reaches \S+ with 32 terms, .*{text}"
    with pytest.raises(nk.errors.InvalidValueError, match=whole):
        nk.dual(name, q, 1.0, 0.0)


@pytest.mark.parametrize("name", ["softplus", "tanh"])
def test_another_limit_or_tolerance_computes_hardly_anything(name, monkeypatch):
    """A loop over w_std takes a new largest variance, and often a new tolerance, in each call."""
    activation = activations.get(name)
    module = series if name == "softplus" else mixture
    activation.dual(2.9)
    calls = []
    for function in ("unit_coefficients", "nodes"):
        compute = getattr(module, function, None)
        watched = lambda *a, _of=compute, **k: calls.append(a[:2]) or _of(*a, **k)  # noqa: E731
        monkeypatch.setattr(module, function, watched, raising=False)
    wider = activation.dual(3.1)
    assert len(calls) <= 12  # at the new limit alone
    calls.clear()
    finer = activation.finer(0.9e-10).dual(3.1)
    assert not calls
    assert max(finer.bounds) <= 0.9e-10 and max(wider.bounds) <= 1e-10


@pytest.mark.parametrize("name", ["softplus:1e-6", "arctan:1e-6"])
def test_a_dual_does_not_depend_on_those_before_it(name):
    activation = activations.get(name)
    activation.dual(0.7), activation.finer(1e-8).dual(3.0)
    found = activation.dual(2.0)
    for cached in (
        series._check, series._tails_of, series._whole_table, series._fitted, mixture._find,
        mixture._all_coefficients, mixture._checks, mixture._errors, mixture._bounds,
        mixture._table, mixture.fitted,
    ):  # fmt: skip
        cached.cache_clear()
    alone = activation.dual(2.0)
    q = np.array([1e-9, 0.3, 1.9])
    assert alone is not found and alone.bounds == found.bounds
    assert alone.parameters == found.parameters
    assert (alone.coefficients(q) == found.coefficients(q)).all()


def test_tolerances():
    assert activations.get("silu:3e-3").dual(4.0).bounds[1] <= 3e-3
    with pytest.raises(ValueError, match="tolerance must be"):
        activations.get("tanh:1e-14")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gram_of_awkward_rows(dtype):
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(dtype)
    x[1], x[2], x[3], x[4] = x[0], -x[0], 0, x[0] * (1 + 1e-6)
    k = nk.gram(nk.MLP(3, "tanh", 0.7), x, dtype=dtype)
    for matrix in k:
        assert np.isfinite(matrix).all() and (matrix == matrix.T).all()
        assert (matrix[0] == matrix[1]).all() and (matrix[3] == 0).all()
        np.testing.assert_allclose(matrix[2], -matrix[0], atol=1e-6 * abs(matrix[0, 0]))


def angles_of_thresholds(dual):
    """Return ρ on both sides of each threshold of a dual, and the ends of the range."""
    step = 2 if dual.loop is not hermite.series_loop else int(dual.parameters[2])
    limits = np.array(dual.parameters[hermite.THRESHOLDS :]) ** (1 / step)
    assert (np.diff(limits) >= 0).all() and limits[0] == 0 and limits[-1] < 1
    near = np.concatenate([limits * (1 - 1e-9), limits * (1 + 1e-9)])
    return np.concatenate([near, -near, [1.0, -1.0, 0.99999]]), limits


@pytest.mark.parametrize("name", ["tanh", "arctan:1e-6", "sigmoid", "mish", "softplus"])
def test_terms_that_a_pair_leaves_out_are_below_the_bound(name):
    """The bound is attained at the thresholds, where most is left out, if at all."""
    activation = activations.get(name)
    dual = activation.dual(2.0)
    rho, limits = angles_of_thresholds(dual)
    assert len(limits) > 2 and limits[2] > 0.1  # so that there is something to leave out
    at = np.full(rho.shape, 2.0)
    scale = [np.array(v)[-3] for v in nk.dual(activation, at, at, rho)]
    found = nk.dual(activation, at, at, rho)
    exact = nk.dual(activation.finer(1e-13), at, at, rho)
    left_out = 0
    for k in range(2):
        errors = abs(np.array(found[k]) - np.array(exact[k])) / scale[k]
        assert errors.max() <= dual.bounds[k] + 2e-13
        left_out += np.sum(errors[: len(limits)] > 1e-15)
    assert left_out > 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["tanh", "mish", "silu", "softsign"])
def test_the_terms_of_a_pair_do_not_depend_on_the_others(name, dtype):
    """A block of columns takes as many terms as one of its pairs needs.

    Each block has a column that is nearly parallel to the rows, or one of them has all of these.
    """
    rng = np.random.default_rng(0)
    z = rng.standard_normal((256, 5)).astype(dtype)
    z[::16] = z[0] * (1 + 1e-3 * rng.random((16, 5)))
    x, net = z[:64:16], nk.MLP(3, name)
    together = np.argsort(np.arange(256) % 16, kind="stable")
    for mixed, sorted_ in zip(nk.gram(net, x, z), nk.gram(net, x, z[together]), strict=True):
        assert (mixed[:, together] == sorted_).all()
