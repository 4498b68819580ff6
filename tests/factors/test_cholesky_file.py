"""Factors in files against plain NumPy, and bit for bit whatever memory and threads are."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.factors import cholesky_file, panels, unfactorised

RNG = np.random.default_rng(5)
T = 16


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(panels, "SMALLEST_TILE", T)
    monkeypatch.setattr(cholesky_file, "NARROW", 4)
    monkeypatch.setattr(cholesky_file, "WIDE", 8)


def matrix(size, condition=1e3, dtype=float, scale=1.0):
    rng = np.random.default_rng(size)
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    array = (q * np.geomspace(1, 1 / condition, size)) @ q.T * scale
    return ((array + array.T) / 2).astype(dtype)


def written(path):
    """Return the digest of the bytes of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [1, 5, T, T + 1, 6 * T + 3])
def test_solutions_inverses_and_determinants(size, tmp_path):
    a, y = matrix(size), RNG.standard_normal((size, 3))
    wanted = a + 0.01 * np.eye(size)
    inverse = np.linalg.inv(wanted)
    with nk.cholesky(a, tmp_path / "l.h5", ridge=0.01, threads=2) as factor:
        assert factor.shape == (size, size) and factor.dtype == float and factor.ridge == 0.01
        assert factor.path == tmp_path / "l.h5"
        assert factor.solve(y) == pytest.approx(np.linalg.solve(wanted, y), rel=1e-11, abs=1e-11)
        assert np.isnan(factor.residual)
        assert factor.solve(y[:, 0]).shape == factor.half_solve(y[:, 0]).shape == (size,)
        assert factor.solve(y[:, :0]).shape == (size, 0)
        assert factor.inverse_diagonal() == pytest.approx(np.diag(inverse), rel=1e-11)
        assert factor.log_det == pytest.approx(np.linalg.slogdet(wanted)[1], rel=1e-12, abs=1e-12)
        half = factor.half_solve(y)
        assert half == pytest.approx(np.linalg.solve(np.linalg.cholesky(wanted), y), abs=1e-11)
        assert half.T @ half == pytest.approx(y.T @ inverse @ y, rel=1e-11, abs=1e-11)
        found, memory = factor.leave_one_out(y), nk.cholesky(a, ridge=0.01).leave_one_out(y)
        for mine, other in zip(found, memory, strict=True):
            assert mine == pytest.approx(other, rel=1e-10, abs=1e-10)
        assert factor.leave_one_out(y[:, 0]).mean.shape == (size,)
        assert f"CholeskyFile: {size} × {size}, float64, ridge 0.01" in repr(factor)


def test_refinement_by_the_matrix(tmp_path):
    a = matrix(5 * T, 1e5, np.float32)
    y = RNG.standard_normal((5 * T, 6)) * [1, 1e-30, 1, 1e20, 1, 1]
    exact = np.linalg.solve(a.astype(float) + 1e-3 * np.eye(len(a)), y)
    with nk.cholesky(a, tmp_path / "l.h5", ridge=1e-3) as factor:
        rough = np.linalg.norm(factor.solve(y) - exact) / np.linalg.norm(exact)
        assert 1e-9 < rough < 1e-2
        x = factor.solve(y, matrix=a)
        assert factor.residual <= 1e-10
        assert x == pytest.approx(exact, rel=1e-6, abs=0)
        off = np.linalg.norm(y - a.astype(float) @ x - 1e-3 * x, axis=0)
        assert factor.residual == pytest.approx(
            (off / np.linalg.norm(y, axis=0)).max(), rel=1e-2, abs=1e-15
        )
        with pytest.raises(ValueError, match=r"matrix must have the shape \(80, 80\) of the fac"):
            factor.solve(y, matrix=np.eye(3))
        with pytest.raises(ValueError, match="or is not the factor of this matrix"):
            factor.solve(y, matrix=10 * np.eye(5 * T))


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, ["float64", "float32"]))
def test_bits_depend_on_neither_memory_nor_threads(dtype, tmp_path):
    a = matrix(7 * T + 5, dtype=dtype)
    y = RNG.standard_normal((len(a), 40))
    results = []
    for n, (columns, threads) in enumerate([(1.5, 1), (2.5, 3), (9, 2), (100, 4)]):
        size = int(columns * 8 * T * T * a.itemsize) + 8192
        path = tmp_path / f"{n}.h5"
        with (
            nk.cholesky(a, path, ridge=0.1, memory=3 * size, threads=threads) as factor,
            nk.open_cholesky(path, memory=2 * size + 20_000, threads=threads) as same,
        ):
            results.append(
                [
                        same.solve(y), same.half_solve(y), same.inverse_diagonal(),
                        factor.solve(y[:, :3]), factor.log_det,
                        np.frombuffer(written(path).encode(), np.uint8),
                    ]
                )  # fmt: skip
    for other in results[1:]:
        for mine, first in zip(other, results[0], strict=True):
            assert np.array_equal(mine, first)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("power", [-30, 30])
def test_numbers_near_the_limits_of_the_dtype(dtype, power, tmp_path):
    scale = 10.0**power if dtype == "float32" else 10.0 ** (9 * power)
    a = matrix(2 * T, 100, dtype) * np.asarray(scale, dtype)
    y = np.array([1.0, -3.0] * T)
    wanted = a.astype(float) / scale + 0.1 * np.eye(2 * T)
    inverse, close = np.linalg.inv(wanted), {"rel": 1e-4 if dtype == "float32" else 1e-11}
    with nk.cholesky(a, tmp_path / "l.h5", ridge=0.1 * scale) as factor:
        size = 1e200 if power > 0 else 1e-20
        assert factor.solve(y * size) / size * scale == pytest.approx(inverse @ y, **close)
        refined = factor.solve(y * size, matrix=a) / size * scale
        assert refined == pytest.approx(inverse @ y, rel=1e-6)
        assert factor.log_det == pytest.approx(
            np.linalg.slogdet(wanted)[1] + 2 * T * np.log(scale), rel=1e-6
        )
        assert factor.inverse_diagonal() * scale == pytest.approx(np.diag(inverse), **close)
        half = factor.half_solve(np.ones(2 * T)) * np.sqrt(scale)
        assert half @ half == pytest.approx(inverse.sum(), **close)


def test_what_a_gram_may_be(tmp_path, monkeypatch):
    monkeypatch.undo()  # a tile of a factor is at least as large as one of a Gram file
    net = nk.MLP(2, "relu", 1.0, 0.1)
    x = RNG.standard_normal((70, 3))
    k = nk.gram(net, x)
    options = {"kernels": ("nngp", "ntk"), "layers": "all"}
    nk.write_gram(net, x, tmp_path / "k.h5", **options)
    nk.write_gram(net, x, tmp_path / "lower.h5", layout="lower", kernels="ntk")
    wanted = np.linalg.slogdet(k.ntk + 0.1 * np.eye(70))[1]
    with nk.open_gram(tmp_path / "k.h5") as file:
        given = [k.ntk, k, file, str(tmp_path / "k.h5"), tmp_path / "lower.h5"]
        for n, gram in enumerate(given):
            path = tmp_path / f"{n}.h5"
            with nk.cholesky(gram, path, kernel="ntk" if n else None, ridge=0.1) as factor:
                assert factor.log_det == pytest.approx(wanted, rel=1e-12)
    operator = nk.kernel_operator(net, x)
    with nk.cholesky(operator, tmp_path / "o.h5", ridge=0.1) as factor:
        assert factor.log_det == pytest.approx(wanted, rel=1e-12)
        x = factor.solve(np.ones(70), matrix=operator)
        assert factor.residual < 1e-10
    in_memory = nk.cholesky(operator, ridge=0.1)
    assert in_memory.solve(np.ones(70)) == pytest.approx(x, rel=1e-9)
    with pytest.raises(ValueError, match="gram has two kernels; choose one"):
        nk.cholesky(k, tmp_path / "l.h5")
    with pytest.raises(
        ValueError, match=r"keep the factor in a file \(path='factor.h5'\), or take"
    ):
        nk.cholesky(tmp_path / "lower.h5", memory=1000)


@pytest.mark.parametrize(
    ("dtype", "dense"),
    marked(pytest.mark.slow, [(d, n) for d in ("float64", "float32") for n in (0, 10**9)]),
)
def test_matrices_that_are_not_positive_definite(dense, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(unfactorised, "DENSE", dense)
    size = 7 * T + 5
    indefinite = matrix(size)
    indefinite -= 0.01 * np.eye(size)
    values = np.linalg.eigvalsh(indefinite)
    points = RNG.standard_normal((size, size + 3))
    points[90] = points[31]
    equal = points @ points.T
    equal[90], equal[:, 90] = equal[31], equal[:, 31]
    equal[90, 90] = equal[90, 31] = equal[31, 90] = equal[31, 31]
    low = RNG.standard_normal((size, size - 5))
    low = low @ low.T
    for array, ridge in ((indefinite, 0.0), (indefinite, 1e-3), (equal, 0.0), (low, 0.0)):
        a = array.astype(dtype)
        with pytest.raises(nk.NotPositiveDefiniteError, match="fails at row") as caught:
            nk.cholesky(a, tmp_path / "l.h5", ridge=ridge, memory="60kB")
        error = caught.value
        assert not list(tmp_path.iterdir())
        assert f"fails at row {error.row} (counted from 0)" in str(error)
        assert (error.equal == (31, 90)) == (array is equal)
        if array is equal:
            assert error.row == 90 and "rows 31 and 90 are equal" in str(error)
        if array is indefinite:
            assert values[0] * 1.001 <= error.least_eigenvalue < 0.8 * values[0]
            assert error.least_ridge < 3 * abs(values[0])
        nk.cholesky(a, tmp_path / "l.h5", ridge=error.least_ridge, memory="60kB").close()
        (tmp_path / "l.h5").unlink()


@pytest.mark.parametrize("seed", marked(pytest.mark.slow, [3, 0]))
def test_the_ridge_of_an_error_is_enough_for_factors_by_tiles(seed, tmp_path):
    """They round differently from LAPACK's, which is asked for that ridge."""
    points = np.random.default_rng(seed).standard_normal((453, 456))
    points[90] = points[31]
    a = points @ points.T
    a[90], a[:, 90] = a[31], a[:, 31]
    a[90, 90] = a[90, 31] = a[31, 90] = a[31, 31]
    with pytest.raises(nk.NotPositiveDefiniteError) as caught:
        nk.cholesky(a, tmp_path / "l.h5")
    nk.cholesky(a, tmp_path / "l.h5", ridge=caught.value.least_ridge).close()


def test_the_witness_proves_that_the_matrix_is_indefinite(tmp_path, monkeypatch):
    """Without a step of Lanczos' method, its quotient is the bound."""
    monkeypatch.setattr(unfactorised, "DENSE", 0)
    monkeypatch.setattr(unfactorised, "STEPS", 1)
    a = matrix(5 * T, 10)
    row = 3 * T + 2
    top = np.linalg.inv(a[:row, :row])
    a[row, row] = a[row, :row] @ top @ a[:row, row] - 0.5
    v = np.append(-top @ a[:row, row], 1)
    with pytest.raises(nk.NotPositiveDefiniteError, match=r"the pivot is -0\.5\. ") as caught:
        nk.cholesky(a, tmp_path / "l.h5")
    assert caught.value.row == row
    assert caught.value.least_eigenvalue == pytest.approx(-0.5 / (v @ v), rel=1e-9)


@pytest.mark.slow
def test_memory_is_held(tmp_path):
    """The most that is resident grows by little more than the limit, also for the inverse."""
    out = tmp_path / "l.h5"
    program = f"""
import sys, numpy as np, ntk_numba as nk
def most():
    return next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if "VmHWM" in x)
a = np.full((5000, 5000), 0.5, np.float32) + np.eye(5000, dtype=np.float32)
nk.cholesky(np.eye(300), {str(tmp_path / "small.h5")!r}).solve(np.ones(300))
nk.operators.tiles.check_matrix = lambda *a: None  # takes memory for rows of the array
start = most()
factor = nk.cholesky(a, {str(out)!r}, memory="20MB", threads=2)
factor.close()
with nk.open_cholesky({str(out)!r}, memory="20MB", threads=2) as factor:
    factor.solve(np.ones((5000, 20)))
    found = factor.inverse_diagonal()
assert most() - start < 32e6, most() - start
assert abs(found - 1 + 0.5 / 2501).max() < 1e-5, found[:3]
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not run.returncode, run.stderr


def test_files_that_exist(tmp_path):
    a, path = matrix(3 * T), tmp_path / "l.h5"
    nk.cholesky(a, path, ridge=0.5).close()
    before = path.stat().st_mtime_ns
    nk.cholesky(a, path, ridge=0.5).close()  # the same factor is not computed again
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"ridge is 0\.5, not 0\.25"):
        nk.cholesky(a, path, ridge=0.25)
    with pytest.raises(ValueError, match="the matrix is another one"):
        nk.cholesky(2 * a, path, ridge=0.5)
    with nk.cholesky(a, path, ridge=0.25, overwrite=True) as factor:
        assert factor.ridge == 0.25
    with pytest.raises(ValueError, match="is a Cholesky factor"):
        nk.open_gram(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        nk.open_cholesky(tmp_path / "no.h5")
    assert not [p for p in tmp_path.iterdir() if p != path]


def test_bad_arguments(tmp_path):
    path = tmp_path / "l.h5"
    broken = matrix(4)
    broken[1, 2] = np.nan
    for arguments, text in (
        ({"gram": np.ones((2, 3))}, r"gram must be a square matrix, not \(2, 3\)"),
        ({"gram": broken}, "gram: row 1, column 2 .* is nan"),
        ({"gram": np.eye(2), "kernel": "rbf"}, "kernel must be"),
        ({"gram": np.eye(2), "ridge": -1}, "ridge must be finite and not negative"),
        ({"gram": np.eye(200), "memory": "8kB"}, r"needs at least .* memory is 7\.81 KiB"),
        ({"gram": np.eye(2), "threads": 0}, "threads must be at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            nk.cholesky(path=path, **arguments)
    with nk.cholesky(np.eye(40), path, memory="50kB") as factor:
        with pytest.raises(ValueError, match=r"Y must have 40 rows"):
            factor.solve(np.ones(4))
        with pytest.raises(ValueError, match=r"Y: row 1 \(counted from 0\) is not finite"):
            factor.solve(np.where(np.arange(40) == 1, np.nan, 0.0))
        with pytest.raises(ValueError, match="too large for float64"):
            nk.cholesky(0.5 * np.eye(3), tmp_path / "m.h5").solve([1.7e308] * 3)
    text = r"needs at least .* for right-hand sides, and has"
    with nk.open_cholesky(path, memory="10kB") as factor, pytest.raises(ValueError, match=text):
        factor.solve(np.ones(40))


def test_damage_is_found_and_repaired(tmp_path):
    a, path = matrix(6 * T + 3), tmp_path / "l.h5"
    with nk.cholesky(a, path, ridge=0.1) as factor:
        right = factor.solve(np.ones(len(a)))
        tile_map = factor._file.tile_map
    before = written(path)
    for places in ([(3, 1)], [(0, 0)], [(6, 6), (5, 2), (2, 2), (4, 0)]):
        with path.open("r+b") as raw:
            for i, j in places:
                raw.seek(tile_map.tile_at("factor", 0, i, j) + 8 * 17)
                raw.write(b"damaged!")
        with (
            nk.open_cholesky(path) as factor,
            pytest.raises(OSError, match=r"tile \(\d, \d\) of .*l.h5 does not match its check"),
        ):
            factor.solve(np.ones(len(a)))
        report = nk.repair_factor(path, a, memory="60kB", threads=2)
        assert report and f"{len(places)} tiles computed again" in report.checks[0]
        assert written(path) == before
    with pytest.raises(ValueError, match="cannot be repaired: the matrix is another one"):
        nk.repair_factor(path, 2 * a)
    with nk.open_cholesky(path) as factor:
        assert np.array_equal(factor.solve(np.ones(len(a))), right)
