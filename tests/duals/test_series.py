"""Certified series: tolerances that are refused, and the kernels of awkward rows."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.duals import mixture, series


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
