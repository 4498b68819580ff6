"""The error for a matrix that is not positive definite: its row, eigenvalue, ridge and twins."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.factors import indefinite
from ntk_numba.factors.indefinite import equal_rows


def refused(a, **options):
    with pytest.raises(nk.NotPositiveDefiniteError) as caught:
        nk.cholesky(a, **options)
    return caught.value


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-250])
def test_a_negative_eigenvalue(dense, scale, monkeypatch):
    """The least ridge is enough, and half of it is not."""
    if not dense:
        monkeypatch.setattr(indefinite, "DENSE", 0)
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    a = (q * np.append(np.linspace(1, 2, 59), -0.25)) @ q.T
    a = (a + a.T) / 2 * scale
    error = refused(a)
    assert isinstance(error, ValueError) and error.equal is None
    assert error.least_eigenvalue == pytest.approx(-0.25 * scale, rel=2e-2)
    minors = [np.linalg.eigvalsh(a[:k, :k] / scale)[0] > 0 for k in range(1, 61)]
    assert error.row == minors.index(False)
    assert f"fails at row {error.row} (counted from 0)" in str(error)
    assert "Without a ridge its least eigenvalue is -0.25" in str(error) or scale != 1
    nk.cholesky(a, ridge=error.least_ridge)
    again = refused(a, ridge=error.least_ridge / 4)
    assert again.least_ridge == error.least_ridge
    assert "gram with a ridge of" in str(again)


def test_a_least_eigenvalue_among_many_that_are_nearly_equal(monkeypatch):
    """Lanczos' method does not separate it; powers of the inverse find its size."""
    monkeypatch.setattr(indefinite, "DENSE", 0)
    monkeypatch.setattr(indefinite, "LANCZOS", 1)
    x = np.linspace(-3, 3, 150)[:, None]
    a = np.exp(-0.5 * (x - x.T) ** 2)
    error = refused(a)
    assert abs(error.least_eigenvalue) < 1e-13
    assert error.least_ridge < 1e-11
    a[7, 7] -= 1e-6
    error = refused(a)
    assert error.least_eigenvalue == pytest.approx(np.linalg.eigvalsh(a)[0], rel=0.1)
    nk.cholesky(a, ridge=error.least_ridge)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_rows_are_named(dtype):
    x = np.random.default_rng(2).standard_normal((12, 3))
    x[9] = x[4]
    k = nk.gram(nk.MLP(3, "relu", 1.4, 0.1), x, dtype=dtype).ntk
    error = refused(k)
    assert error.equal == (4, 9) and error.row == 9
    assert "rows 4 and 9 are equal" in str(error)
    assert ("float64" in str(error).replace("definite in float64", "")) == (dtype == "float32")
    # about ε λ_max: small enough to be of no other effect
    assert 0 < error.least_ridge < 100 * np.finfo(dtype).eps * np.trace(k)
    nk.cholesky(k, ridge=error.least_ridge)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_pivot_that_is_a_rounding_error_is_not_positive(dtype):
    """LAPACK's factorisation succeeds if it is rounded up, and solutions are then of any size."""
    rng, net, rounded_up = np.random.default_rng(5), nk.MLP(3, "relu", 1.4, 0.1), 0
    for _ in range(20):
        x = rng.standard_normal((6, 3))
        x[5] = x[0]
        k = nk.gram(net, x, dtype=dtype).ntk
        error = refused(k)
        assert error.equal == (0, 5) and error.row == 5
        nk.cholesky(k, ridge=error.least_ridge)
        try:
            rounded_up += np.linalg.cholesky(k) is not None
        except np.linalg.LinAlgError:
            continue
    assert rounded_up


def test_the_least_ridge_of_a_large_negative_eigenvalue():
    """It is the eigenvalue, rounded up to two digits, and not twice that."""
    assert refused(-np.eye(3)).least_ridge == 1.1
    assert refused(-1.5e308 * np.eye(3)).least_ridge == 1.6e308
    assert refused([[0.0, 1.0], [1.0, 0.0]]).least_ridge == 1.1


def test_equal_rows():
    assert equal_rows(np.eye(3)) is None
    a = np.zeros((4, 4))
    a[2] = a[0] = 1
    a[1], a[3] = 0.0, -0.0
    assert equal_rows(a) == (0, 2)
    assert equal_rows(a[[1, 3], :]) == (0, 1)  # −0 equals 0


def test_a_matrix_of_zeros():
    error = refused(np.zeros((3, 3)))
    assert error.row == 0 and error.equal == (0, 1) and 0 < error.least_ridge < 1e-300
    nk.cholesky(np.zeros((3, 3)), ridge=error.least_ridge)


def test_a_large_matrix_of_zeros(monkeypatch):
    monkeypatch.setattr(indefinite, "DENSE", 0)
    assert refused(np.zeros((3, 3))).least_eigenvalue == 0
