"""The operator that is computed in every pass, as users and other parts of the package see it."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator, cg, eigsh

import ntk_numba as nk
from ntk_numba.operators.operator import as_operator
from ntk_numba.operators.tiles import open_tiles

NET = nk.MLP(3, "relu", 2**0.5, 0.1)
RNG = np.random.default_rng(1)
X, Z = RNG.standard_normal((150, 4)), RNG.standard_normal((40, 4))


def close(found, exact):
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_products_of_all_kinds(kernel):
    k = getattr(nk.gram(NET, X, kernels=kernel), kernel)
    cross = getattr(nk.gram(NET, X, Z, kernels=kernel), kernel)
    own, both = (
        nk.kernel_operator(NET, X, kernel=kernel),
        nk.kernel_operator(NET, X, Z, kernel=kernel),
    )
    v = RNG.standard_normal((150, 3))
    assert own.shape == (150, 150) and both.shape == (150, 40)
    assert own.dtype == both.dtype == np.float64
    for vectors in (
        v,
        v[:, 0],
        np.asfortranarray(v),
        v.astype(np.float32),
        v.round().astype(int),
        v > 0,
    ):
        close(own @ vectors, k @ vectors)
        close(own.T @ vectors, k @ vectors)
        close(both.T @ vectors, cross.T @ vectors)
        close(both @ vectors[:40], cross @ vectors[:40])
    close(own @ (v + 2j), k @ (v + 2j))
    assert own.passes == 13
    assert (own.columns([3, 149, -1, 3]) == k[:, [3, 149, -1, 3]]).all()
    assert (both.columns([39, 0]) == cross[:, [39, 0]]).all()
    assert (own.diag() == np.diagonal(k)).all()


def test_what_has_no_meaning_is_refused():
    own, both = nk.kernel_operator(NET, X), nk.kernel_operator(NET, X, Z)
    with pytest.raises(IndexError, match="150"):
        own.columns([150])
    with pytest.raises(ValueError, match="not finite"):
        own @ np.full(150, np.nan)
    for call in (both.diag, both.tiles):
        with pytest.raises(ValueError, match="leave Z out"):
            call()
    with pytest.raises(ValueError, match="kernel must be"):
        nk.kernel_operator(NET, X, kernel="both")
    with pytest.raises(ValueError, match="mismatch"):
        own @ np.ones(149)


def test_solvers_of_scipy_take_it():
    own, k = nk.kernel_operator(NET, X), nk.gram(NET, X, kernels="ntk").ntk
    assert aslinearoperator(own) is own
    np.testing.assert_allclose(
        eigsh(own, 3, return_eigenvectors=False), np.linalg.eigvalsh(k)[-3:], rtol=1e-10
    )
    solution, failed = cg(own, k @ np.ones(150), rtol=1e-12, maxiter=2000)
    assert not failed
    np.testing.assert_allclose(k @ solution, k @ np.ones(150), rtol=1e-9)


def test_it_stands_for_a_matrix_that_is_factorised():
    own = nk.kernel_operator(NET, X, dtype=np.float32)
    k = nk.gram(NET, X, kernels="ntk", dtype=np.float32).ntk
    assert as_operator(own) is own and own.describe().startswith("computes ntk of")
    with open_tiles(own) as tiles:
        assert (tiles.size, tiles.dtype, tiles.identity) == (150, np.float32, own.identity)
        out = np.empty((1, 256, 256), np.float32)
        tiles.load([(0, 0)], out, 256)
        assert (out[0, :150, :150] == k).all() and not out[0, 150:].any()
        assert (tiles.diagonal() == np.diagonal(k)).all()


def test_its_factors_are_those_of_the_matrix(tmp_path):
    own, k = nk.kernel_operator(NET, X), nk.gram(NET, X, kernels="ntk").ntk
    factor, other = (nk.cholesky(matrix, ridge=1e-3) for matrix in (own, k))
    assert (factor.solve(X) == other.solve(X)).all()
    with (
        nk.cholesky(own, tmp_path / "own.h5", ridge=1e-3) as factor,
        nk.cholesky(k, tmp_path / "other.h5", ridge=1e-3) as other,
    ):
        assert (factor.solve(X) == other.solve(X)).all()
        assert factor.log_det == other.log_det


def test_predictions_are_one_product():
    y = X[:, 0]
    model = nk.kernel_ridge(NET, X, y, ridge=1e-3)
    alpha = np.linalg.solve(
        nk.gram(NET, X, kernels="ntk").ntk
        + 1e-3 * nk.diagonal(NET, X, kernels="ntk").ntk.mean() * np.eye(150),
        y,
    )
    close(nk.kernel_operator(NET, Z, X) @ alpha, model.predict(Z))


MEMORY = """
import sys
import numpy as np
import ntk_numba as nk

x = np.lib.format.open_memmap(sys.argv[1], "w+", np.float64, (2200, 20_000))
block = np.random.default_rng(0).standard_normal((100, 20_000))
for start in range(0, 2200, 100):
    np.multiply(block, 1 + start, out=x[start : start + 100])
x.flush()
del x, block
net = nk.MLP(1, "relu")
nk.kernel_operator(net, np.ones((2, 2))) @ np.ones((2, 10))
own = nk.kernel_operator(net, sys.argv[1], memory=sys.argv[2])
assert not own.matrix.resident
open("/proc/self/clear_refs", "w").write("5")  # resets VmHWM
own @ np.ones((2200, 10))
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(peak)
"""


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_stays_below_the_limit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "x.npy"), "640MiB"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) << 10 < 640 << 20
