"""Factors in memory against plain NumPy: solutions, inverses, evidence and their errors."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.factors.packed import Packed, mirror
from ntk_numba.operators import matrix as matrix_module

RNG = np.random.default_rng(3)
BLOCK = 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(matrix_module, "BLOCK", BLOCK)


def matrix(size, condition=1e3, dtype=float, scale=1.0):
    """Return a symmetric matrix with eigenvalues from 1 to 1/condition, and a factor on them."""
    rng = np.random.default_rng(size)
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    array = (q * np.geomspace(1, 1 / condition, size)) @ q.T * scale
    return ((array + array.T) / 2).astype(dtype)


@pytest.mark.parametrize("size", [1, 5, BLOCK, BLOCK + 1, 40])
def test_solutions_inverses_and_determinants(size):
    a, y = matrix(size), RNG.standard_normal((size, 3))
    with nk.cholesky(a, ridge=0.01) as factor:  # which holds nothing open
        pass
    wanted = a + 0.01 * np.eye(size)
    assert factor.solve(y) == pytest.approx(np.linalg.solve(wanted, y), rel=1e-11, abs=1e-11)
    assert 0 <= factor.residual < 1e-13
    assert factor.solve(y[:, 0]).shape == (size,)
    inverse = np.linalg.inv(wanted)
    assert factor.inverse() == pytest.approx(inverse, rel=1e-11, abs=1e-11)
    assert np.array_equal(factor.inverse(), factor.inverse().T)
    assert factor.inverse_diagonal() == pytest.approx(np.diag(inverse), rel=1e-11)
    assert factor.log_det == pytest.approx(np.linalg.slogdet(wanted)[1], rel=1e-12, abs=1e-12)
    half = factor.half_solve(y)
    assert half.T @ half == pytest.approx(y.T @ inverse @ y, rel=1e-11, abs=1e-11)
    assert factor.shape == (size, size) and "Cholesky" in repr(factor)


def test_the_given_matrix_is_not_changed():
    a = matrix(30)
    before = a.copy()
    nk.cholesky(a, ridge=1.0).solve(np.ones(30))
    assert np.array_equal(a, before)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_product_uses_the_triangle_that_is_left(dtype):
    a = matrix(3 * BLOCK + 5, dtype=dtype)
    packed = Packed(a.copy(), 0.5)
    assert packed.factorise() == 0
    columns = RNG.standard_normal((len(a), 2))
    wanted = (a.astype(float) + 0.5 * np.eye(len(a))) @ columns
    assert packed @ columns == pytest.approx(wanted, abs=1e-13)
    packed.restore(0.0)
    assert np.array_equal(packed.array, a)


def test_mirror():
    a = RNG.standard_normal((BLOCK + 3, BLOCK + 3))
    b = a.copy()
    mirror(b)
    assert np.array_equal(b, np.tril(a) + np.tril(a, -1).T)


def test_float32_is_refined_to_residuals_of_float64():
    a = matrix(60, 1e5, np.float32)
    y = RNG.standard_normal((60, 2)) * [1, 1e-30]
    factor = nk.cholesky(a)
    x = factor.solve(y)
    assert factor.dtype == np.float32 and x.dtype == np.float64
    assert factor.residual <= 1e-10
    assert x == pytest.approx(np.linalg.solve(a.astype(float), y), rel=1e-6, abs=0)
    off = np.linalg.norm(y - a.astype(float) @ x, axis=0) / np.linalg.norm(y, axis=0)
    assert factor.residual == pytest.approx(off.max(), rel=1e-3)


def test_float32_that_cannot_be_refined(monkeypatch):
    """The error names float64, and a ridge with which it works."""
    a = matrix(100, 1e12, np.float32)
    with pytest.raises(ValueError, match="float64"):  # or the factorisation itself fails
        nk.cholesky(a, ridge=3e-8).solve(np.ones(100))
    factor = nk.cholesky(a, ridge=1e-6)
    with monkeypatch.context() as patch:
        patch.setattr("ntk_numba.factors.factor.STEPS", 0)
        text = r"a relative residual of .*dtype='float64'.*ridge of about 9.5e-07 \(absolute\)"
        with pytest.raises(ValueError, match=text):
            factor.solve(np.ones(100))
    factor.solve(np.ones(100))
    assert factor.residual <= 1e-10


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("power", [-30, 30])
def test_numbers_near_the_limits_of_the_dtype(dtype, power):
    scale = 10.0**power if dtype == "float32" else 10.0 ** (9 * power)
    a = matrix(20, 100, dtype) * np.asarray(scale, dtype)
    size = 1e250 if power > 0 else 1e-20
    y = np.array([1.0, -3.0] * 10)
    factor = nk.cholesky(a, ridge=0.1 * scale)
    wanted = a.astype(float) / scale + 0.1 * np.eye(20)
    inverse, close = np.linalg.inv(wanted), {"rel": 1e-4 if dtype == "float32" else 1e-11}
    assert factor.solve(y * size) / size * scale == pytest.approx(inverse @ y, rel=1e-6)
    assert factor.log_det == pytest.approx(
        np.linalg.slogdet(wanted)[1] + 20 * np.log(scale), rel=1e-6
    )
    assert factor.inverse_diagonal() * scale == pytest.approx(np.diag(inverse), **close)
    half = factor.half_solve(np.ones(20)) * np.sqrt(scale)
    assert half @ half == pytest.approx(inverse.sum(), **close)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ridges_far_from_the_size_of_the_matrix(dtype):
    """The ridge decides the scale as the matrix does, below the normal numbers too."""
    tiny = np.finfo(dtype).smallest_subnormal * 2.0**10
    one = np.eye(3, dtype=dtype)
    for k, ridge in ((one, 1e300), (one * np.asarray(1e-30, dtype), 1e10), (0 * one, tiny)):
        assert nk.cholesky(k, ridge=ridge).solve([ridge] * 3) == pytest.approx(1, rel=1e-10)
    assert nk.cholesky(one * np.asarray(tiny, dtype)).solve([tiny] * 3) == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_largest_numbers(dtype):
    factor = nk.cholesky(np.eye(3, dtype=dtype))
    for found in (factor.solve([1.7e308] * 3), factor.half_solve([1.7e308] * 3)):
        assert found == pytest.approx(1.7e308, rel=1e-7)
    with pytest.raises(ValueError, match="solution of gram is too large for float64"):
        nk.cholesky(0.5 * np.eye(3, dtype=dtype)).solve([1.7e308] * 3)


def test_leave_one_out_is_what_fits_without_a_sample_predict():
    a, y = matrix(12) + np.eye(12), RNG.standard_normal((12, 2))
    found = nk.cholesky(a, ridge=0.25).leave_one_out(y)
    for i in range(12):
        keep = np.arange(12) != i
        b = a[np.ix_(keep, keep)] + 0.25 * np.eye(11)
        mean = a[i, keep] @ np.linalg.solve(b, y[keep])
        variance = a[i, i] + 0.25 - a[i, keep] @ np.linalg.solve(b, a[keep, i])
        assert found.mean[i] == pytest.approx(mean, rel=1e-12, abs=1e-12)
        assert found.residual[i] == pytest.approx(y[i] - mean, rel=1e-12, abs=1e-12)
        assert found.variance[i] == pytest.approx(variance, rel=1e-12)
        density = -0.5 * np.log(2 * np.pi * variance) - (y[i] - mean) ** 2 / (2 * variance)
        assert found.log_density[i] == pytest.approx(density, rel=1e-12)
    flat = nk.cholesky(a, ridge=0.25).leave_one_out(y[:, 0])
    assert flat.mean.shape == flat.residual.shape == flat.log_density.shape == (12,)


def test_what_a_gram_may_be(tmp_path):
    net = nk.MLP(2, "relu", 1.0, 0.1)
    x = RNG.standard_normal((9, 3))
    k = nk.gram(net, x)
    wanted = np.linalg.slogdet(k.ntk)[1]
    nk.write_gram(net, x, tmp_path / "k.h5", kernels=("nngp", "ntk"), layers="all")
    with nk.open_gram(tmp_path / "k.h5") as file:
        given = [k.ntk, k, nk.gram(net, x, layers="all"), str(tmp_path / "k.h5"), file]
        for gram in given:
            assert nk.cholesky(gram, kernel="ntk").log_det == pytest.approx(wanted, rel=1e-12)
    only = nk.gram(net, x, kernels="ntk")
    assert nk.cholesky(only).log_det == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(ValueError, match="gram has two kernels; choose one"):
        nk.cholesky(k)
    with pytest.raises(ValueError, match="gram has no nngp, only ntk"):
        nk.cholesky(only, kernel="nngp")


def broken(size=4, **entries):
    a = matrix(size)
    for place, value in entries.items():
        a[tuple(int(c) for c in place[1:])] = value
    return a


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"gram": np.ones((2, 3))}, r"gram must be a square matrix, not \(2, 3\)"),
        ({"gram": np.ones((2, 2, 2))}, r"gram must be a square matrix, not \(2, 2, 2\)"),
        ({"gram": np.ones((0, 0))}, "gram must be a square matrix"),
        ({"gram": broken(_12=np.nan)}, "gram: row 1, column 2 .* is nan"),
        ({"gram": broken(_30=np.inf)}, "gram: row 3, column 0 .* is inf"),
        ({"gram": broken(_20=5.0)}, "gram is not symmetric: row 0, column 2"),
        ({"gram": np.eye(2), "kernel": "rbf"}, "kernel must be 'ntk' or 'nngp', not 'rbf'"),
        ({"gram": nk.gram(nk.MLP(2), np.eye(2)), "kernel": 3}, "kernel must be .* not 3"),
        ({"gram": np.eye(2), "ridge": -1}, "ridge must be finite and not negative"),
        ({"gram": np.eye(2), "ridge": np.nan}, "ridge must be finite"),
        ({"gram": np.eye(200), "memory": "100kB"}, "200 samples take 312 KiB .*memory='100kB'"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        nk.cholesky(**arguments)


def test_bad_right_hand_sides():
    factor = nk.cholesky(np.eye(3))
    with pytest.raises(ValueError, match=r"Y must have 3 rows, as gram, not \(4,\)"):
        factor.solve(np.ones(4))
    with pytest.raises(ValueError, match=r"Y: row 1 \(counted from 0\) is not finite"):
        factor.solve([[1.0], [np.nan], [0.0]])
    with pytest.raises(TypeError, match="complex"):
        factor.solve([1j, 0, 0])
    assert np.array_equal(factor.solve(np.zeros(3)), np.zeros(3)) and factor.residual == 0
