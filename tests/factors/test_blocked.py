"""The factorisation by blocks, with small blocks, against NumPy."""

import numpy as np
import pytest

from ntk_numba.factors import blocked, packed


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocked, "STEP", 7)
    monkeypatch.setattr(blocked, "BLOCK", 10)


def matrix(n, dtype="float64"):
    x = np.random.default_rng(n).standard_normal((n, n + 3))
    return (x @ x.T + np.eye(n)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [1, 6, 7, 8, 50])
def test_the_factor(n, dtype):
    a = matrix(n, dtype)
    found = []
    for threads in (1, 3):
        b = a.copy()
        b[np.tril_indices(n, -1)] = np.nan  # is not read
        assert blocked.factorise(b, threads) == 0
        assert np.isnan(b[np.tril_indices(n, -1)]).all()
        found.append(np.triu(b))
    assert np.array_equal(*found)
    wanted = np.linalg.cholesky(a.astype(float)).T
    assert found[0] == pytest.approx(wanted, rel=0, abs=100 * float(np.finfo(dtype).eps) * n**0.5)


@pytest.mark.parametrize("row", [0, 6, 7, 23])
def test_the_row_that_fails(row):
    a = matrix(30)
    a[row, row] = -1
    assert blocked.factorise(a, 2) == row + 1


def test_large_matrices_take_it(monkeypatch):
    monkeypatch.setattr(packed, "LARGEST", 20)
    a = matrix(40)
    k = packed.Packed(a.copy(), 0.5)
    assert k.factorise(2) == 0
    whole = a + 0.5 * np.eye(40)
    assert k.log_det == pytest.approx(np.linalg.slogdet(whole)[1], rel=1e-13)
    y = np.ones((40, 2))
    assert whole @ k.substitute(y) == pytest.approx(y, abs=1e-12)
    assert (k @ y) == pytest.approx(whole @ y, rel=1e-13)
