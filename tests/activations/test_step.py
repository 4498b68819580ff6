import numpy as np
import pytest
from dual_checks import angles
from mpmath import mp

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.engine.dual import pair_dual

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "sign": lambda x: np.sign(np.real(x)) + 0 * x,
    "heaviside": lambda x: (np.real(x) > 0) + 0 * x,
}
KINKS = dict.fromkeys(SIGMA, (0.0,))

M = np.concatenate([[0], np.logspace(-30, np.log10(0.5), 40)])


@pytest.mark.parametrize(("spec", "odd"), [("sign", 1.0), ("heaviside", 0.5)])
def test_both_halves_are_accurate_at_every_angle(spec, odd):
    for z, w, theta in angles(M):
        one = np.ones(1)
        zk, wk, rate = pair_dual(activations.get(spec).dual(np.inf), one, 3 * one, z * one, w * one)
        assert abs(zk[0] - odd * theta / mp.pi) <= 1e-15 * (theta if z <= w else 1)
        supplement = mp.pi - theta
        assert abs(wk[0] - (1 - odd + odd * supplement / mp.pi)) <= 1e-15 * (
            supplement if z > w and odd == 1 else 1
        )
        assert rate[0] == 0


@pytest.mark.parametrize("spec", ["sign", "heaviside"])
def test_k_agrees_with_a_quadrature_by_orthants(spec):
    sigma = activations.get(spec)
    # polar quadrature of σ(u)σ(v): constant in each sector, so a midpoint rule's error is 1/n
    t = (np.arange(200_000) + 0.5) * 2 * np.pi / 200_000
    for rho in (-0.9, 0.2, 0.7):
        u, v = np.cos(t), rho * np.cos(t) + np.sqrt(1 - rho**2) * np.sin(t)
        k, k_dot = nk.dual(spec, 2.0, 0.3, rho)
        assert k == pytest.approx(np.mean(sigma(u) * sigma(v)), abs=4e-5)
        assert k_dot == 0
    assert nk.dual(spec, 0, 1, 0.5)[0] == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spec", ["sign", "heaviside", "rectified_monomial:3"])
def test_grams_of_duplicates_opposites_and_zero(spec, dtype):
    x = np.array([[1, 2], [1, 2], [-1, -2], [2, 4], [0, 0], [3, -1]], dtype)
    for b_std in (0, 0.3):
        nngp, ntk = nk.gram(nk.MLP(2, spec, b_std=b_std), x, dtype=dtype)
        assert np.isfinite(nngp).all() and np.isfinite(ntk).all()
        assert nngp[0, 1] == nngp[0, 0] and ntk[0, 1] == ntk[0, 0]
        if spec != "rectified_monomial:3":
            assert (ntk == nngp).all()
        if b_std == 0:
            assert (nngp[4] == 0).all()
            assert abs(nngp[0, 2] + (spec == "sign")) < 1e-6 * nngp[0, 0]


def test_sigma():
    x = np.array([-2.0, 0, 3])
    assert activations.get("sign")(x).tolist() == [-1, 0, 1]
    assert activations.get("heaviside")(x).tolist() == [0, 0, 1]
    assert activations.get("heaviside").dual(1.0).never_obtuse
    assert not activations.get("sign").dual(1.0).never_obtuse
