"""Tests of sums of derivatives, and of the derivatives that `gram` returns."""

from dataclasses import replace

import numpy as np
import pytest
from marks import marked
from plain import relu_kernels

import ntk_numba as nk
from ntk_numba.compute import gradients
from ntk_numba.compute.gradients import contract
from ntk_numba.engine import differences, gradient_kernel

NET = nk.MLP(3, "relu", [1.4, 1.2, 0.9], [0.1, 0.3, 0.2])
SERIES = nk.MLP(2, "erf", [1.4, 1.2], [0.1, 0.3])


def symmetric(count, seed=1):
    weights = np.random.default_rng(seed).standard_normal((count, count))
    return weights + weights.T


def logarithmic(net, derivatives):
    """Return the derivatives by log w_std and log b_std, (2L, N, M), from those of `gram`."""
    return np.concatenate(
        [derivatives[name] * np.array(getattr(net, name))[:, None, None]
         for name in ("w_std", "b_std")]
    )  # fmt: skip


@pytest.mark.parametrize(("net", "kernel"), [(NET, "nngp"), (NET, "ntk"), (SERIES, "ntk")], ids=str)
def test_contract_is_the_sum_of_the_derivatives(net, kernel, points):
    weights = symmetric(150)
    got = nk.gram(net, points, gradients=True)
    each = logarithmic(net, getattr(got, f"d_{kernel}"))
    sums = np.einsum("pij,ij->p", each, weights)
    root = np.sqrt(np.diag(getattr(got, kernel)))
    size = root @ abs(weights) @ root
    found = contract(net, points, weights, kernel=kernel)
    # the differences of both take other steps
    assert (abs(found - sums) <= (1e-13 if net is NET else 1e-11) * size).all()
    assert (contract(net, points, weights, kernel=kernel, threads=1) == found).all()
    assert (contract(net, points, np.asfortranarray(weights), kernel=kernel) == found).all()
    directions = np.random.default_rng(0).standard_normal((2, 2, net.depth))
    along = contract(net, points, weights, kernel=kernel, directions=directions)
    np.testing.assert_allclose(along, directions.reshape(2, -1) @ found, atol=1e-11 * size)


def test_contract_against_differences_of_plain_kernels(digits):
    x, weights = digits[:40] / 16.0, symmetric(40)
    for kernel in (0, 1):
        found = contract(NET, x, weights, kernel=("nngp", "ntk")[kernel])
        for p in range(6):
            ends = []
            for t in (1e-4, -1e-4):
                values = np.array([NET.w_std, NET.b_std]).ravel()
                values[p] *= np.exp(t)
                ends.append((relu_kernels(x, values[:3], values[3:])[kernel][-1] * weights).sum())
            np.testing.assert_allclose(found[p], (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", [NET, SERIES], ids=["relu", "erf"])
def test_the_kernels_keep_their_bits(net, points):
    plain, got = nk.gram(net, points), nk.gram(net, points, gradients=True)
    assert plain.d_nngp is None and plain.d_ntk is None
    assert (plain.nngp == got.nngp).all() and (plain.ntk == got.ntk).all()
    one = nk.gram(net, points, kernels="nngp", gradients=True, threads=1)
    assert one.ntk is None and one.d_ntk is None
    for name in ("w_std", "b_std"):
        assert one.d_nngp[name].shape == (net.depth, 150, 150)
        if net is NET:
            assert (one.d_nngp[name] == got.d_nngp[name]).all()
        assert (one.d_nngp[name] == one.d_nngp[name].transpose(0, 2, 1)).all()


def test_a_parameter_that_is_zero_has_no_derivative(points):
    for activation in ("relu", "erf"):
        net = nk.MLP(3, activation, [1.2, 0, 1], [0.2, 0.1, 0])
        got = nk.gram(net, points, gradients=True)
        for derivatives in (got.d_nngp, got.d_ntk):
            assert not derivatives["w_std"][1].any() and not derivatives["b_std"][2].any()
            assert derivatives["w_std"][2].any()
        assert contract(net, points, symmetric(150), kernel="ntk")[[1, 5]].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, ["float64", "float32"]))
def test_derivatives_that_overflow(dtype):
    """K ∝ σ², so that ∂K/∂σ = 2K/σ; where σ² underflows, K does not depend on σ."""
    largest = float(np.finfo(dtype).max)
    net, x = nk.MLP(1, w_std=1e-10), np.array([[1.0], [-1.0]])
    message = rf"derivative of n\w+ by w_std\[0\] is too large for {dtype} at row 0, column 0"
    with pytest.raises(ValueError, match=message):
        nk.gram(net, 1e10 * largest**0.49 * x, dtype=dtype, gradients=True)
    got = nk.gram(net, largest**0.49 * x, dtype=dtype, gradients=True)
    np.testing.assert_allclose(got.d_ntk["w_std"][0], 2 * got.ntk.astype(float) / 1e-10, rtol=1e-6)
    tiny = nk.gram(nk.MLP(3, "relu", 1e-310, 1.0), x, dtype=dtype, gradients=True)
    assert not tiny.d_ntk["w_std"].any() and (tiny.d_ntk["b_std"][2] == 2).all()


def test_tiles_of_several_bands(monkeypatch):
    """Sums do not depend on how many samples are in memory, nor on the size of batches."""
    x = np.random.default_rng(0).standard_normal((200, 3))
    whole = {net: contract(net, x, symmetric(200), kernel="ntk") for net in (NET, SERIES)}
    plan = gradients.make_plan
    monkeypatch.setattr(
        gradients, "make_plan", lambda *a, **k: replace(plan(*a, **k), band=1, batch=2)
    )
    for net, found in whole.items():
        assert (contract(net, x, symmetric(200), kernel="ntk") == found).all()


def test_a_step_that_is_too_long_is_halved(monkeypatch):
    x, weights = np.random.default_rng(0).standard_normal((70, 3)), symmetric(70)
    fine = contract(SERIES, x, weights, kernel="ntk")
    monkeypatch.setattr(differences, "STEP", 0.5)
    coarse = contract(SERIES, x, weights, kernel="ntk")
    np.testing.assert_allclose(coarse, fine, rtol=1e-9)


def test_a_step_that_is_never_short_enough_is_an_error(monkeypatch):
    monkeypatch.setattr(gradient_kernel, "KEPT", 1e-17)
    with pytest.raises(ValueError, match=r"errors are up to .* more than .* fewer layers"):
        contract(SERIES, np.eye(3), np.eye(3), kernel="ntk")


def test_wrong_arguments(monkeypatch):
    x = np.eye(3)
    with pytest.raises(ValueError, match=r"weights must have the shape .*\(3, 3\), not \(2, 2\)"):
        contract(NET, x, np.eye(2), kernel="ntk")
    with pytest.raises(ValueError, match="kernel must be 'nngp' or 'ntk', not 'both'"):
        contract(NET, x, x, kernel="both")
    with pytest.raises(ValueError, match=r"directions must have the shape \(P, 2, 3\)"):
        contract(NET, x, x, kernel="ntk", directions=np.eye(3))
    with pytest.raises(ValueError, match="directions must be finite"):
        contract(NET, x, x, kernel="ntk", directions=np.full((1, 2, 3), np.nan))
    with pytest.raises(ValueError, match='needs layers="last" and no out'):
        nk.gram(NET, x, layers="all", gradients=True)
    with pytest.raises(ValueError, match='needs layers="last" and no out'):
        nk.gram(NET, x, out=nk.gram(NET, x), gradients=True)
    with pytest.raises(ValueError, match=r"row 1 .*NaN|NaN.* row 1|row 1"):
        contract(NET, [[1.0], [np.nan], [0.0]], x, kernel="ntk")
    monkeypatch.setattr(gradients, "available_memory", lambda: 100)
    with pytest.raises(ValueError, match=r"14 matrices of 3 × 3, 1,008 bytes .* 100 B of memory"):
        nk.gram(NET, x, gradients=True)
