"""Solutions against those of NumPy; what cannot be solved is said."""

import contextlib

import numpy as np
import pytest
from marks import marked
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import ntk_numba as nk
from ntk_numba.blas import blas_threads
from ntk_numba.solvers import block_krylov
from ntk_numba.solvers.systems import Systems

ITERATIONS = ["block_krylov", "nystrom_pcg"]
METHODS = ["cholesky", *ITERATIONS]
N = 60


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def kernel(rng, size=N, rank=None):
    factor = rng.standard_normal((size, rank or 2 * size))
    return factor @ factor.T / size


def exact(matrix, ridge, y):
    return np.linalg.solve(matrix + ridge * np.eye(len(matrix)), y)


def error(found, right):
    return np.abs(found - right).max() / np.abs(right).max()


@pytest.mark.parametrize("method", METHODS)
def test_against_numpy(rng, method):
    matrix, y = kernel(rng), rng.standard_normal((N, 3))
    for ridge in (0.0, 1e-3, 10.0):
        found = nk.solve(matrix, y, ridge=ridge, method=method, tolerance=1e-11, threads=1)
        assert error(found.x, exact(matrix, ridge, y)) < 1e-9
        rest = y - matrix @ found.x - ridge * found.x
        true = np.linalg.norm(rest, axis=0) / np.linalg.norm(y, axis=0)
        assert found.residuals.shape == (3,) and found.residual == found.residuals.max() <= 1e-11
        assert np.abs(found.residuals - true).max() < 1e-14
        assert found.method == method and found.passes > 0 and found.ridge == ridge


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS, ["block_krylov"]))
def test_several_ridges_and_shapes(rng, method):
    matrix, y, ridges = kernel(rng), rng.standard_normal(N), [1e-8, 1e-2, 1.0, 1e3]
    found = nk.solve(matrix, y, ridge=ridges, method=method, tolerance=1e-10, threads=1)
    assert found.x.shape == (4, N) and found.residuals.shape == (4, 1)
    for x, ridge in zip(found.x, ridges, strict=True):
        assert error(x, exact(matrix, ridge, y)) < 1e-8
    two = nk.solve(matrix, y[:, None], ridge=ridges, method=method, tolerance=1e-10, threads=1)
    assert two.x.shape == (4, N, 1) and np.array_equal(two.x[:, :, 0], found.x)


def test_ridges_share_the_passes(rng):
    matrix, y = kernel(rng), rng.standard_normal(N)
    alone = nk.solve(matrix, y, ridge=1e-3, method="block_krylov", threads=1).passes
    ridges = np.logspace(-3, 3, 20)
    assert nk.solve(matrix, y, ridge=ridges, method="block_krylov", threads=1).passes == alone


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 5])
def test_small_systems(rng, method, size):
    matrix, y = kernel(rng, size), rng.standard_normal((size, 8))  # more columns than rows
    found = nk.solve(matrix, y, ridge=0.1, method=method, tolerance=1e-12, threads=1)
    assert error(found.x, exact(matrix, 0.1, y)) < 1e-12


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS, ["block_krylov"]))
def test_columns_of_zeros_and_of_other_scales(rng, method):
    matrix, y = kernel(rng), rng.standard_normal((N, 4))
    y[:, 1] = 0
    scales = np.array([1e-250, 1, 1, 1e250])
    found = nk.solve(matrix, y * scales, ridge=1.0, method=method, tolerance=1e-11, threads=1)
    assert error(found.x / scales, exact(matrix, 1.0, y)) < 1e-10
    assert not found.x[:, 1].any() and found.residuals[1] == 0
    none = nk.solve(matrix, np.zeros((N, 2)), ridge=0, method=method)
    assert not none.x.any() and none.residual == 0 and none.passes == 0
    assert nk.solve(matrix, np.empty((N, 0)), ridge=0, method=method).x.shape == (N, 0)


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS, ["block_krylov"]))
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_matrices_of_other_scales(rng, method, scale):
    matrix, y = kernel(rng), rng.standard_normal(N)
    found = nk.solve(matrix * scale, y, ridge=scale, method=method, tolerance=1e-10, threads=1)
    assert error(found.x * scale, exact(matrix, 1.0, y)) < 1e-9


@pytest.mark.parametrize("method", ITERATIONS)
def test_a_singular_matrix(rng, method):
    matrix = kernel(rng, rank=20)
    y = matrix @ rng.standard_normal(N)
    found = nk.solve(matrix, y, ridge=0, method=method, tolerance=1e-9, threads=1)
    assert error(matrix @ found.x, y) < 1e-8
    with pytest.raises(nk.NotConvergedError, match="singular"):
        nk.solve(matrix, rng.standard_normal(N), ridge=0, method=method, threads=1)
    with pytest.raises(nk.NotConvergedError, match="relative residual of 1 after"):
        nk.solve(np.zeros((5, 5)), np.ones(5), ridge=0, method=method)


@pytest.mark.parametrize("method", ITERATIONS)
def test_a_matrix_that_is_not_positive_definite(rng, method):
    matrix = kernel(rng) - 0.5 * np.eye(N)
    least = np.linalg.eigvalsh(matrix)[0]
    assert least < -0.2
    with pytest.raises(nk.NotPositiveDefiniteError, match=r"least eigenvalue is at most -0\.\d"):
        nk.solve(matrix, rng.standard_normal(N), ridge=1e-3, method=method, threads=1)
    matrix[3, 3] = -1
    with pytest.raises(nk.NotPositiveDefiniteError, match=r"row 3 .* has -1 on the diagonal") as no:
        nk.solve(matrix, np.ones(N), ridge=1e-3, method=method)
    assert no.value.row == 3


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS, ["block_krylov"]))
def test_float32_entries_are_solved_in_float64(rng, method):
    matrix, y = kernel(rng).astype("f"), rng.standard_normal(N)
    found = nk.solve(matrix, y, ridge=0.1, method=method, tolerance=1e-10, threads=1)
    assert error(found.x, exact(matrix.astype(float), 0.1, y)) < 1e-8


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS, ["block_krylov"]))
def test_a_tolerance_below_rounding(rng, method):
    matrix, y = kernel(rng), rng.standard_normal(N)
    with pytest.raises(nk.NotConvergedError, match="float64 rounds") as raised:
        nk.solve(matrix, y, ridge=0.1, method=method, tolerance=1e-18, threads=1)
    assert 0 < raised.value.residual < 1e-13


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS, ["block_krylov"]))
def test_an_operator_of_scipy(rng, method):
    matrix, y = kernel(rng), rng.standard_normal(N)
    found = nk.solve(aslinearoperator(matrix), y, ridge=0.1, method=method, tolerance=1e-9)
    assert error(found.x, exact(matrix, 0.1, y)) < 1e-8


@pytest.mark.slow
def test_a_basis_that_becomes_too_large(rng, monkeypatch):
    """Another space begins from the residual, and from the leading vectors of the last one."""
    monkeypatch.setattr(block_krylov, "LARGEST", 20)
    matrix, y = kernel(rng), rng.standard_normal((N, 2))
    options = {"ridge": [0.5, 2.0], "method": "block_krylov", "tolerance": 1e-6, "threads": 1}
    found = nk.solve(matrix, y, **options)
    for x, ridge in zip(found.x, (0.5, 2.0), strict=True):
        assert error(x, exact(matrix, ridge, y)) < 1e-5
    monkeypatch.setattr(block_krylov, "LARGEST", 2)
    with pytest.raises(nk.NotConvergedError, match="hardly made it smaller"):
        nk.solve(kernel(rng, rank=N), y, **options | {"ridge": 1e-9})


@pytest.mark.slow
def test_bases_of_more_columns_than_have_all_eigenvectors_computed(rng, monkeypatch):
    """With many rows they are larger, unless the ridge is a rounding error."""
    monkeypatch.setattr(block_krylov, "LARGEST", 50)
    size, spaces = 1000, []
    begin = block_krylov.BlockKrylov._begin
    monkeypatch.setattr(
        block_krylov.BlockKrylov, "_begin", lambda *a: spaces.append(begin(*a)) or spaces[-1]
    )
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values, y = 0.85 ** np.arange(size), rng.standard_normal((size, 2))
    matrix = (q * values) @ q.T
    matrix = (matrix + matrix.T) / 2
    options = {"method": "block_krylov", "tolerance": 1e-5, "threads": 1}
    found = nk.solve(matrix, y, ridge=1e-3, **options)
    assert error(found.x, exact(matrix, 1e-3, y)) < 1e-4
    assert len(spaces) == 1 and spaces[0].size > 50 + block_krylov.width_of(size, 2)
    spaces.clear()
    with contextlib.suppress(nk.NotConvergedError):
        nk.solve(matrix, y, ridge=1e-17, **options)
    assert max(space.size for space in spaces) <= 50 + block_krylov.width_of(size, 2)
    monkeypatch.setattr(block_krylov, "LARGEST", 1)
    values[-1] = -1e-2
    matrix = (q * values) @ q.T
    with pytest.raises(nk.NotPositiveDefiniteError, match=r"at most -0\.00"):
        nk.solve((matrix + matrix.T) / 2, y, ridge=1e-3, **options)


@pytest.mark.slow
@pytest.mark.parametrize("method", ITERATIONS)
def test_passes_on_digits(method, digits_kernel):
    matrix, y = digits_kernel
    ridge = 1e-8 * np.diag(matrix).mean()
    passes = {}
    for tolerance in (1e-3, 1e-6):
        found = nk.solve(matrix, y, ridge=ridge, method=method, tolerance=tolerance)
        passes[tolerance] = found.passes
        assert error(found.x, exact(matrix, ridge, y)) < 10 * tolerance
    most = {"block_krylov": {1e-3: 8, 1e-6: 12}, "nystrom_pcg": {1e-3: 20, 1e-6: 42}}[method]
    assert all(passes[tolerance] <= most[tolerance] for tolerance in most)


@pytest.fixture(scope="module")
def digits_kernel():
    data = np.load("data/digits.npz")
    net = nk.MLP(4, "relu", w_std=2**0.5, b_std=0.1)
    return nk.gram(net, data["x"][:1500].astype(float)).ntk, np.eye(10)[data["y"][:1500]] - 0.1


@pytest.mark.parametrize("method", ITERATIONS)
def test_a_checkpoint(rng, tmp_path, method):
    matrix, y, path = kernel(rng), rng.standard_normal((N, 2)), tmp_path / "c"
    options = {"ridge": [0.1, 1.0], "tolerance": 1e-9, "threads": 1}
    right = nk.solve(matrix, y, method=method, **options)
    reached = []
    for most in (1, 3):
        with pytest.raises(nk.NotConvergedError, match=f"max_passes={most} is reached") as raised:
            nk.solve(matrix, y, method=method, path=path, max_passes=most, **options)
        reached.append((raised.value.passes, raised.value.residual))
    assert [passes for passes, _ in reached] == [1, 3]
    found = nk.solve(matrix, y, path=path, **options)  # "auto" goes on with the same method
    assert np.array_equal(found.x, right.x) and found.passes == right.passes
    assert found.method == method and "is a checkpoint" in found.reason
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("method", ITERATIONS)
def test_a_finished_checkpoint(rng, tmp_path, method, monkeypatch):
    matrix, y, path = kernel(rng), rng.standard_normal(N), tmp_path / "c"
    options = {"ridge": 0.1, "method": method, "path": path, "threads": 1}
    first = nk.solve(matrix, y, tolerance=1e-4, **options)
    products = []
    multiply = Systems.multiply
    monkeypatch.setattr(
        Systems, "multiply", lambda self, v: products.append(1) or multiply(self, v)
    )
    again = nk.solve(matrix, y, tolerance=1e-3, **options)
    assert products == [] and np.array_equal(again.x, first.x) and again.passes == first.passes
    finer = nk.solve(matrix, y, tolerance=1e-8, **options)
    assert finer.residual <= 1e-8 and finer.passes == first.passes + len(products)
    # a kill after a solution, and then after passes that followed it
    (tmp_path / "c").unlink()
    nk.solve(matrix, y, tolerance=0.5, **options)
    for most in range(first.passes, first.passes + 3):
        with contextlib.suppress(nk.NotConvergedError):
            nk.solve(matrix, y, tolerance=1e-8, max_passes=most, **options)
    again = nk.solve(matrix, y, tolerance=1e-8, **options)
    assert error(again.x, finer.x) < 1e-6 and again.residual <= 1e-8


def test_checkpoints_of_other_problems(rng, tmp_path):
    matrix, y, path = kernel(rng), rng.standard_normal(N), tmp_path / "c"
    options = {"ridge": 0.1, "method": "nystrom_pcg", "path": path}
    nk.solve(matrix, y, **options)
    changed = matrix.copy()
    changed[2, 2] += 1e-9
    for other, text in (
        ({"gram": changed}, "another matrix"),
        ({"Y": y + 1e-9}, "other targets"),
        ({"ridge": 0.2}, "other ridges"),
        ({"method": "block_krylov"}, "another method"),
        ({"seed": 1}, "another seed"),
    ):
        with pytest.raises(ValueError, match=f"is the checkpoint of a solution with {text}"):
            nk.solve(**{"gram": matrix, "Y": y} | options | other)
    found = nk.solve(matrix, y, **options | {"ridge": 0.2}, overwrite=True)
    assert error(found.x, exact(matrix, 0.2, y)) < 1e-4
    path.write_bytes(b"something else")
    with pytest.raises(FileExistsError, match="exists and is no checkpoint"):
        nk.solve(matrix, y, **options)
    path.write_bytes(b"")
    with pytest.raises(FileExistsError, match="exists and is no checkpoint"):
        nk.solve(matrix, y, **options)


def test_auto(rng, tmp_path):
    size = 300
    matrix, y = kernel(rng, size), rng.standard_normal(size)
    assert "fits in memory" in nk.solve(matrix, y, ridge=0.1).reason
    large = nk.solve(matrix, y, ridge=0.1, memory=size * size * 15 // 2)
    assert large.method == "nystrom_pcg" and "would need a path" in large.reason
    timed = nk.solve(matrix, y, ridge=0.1, memory=size * size * 15 // 2, path=tmp_path / "a")
    assert "passes of" in timed.reason and error(timed.x, exact(matrix, 0.1, y)) < 1e-5


def test_wrong_arguments(rng, tmp_path):
    matrix, y = kernel(rng), rng.standard_normal(N)

    def refused(text, kind=ValueError, gram=matrix, Y=y, **options):
        with pytest.raises(kind, match=text):
            nk.solve(gram, Y, **{"ridge": 0.1} | options)

    refused("ridge must be finite and not negative", ridge=-1)
    refused("ridge is empty", ridge=[])
    refused("ridge must be a number", TypeError, ridge="0.1")
    refused("tolerance must be more than 0 and less than 1", tolerance=1)
    refused("max_passes", max_passes=0)
    refused("seed must be at least 0", seed=-1)
    refused("method must be", method="cg")
    refused("Y must have 60 rows, as gram", Y=y[:-1])
    refused(r"Y: row 7 \(counted from 0\) is not finite", Y=np.where(np.arange(N) == 7, np.nan, y))
    refused("has one ridge, and 2 are given", method="cholesky", ridge=[1, 2], path=tmp_path / "f")
    refused("the vectors of nystrom_pcg take up to", method="nystrom_pcg", memory=1000)
    refused("give a path, where most", method="block_krylov", memory=1000)


@pytest.mark.slow
def test_no_more_passes_than_help(rng):
    q, _ = np.linalg.qr(rng.standard_normal((300, 300)))
    matrix, y = (q * np.geomspace(1, 1e-15, 300)) @ q.T, rng.standard_normal(300)
    with pytest.raises(nk.NotConvergedError, match="hardly made it smaller") as raised:
        nk.solve((matrix + matrix.T) / 2, y, ridge=0, method="nystrom_pcg", threads=1)
    assert raised.value.passes <= 400


def test_what_auto_takes_with_a_path(rng, tmp_path):
    """A file of a factor needs one ridge and the entries; all else is found by passes."""
    matrix, y = kernel(rng), rng.standard_normal(N)
    two = nk.solve(matrix, y, ridge=[0.1, 1.0], path=tmp_path / "a", threads=1)
    assert "one ridge, and 2 are given" in two.reason
    other = nk.solve(aslinearoperator(matrix), y, ridge=0.1, path=tmp_path / "b", threads=1)
    assert "no entries" in other.reason and error(other.x, exact(matrix, 0.1, y)) < 1e-4


@pytest.mark.slow
def test_computed_kernels(rng, tmp_path):
    net, x, y = nk.MLP(3, b_std=0.1), rng.standard_normal((N, 3)), rng.standard_normal((N, 2))
    right = exact(nk.gram(net, x).ntk, 0.1, y)
    operator = nk.kernel_operator(net, x)
    for method in METHODS:
        found = nk.solve(operator, y, ridge=0.1, method=method, tolerance=1e-10)
        assert error(found.x, right) < 1e-9
    path = tmp_path / "f.h5"
    stored = nk.solve(operator, y, ridge=0.1, method="cholesky", path=path)
    assert error(stored.x, right) < 1e-9 and nk.open_cholesky(path).ridge == 0.1
    again = nk.solve(operator, y, ridge=0.1, path=path)  # "auto" knows the factor
    assert again.method == "cholesky" and np.array_equal(again.x, stored.x)
    with pytest.raises(ValueError, match="one data set"):
        nk.solve(nk.kernel_operator(net, x, x + 1), y, ridge=0.1)
    file = nk.write_gram(net, x, tmp_path / "g.h5", layout="lower")
    for gram in (file, file.path):
        for method in METHODS:
            found = nk.solve(gram, y, ridge=0.1, method=method, tolerance=1e-10)
            assert error(found.x, right) < 1e-9
    with pytest.raises(ValueError, match="is read for the matrix; choose another"):
        nk.solve(file.path, y, ridge=0.1, path=file.path, overwrite=True)
    assert len(file.ntk[:]) == N


@pytest.mark.slow
@pytest.mark.parametrize("method", ITERATIONS)
def test_bits_do_not_depend_on_threads(rng, method, tmp_path):
    size = 9000  # more than two runs of rows
    factor = rng.standard_normal((size, 40))

    def multiply(v):
        with blas_threads(1):  # else the bits of this product depend on the threads
            return factor @ (factor.T @ v) + v

    operator = LinearOperator((size, size), matvec=multiply, matmat=multiply, dtype=float)
    y = rng.standard_normal((size, 2))
    options = {"ridge": [0.1, 1.0], "method": method, "tolerance": 1e-8}
    one, two = (nk.solve(operator, y, threads=count, **options) for count in (1, 2))
    assert np.array_equal(one.x, two.x)
    kept = nk.solve(operator, y, path=tmp_path / "c", **options)
    assert np.array_equal(kept.x, one.x)


@pytest.mark.slow
def test_progress(rng, capsys):
    matrix, y = kernel(rng), rng.standard_normal(N)
    nk.solve(matrix, y, ridge=0.1, method="block_krylov", progress=True)
    text = capsys.readouterr().err
    assert "multiplies the matrix" in text and "residual" in text and "pass" in text
