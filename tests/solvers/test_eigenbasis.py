"""Ridges chosen by leave-one-out and by the evidence, against a search with dense solves."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ntk_numba.errors import InvalidValueError
from ntk_numba.solvers import eigenbasis
from ntk_numba.solvers.eigenbasis import Eigenbasis, choose_ridge, largest_eigenvalue

RNG = np.random.default_rng(8)
N = 40


def kernel():
    x = RNG.standard_normal((N, 3))
    return x @ x.T + np.exp(-0.5 * ((x[:, None] - x) ** 2).sum(axis=2))


K = kernel()
Y = K @ RNG.standard_normal((N, 2)) / 10 + 0.5 * RNG.standard_normal((N, 2))


def leave_one_out(ridge, y):
    off = []
    for i in range(N):
        keep = np.arange(N) != i
        a = K[np.ix_(keep, keep)] + ridge * np.eye(N - 1)
        off.append(y[i] - K[i, keep] @ np.linalg.solve(a, y[keep]))
    return np.mean(np.square(off))


def evidence(ridge, y):
    a = K + ridge * np.eye(N)
    _, log_det = np.linalg.slogdet(a)
    fit = np.einsum("ij,ij->", y, np.linalg.solve(a, y))
    return -0.5 * (fit + y.shape[1] * (log_det + N * np.log(2 * np.pi)))


@pytest.mark.parametrize("scale", [1.0, 1e200])
def test_a_ridge_is_the_best_of_all(scale):
    y = Y * np.sqrt(scale)
    for objective, function, sign in (("loo", leave_one_out, 1), ("evidence", evidence, -1)):
        choice = choose_ridge(Eigenbasis(K * scale), y, objective)
        found = minimize_scalar(
            lambda t, f=function, s=sign: s * f(np.exp(t), Y), bounds=(-6, 4), method="bounded",
            options={"xatol": 1e-8},
        )  # fmt: skip
        assert np.log(choice.ridge / scale) == pytest.approx(found.x, abs=1e-4)
        assert choice.edge == "" and choice.objective == objective
        shift = scale if objective == "loo" else 1
        value = choice.value / shift
        if objective == "evidence":
            value += N * np.log(scale)  # two outputs
        assert value == pytest.approx(sign * found.fun, rel=1e-9)


def test_the_edges_of_what_is_tried():
    exact = K @ RNG.standard_normal((N, 1))
    low = choose_ridge(Eigenbasis(K), exact, "evidence")
    assert low.edge == "least" and low.ridge < 1e-12
    np.linalg.cholesky(K + low.ridge * np.eye(N))
    noise = np.linalg.eigh(K)[1][:, :1]  # what the kernel explains worst
    high = choose_ridge(Eigenbasis(K), noise, "loo")
    assert high.edge == "largest" and high.ridge >= 1e3 * np.trace(K) / N


def test_the_least_ridge_of_a_matrix_in_float32_is_large_enough():
    exact = K @ RNG.standard_normal((N, 1))
    choice = choose_ridge(Eigenbasis(K.astype(np.float32)), exact, "loo")
    assert choice.ridge > 16 * np.finfo(np.float32).eps * np.linalg.eigvalsh(K)[-1]


def test_targets_whose_squares_overflow():
    for objective in ("loo", "evidence"):
        assert np.isfinite(choose_ridge(Eigenbasis(K), Y * 1e200, objective).ridge)


def test_a_matrix_of_zeros_has_no_best_ridge():
    with pytest.raises(InvalidValueError, match="kernel matrix of X is 0"):
        choose_ridge(Eigenbasis(np.zeros((3, 3))), np.ones((3, 1)), "loo")


@pytest.mark.parametrize("size", [1, 20, 60])
def test_the_largest_eigenvalue(size, monkeypatch):
    monkeypatch.setattr(eigenbasis, "DENSE", 30)
    x = RNG.standard_normal((size, 5))
    a = x @ x.T + np.eye(size)
    assert largest_eigenvalue(a) == pytest.approx(np.linalg.eigvalsh(a)[-1], rel=1e-9)
    assert largest_eigenvalue(np.zeros((size, size))) == 0
    angles = np.linspace(0, 2 * np.pi, 41)[:-1]  # (1, …, 1) is an eigenvector, of 0
    a = np.cos(angles - angles[:, None])
    assert largest_eigenvalue(a) == pytest.approx(20, rel=1e-9)


def test_a_matrix_is_copied_unless_it_may_be_overwritten():
    a = K.copy()
    Eigenbasis(a)
    assert np.array_equal(a, K)
    found = Eigenbasis(a, overwrite=True)
    assert not np.array_equal(a, K)
    assert found.apply(found.values, np.eye(N)) == pytest.approx(K, abs=1e-12)
