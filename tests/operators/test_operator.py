"""Kernel matrices as operators against NumPy on the whole matrix."""

import numpy as np
import pytest
from marks import marked
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg, eigsh

import ntk_numba as nk
from ntk_numba.operators import operator
from ntk_numba.operators.operator import ArrayOperator, as_operator

NET = nk.MLP(3, "relu", b_std=0.1)
GIVEN = ["path", "file", "array", "map", "Gram", "scipy", "operator"]


@pytest.fixture(scope="module")
def k():
    x = np.random.default_rng(3).standard_normal((150, 6))
    return nk.gram(NET, x, kernels="ntk").ntk


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    x = np.random.default_rng(3).standard_normal((150, 6))
    path = tmp_path_factory.mktemp("operator") / "g.h5"
    nk.write_gram(NET, x, path, layout="lower").close()
    return path


@pytest.fixture(params=marked(pytest.mark.slow, GIVEN, ["path", "array"]))
def given(request, k, path, tmp_path):
    if request.param == "map":
        np.save(tmp_path / "k.npy", k)
    with nk.open_gram(path) as file:
        yield {
            "path": lambda: path,
            "file": lambda: file,
            "array": lambda: k,
            "map": lambda: np.load(tmp_path / "k.npy", mmap_mode="r"),
            "Gram": lambda: nk.Gram(None, k),
            "scipy": lambda: aslinearoperator(k),
            "operator": lambda: file.operator("ntk"),
        }[request.param]()


def test_products_of_any_matrix(given, k):
    rng = np.random.default_rng(0)
    with as_operator(given) as a:
        assert isinstance(a, nk.GramOperator) and isinstance(a, LinearOperator)
        assert a.shape == (150, 150) and a.dtype == float and a.symmetric
        for columns in (0, 1, 3, 40):
            v = rng.standard_normal((150, columns))
            before = a.passes
            assert np.allclose(a @ v, k @ v, rtol=1e-12, atol=1e-12)
            assert a.passes == before + 1
            assert np.allclose(a.T @ v, k @ v, rtol=1e-12, atol=1e-12)
            assert np.allclose(v.T @ a, v.T @ k, rtol=1e-12, atol=1e-12)
        v = rng.standard_normal((150, 2))
        assert (a @ np.asfortranarray(v) == a @ v).all()
        assert np.allclose(a @ v[:, 0], k @ v[:, 0]) and (a @ v[:, 0]).shape == (150,)
        assert np.allclose(a @ (v + 1j), k @ (v + 1j)) and np.allclose(a.H @ v, k @ v)
        whole = np.arange(150)
        assert (a @ whole).dtype == float and np.allclose(a @ whole, k @ whole)
        assert (a.diag() == np.diag(k)).all()
        for indices in ([3, 149, 3, 0], [-1], [], np.arange(150), np.int64(5)):
            right = k[:, np.atleast_1d(np.asarray(indices, int))]
            assert (a.columns(indices) == right).all()
        for wrong in ([150], [-151], [0.5], [[1, 2]], [True]):
            with pytest.raises(IndexError):
                a.columns(wrong)
        for bad in (np.nan, np.inf, np.longdouble("1e400")):
            with pytest.raises(ValueError, match=r"the vectors: row 7 \(counted from 0\) is not f"):
                a @ np.where(np.arange(150) == 7, bad, 1.0)
        with pytest.raises(ValueError, match=r"(?i)dimension mismatch"):
            a @ np.ones(151)
        assert a.describe() and len(a.identity) == 32 and as_operator(a) is a


@pytest.mark.slow
def test_solvers_of_scipy_take_it(path, k):
    with as_operator(path) as a:
        values = eigsh(a, 3, return_eigenvectors=False)
        assert np.allclose(np.sort(values), np.linalg.eigvalsh(k)[-3:], rtol=1e-10)
        y = np.random.default_rng(0).standard_normal(150)
        solution, info = cg(a, y, rtol=1e-10, maxiter=2000)
        assert info == 0 and np.allclose(k @ solution, y, rtol=1e-6, atol=1e-7)


def test_a_file_that_was_opened_is_closed(path):
    with as_operator(path) as a:
        a @ np.ones(150)
    with pytest.raises(ValueError, match="is closed; open it again"):
        a @ np.ones(150)
    with nk.open_gram(path) as file:
        with as_operator(file) as a:
            a @ np.ones(150)
        assert file.ntk[0, 0]


def test_identities_tell_matrices_apart(path, k, tmp_path):
    x = np.random.default_rng(3).standard_normal((150, 6))
    other = k.copy()
    other[3, 4] = other[4, 3] = np.nextafter(other[3, 4], 9)
    identities = [as_operator(a).identity for a in (k, other, k.astype(np.float32), k[:149, :149])]
    kernels = ("nngp", "ntk")
    nk.write_gram(NET, x, tmp_path / "b.h5", kernels=kernels, layers="all", layout="lower").close()
    with nk.open_gram(tmp_path / "b.h5") as file:
        identities += [file.operator(name, n).identity for name in kernels for n in (1, 2, 3)]
        assert as_operator(file, "ntk").identity == file.operator("ntk").identity
        assert np.allclose(as_operator(file, "ntk") @ x, k @ x)
    assert len(set(identities)) == len(identities)
    assert as_operator(k.copy()).identity == identities[0]
    with nk.open_gram(path) as a, nk.open_gram(path) as b:
        assert a.operator("ntk").identity == b.operator("ntk").identity
    scipy = [as_operator(aslinearoperator(a)).identity for a in (k, k * 2, k)]
    assert scipy[0] == scipy[2] != scipy[1]


def test_a_product_in_memory_has_the_same_bits_for_all_threads(monkeypatch):
    monkeypatch.setattr(operator, "threads_to_use", lambda threads: threads or 2)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1100, 1100))
    for dtype in (float, np.float32):
        k = (a + a.T).astype(dtype)
        v = rng.standard_normal((1100, 3))
        found = [ArrayOperator(k, threads=t) @ v for t in (1, 2, 3, None)]
        assert all((b == found[0]).all() for b in found)
        assert np.allclose(found[0], k.astype(float) @ v, rtol=1e-12, atol=1e-12)


def test_rectangular_operators(tmp_path):
    x = np.random.default_rng(3).standard_normal((150, 6))
    with nk.write_gram(NET, x, tmp_path / "g.h5", Z=x[:70]) as file:
        k, a = file.ntk[...], file.operator("ntk")
        assert a.shape == (150, 70) and not a.symmetric
        v, w = x[:70], x
        assert np.allclose(a @ v, k @ v, rtol=1e-12) and np.allclose(a.T @ w, k.T @ w, rtol=1e-12)
        assert np.allclose(a.H @ (w + 1j), k.T @ (w + 1j)) and np.allclose(w.T @ a, w.T @ k)
        assert (a.columns([69, 0]) == k[:, [69, 0]]).all()
        for use in (a.diag, a.tiles):
            with pytest.raises(ValueError, match="is of two data sets"):
                use()
        with pytest.raises(ValueError, match="must be a square matrix"):
            as_operator(file)


class Odd(LinearOperator):
    def __init__(self, shape, dtype, product):
        super().__init__(np.dtype(dtype), shape)
        self._product = product

    def _matvec(self, v):
        return self._product(v)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (np.ones((3, 4)), ValueError, "gram must be a square matrix"),
        (np.ones((0, 0)), ValueError, "gram must be a square matrix"),
        (np.triu(np.ones((5, 5))), ValueError, "gram is not symmetric: row 0, column 1"),
        (np.full((5, 5), np.nan), ValueError, "row 0, column 0 .* is nan; a kernel is finite"),
        ("missing.h5", OSError, "missing.h5 does not exist"),
        (Odd((3, 4), float, lambda v: v), ValueError, r"must be an operator .* not .* 3 × 4"),
        (Odd((3, 3), complex, lambda v: v), ValueError, "must be an operator of real numbers"),
        (Odd((9, 9), float, lambda v: np.cumsum(v)), ValueError, "operator that is not symmetric"),
        (Odd((9, 9), float, lambda v: v * np.nan), ValueError, "operator that is not symmetric"),
    ],
)
def test_what_is_no_matrix_is_refused(wrong, error, text):
    with pytest.raises(error, match=text):
        as_operator(wrong)
