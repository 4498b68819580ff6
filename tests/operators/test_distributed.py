"""Kernel operators whose passes are computed in parts."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.cluster.workers import LocalPool
from ntk_numba.operators import passes

NETS = [nk.MLP(3, "relu", b_std=0.1), nk.MLP(2, "tanh", b_std=0.1)]  # the second needs all norms


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((700, 5)).astype("f4"))
    np.save(folder / "z.npy", rng.standard_normal((300, 5)))
    return folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "passes").mkdir()
    return tmp_path / "passes"


def columns(count, width=3):
    return np.random.default_rng(1).standard_normal((count, width))


@pytest.mark.parametrize("net", marked(pytest.mark.slow, NETS))
@pytest.mark.parametrize("second", marked(pytest.mark.slow, [None, "z.npy"]))
def test_products_have_the_bits_of_one_process(data, folder, net, second, monkeypatch):
    monkeypatch.setattr(passes, "BLOCK", 64)  # so that a part does not get rows of others
    z = None if second is None else data / second
    A = nk.kernel_operator(net, data / "x.npy", z)
    wanted = A @ columns(A.shape[1]), A.T @ columns(A.shape[0])
    dense = nk.gram(net, data / "x.npy", z, kernels="ntk").ntk.astype(float)
    scale = np.abs(wanted[0]).max()
    assert np.abs(wanted[0] - dense @ columns(A.shape[1])).max() < 1e-12 * scale
    with ThreadPoolExecutor(2) as pool:
        for parts, executor in ((1, None), (3, None), (7, pool)):
            with nk.distribute(A, folder, parts=parts, executor=executor) as D:
                np.testing.assert_array_equal(D @ columns(A.shape[1]), wanted[0])
                np.testing.assert_array_equal(D.T @ columns(A.shape[0]), wanted[1])
                assert D.identity == A.identity and "parts" in D.describe()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("layout", marked(pytest.mark.slow, ["full", "lower"]))
def test_a_stored_matrix(data, folder, layout, monkeypatch):
    with nk.write_gram(NETS[0], data / "x.npy", folder.parent / "g.h5", layout=layout) as file:
        A = file.operator("ntk")
        wanted = A @ columns(700)
        with ThreadPoolExecutor(2) as pool:
            for parts, executor in ((1, None), (7, pool)):
                with nk.distribute(A, folder, parts=parts, executor=executor) as D:
                    np.testing.assert_array_equal(D @ columns(700), wanted)
        with ThreadPoolExecutor(1) as pool, nk.distribute(A, folder, parts=2, executor=pool) as D:
            monkeypatch.setattr(passes, "_kept", {})  # as in another process
            nk.write_gram(NETS[0], data / "z.npy", file.path, overwrite=True).close()
            with pytest.raises(ValueError, match=r"ntk of .*g.h5 is not the same.*was replaced"):
                D @ columns(700)


def test_one_column_and_none(data, folder):
    A = nk.kernel_operator(NETS[0], data / "x.npy")
    with nk.distribute(A, folder, parts=2) as D:
        np.testing.assert_array_equal(D @ columns(700)[:, 0], A @ columns(700)[:, 0])
        assert (D @ np.empty((700, 0))).shape == (700, 0)
        np.testing.assert_array_equal(D.diag(), A.diag())
        np.testing.assert_array_equal(D.columns([3, 1]), A.columns([3, 1]))


def test_errors_say_what_to_do(data, folder):
    A = nk.kernel_operator(NETS[0], np.ones((3, 2)))
    with pytest.raises(TypeError, match="X is read by every worker of the executor: give the path"):
        nk.distribute(A, folder, parts=1, executor=ThreadPoolExecutor)
    with pytest.raises(ValueError, match="at most 1 parts are possible"):
        nk.distribute(A, folder, parts=2)
    with pytest.raises(ValueError, match="parts must be at least 1"):
        nk.distribute(A, folder, parts=0)
    with pytest.raises(
        TypeError, match="operator must be that of kernel_operator or of a Gram file; this ndarray"
    ):
        nk.distribute(np.eye(3), folder, parts=1)
    cross = nk.write_gram(NETS[0], np.eye(3), folder / "g.h5", Z=np.eye(2, 3))
    with cross, pytest.raises(ValueError, match="is of two data sets, and is multiplied by one"):
        nk.distribute(cross.operator("ntk"), folder, parts=1)
    with pytest.raises(TypeError, match="an operator cannot be pickled; make it in the process"):
        pickle.dumps(A)
    with pytest.raises(FileNotFoundError, match="create it first"):
        nk.distribute(A, folder / "none", parts=1)


def test_a_worker_that_reads_other_data_is_refused(data, folder, monkeypatch):
    path = folder.parent / "x.npy"
    x = np.load(data / "x.npy")
    np.save(path, x)
    A = nk.kernel_operator(NETS[0], path)
    with ThreadPoolExecutor(1) as pool, nk.distribute(A, folder, parts=3, executor=pool) as D:
        x[600] += 1
        np.save(path, x)
        with pytest.raises(ValueError, match=r"ntk of .*x.npy is not the same.*rows 512 to 699"):
            D @ columns(700)


@pytest.mark.cluster
def test_processes_keep_what_they_prepared_and_may_die(data, folder):
    A = nk.kernel_operator(NETS[0], data / "x.npy")
    with nk.distribute(A, folder, parts=5, executor=partial(LocalPool, 2)) as D:
        for seed in range(3):
            v = np.random.default_rng(seed).standard_normal((700, 2))
            np.testing.assert_array_equal(D @ v, A @ v)


@pytest.mark.cluster
def test_a_solution_by_workers_has_the_bits_of_one_process(data, folder):
    A = nk.kernel_operator(NETS[0], data / "x.npy")
    y = columns(700)
    options = {"ridge": 1e-3, "method": "nystrom_pcg", "tolerance": 1e-8}
    wanted = nk.solve(A, y, **options)
    with nk.distribute(A, folder, parts=3, executor=partial(LocalPool, 2)) as D:
        found = nk.solve(D, y, path=folder.parent / "checkpoint", **options)
    np.testing.assert_array_equal(found.x, wanted.x)
    assert found.residual < 1e-8 and found.passes == wanted.passes
