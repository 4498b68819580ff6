"""Models whose kernel matrix does not fit in memory, against those in memory and NumPy."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.predict import factors, fitting
from ntk_numba.solvers import nystrom_pcg

NET = nk.MLP(3, "relu", b_std=0.1)
METHODS = ["cholesky", "nystrom_pcg", "block_krylov"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Let no matrix fit in memory, and temporary folders be in one of the test."""
    for module in (fitting, factors):
        monkeypatch.setattr(module, "fits", lambda *_, **__: False)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def data(count=260, outputs=2):
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((count, 4)), rng.standard_normal((9, 4))
    y = np.sin(2 * x[:, :1]) + 0.1 * rng.standard_normal((count, outputs))
    return x, y, z


def dense(x, z, ridge, kernel="ntk"):
    """Return K(z, x), K(x, x) + the ridge, and K(z, z), by the independent function `gram`."""
    whole = getattr(nk.gram(NET, np.vstack([x, z]), kernels=kernel), kernel)
    n = len(x)
    matrix = whole[:n, :n]
    return whole[n:, :n], matrix + ridge * np.trace(matrix) / n * np.eye(n), whole[n:, n:]


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS))
def test_a_regression(small, method):
    x, y, z = data()
    cross, matrix, _ = dense(x, z, 1e-3)
    alpha = np.linalg.solve(matrix, y)
    model = nk.kernel_ridge(NET, x, y, ridge=1e-3, method=method, tolerance=1e-11)
    assert model.method == method
    assert np.abs(model.dual_coef - alpha).max() < 1e-9 * np.abs(alpha).max()
    assert np.abs(model.predict(z) - cross @ alpha).max() < 1e-9
    true = np.linalg.norm(y - matrix @ model.dual_coef, axis=0) / np.linalg.norm(y, axis=0)
    assert model.residual == pytest.approx(true.max(), abs=1e-13) and model.residual < 1e-10
    if method == "cholesky":
        inverse = np.linalg.inv(matrix)
        wanted = y - inverse @ y / np.diagonal(inverse)[:, None]
        assert np.abs(model.leave_one_out().mean - wanted).max() < 1e-9
    else:
        with pytest.raises(ValueError, match=f"cannot be found by {method}; fit with method='chol"):
            model.leave_one_out()
    assert len(list(small.iterdir())) == (method == "cholesky")
    del model
    assert list(small.iterdir()) == []


@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS[:2]))
@pytest.mark.parametrize("kernel", marked(pytest.mark.slow, ["nngp", "ensemble"]))
def test_a_process(small, method, kernel, monkeypatch):
    x, y, z = data(200, 1)
    options = {"kernel": kernel, "noise": 1e-2}
    large = nk.gaussian_process(NET, x, y[:, 0], method=method, tolerance=1e-12, **options)
    for return_ in ("return_std", "return_cov"):
        found = large.predict(z, **{return_: True})
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "fits", lambda *_, **__: True)
            process = nk.gaussian_process(NET, x, y[:, 0], **options)
        for a, b in zip(found, process.predict(z, **{return_: True}), strict=True):
            assert np.abs(a - b).max() < 1e-8
    if kernel == "nngp" and method == "cholesky":
        _, matrix, _ = dense(x, z, 1e-2, "nngp")
        sign, log_det = np.linalg.slogdet(matrix)
        wanted = -0.5 * (
            y[:, 0] @ np.linalg.solve(matrix, y[:, 0]) + log_det + 200 * np.log(2 * np.pi)
        )
        assert sign == 1 and large.log_marginal_likelihood == pytest.approx(wanted, rel=1e-10)
        with pytest.raises(ValueError, match="gradients take the inverse of a matrix of 200 rows"):
            large.gradient()
    elif kernel == "nngp":
        with pytest.raises(ValueError, match="marginal likelihood, cannot be found by nystrom_pcg"):
            large.log_marginal_likelihood  # noqa: B018


@pytest.mark.parametrize(
    "form", marked(pytest.mark.slow, ["file", "path", "array", "Gram", "layers"])
)
@pytest.mark.parametrize("method", marked(pytest.mark.slow, METHODS[:2]))
def test_a_matrix_that_is_given(small, tmp_path, form, method):
    x, y, z = data()
    path = tmp_path / "g.h5"
    layers = "all" if form in ("path", "layers") else "last"
    with nk.write_gram(NET, x, path, layout="lower", layers=layers) as file:
        kernel = nk.gram(NET, x, kernels="ntk", layers=layers)
        forms = {"file": file, "path": path, "array": kernel.ntk, "Gram": kernel, "layers": kernel}
        gram = forms[form]
        options = {"gram": gram, "method": method, "tolerance": 1e-11}
        model = nk.kernel_ridge(NET, x, y, ridge=1e-3, **options)
        cross, matrix, _ = dense(x, z, 1e-3)
        assert np.abs(model.predict(z) - cross @ np.linalg.solve(matrix, y)).max() < 1e-9
        if form in ("file", "array"):
            with pytest.raises(ValueError, match="gram is not that of"):
                nk.kernel_ridge(NET, x + 1, y, gram=gram, method=method)


@pytest.mark.slow
def test_iterations_may_be_wanted_of_a_matrix_that_fits():
    x, y, z = data()
    model = nk.kernel_ridge(NET, x, y, ridge=1e-3, method="nystrom_pcg", tolerance=1e-9)
    cross, matrix, _ = dense(x, z, 1e-3)
    assert model.method == "nystrom_pcg" and 1e-14 < model.residual < 1e-9
    assert np.abs(model.predict(z) - cross @ np.linalg.solve(matrix, y)).max() < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_models_are_saved_and_loaded(small, tmp_path, method):
    x, y, z = data()
    model = nk.gaussian_process(NET, x, y, noise=1e-3, method=method, tolerance=1e-11)
    mean, std = model.predict(z, return_std=True)
    model.save(tmp_path / "model.h5")
    loaded = nk.load_model(tmp_path / "model.h5")
    for again in (loaded, pickle.loads(pickle.dumps(model))):
        assert again.method == method and again.tolerance == model.tolerance
        found = again.predict(z, return_std=True)
        np.testing.assert_array_equal(found[0], mean)
        assert np.abs(found[1] - std).max() < 1e-8


def test_scratch_stays_and_is_used_again(small, tmp_path, monkeypatch):
    x, y, z = data()
    place = tmp_path / "factor"
    options = {"noise": 1e-3, "method": "cholesky", "scratch": place}
    first = nk.gaussian_process(NET, x, y, **options)
    before = place.read_bytes(), place.stat().st_ino
    second = nk.gaussian_process(NET, x, y, **options | {"method": "auto"})
    assert second.method == "cholesky"
    np.testing.assert_array_equal(first.dual_coef, second.dual_coef)
    first.save(tmp_path / "model.h5")
    loaded = nk.load_model(tmp_path / "model.h5")
    found = loaded.predict(z, return_std=True, scratch=place)
    for a, b in zip(found, first.predict(z, return_std=True), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (place.read_bytes(), place.stat().st_ino) == before
    with pytest.raises(ValueError, match="factor"):
        nk.gaussian_process(NET, x, y, **options | {"noise": 1e-2})
    nk.gaussian_process(NET, x, y, **options | {"overwrite": True})  # it is not of another fit
    assert (place.read_bytes(), place.stat().st_ino) == before
    nk.gaussian_process(NET, x, y, **options | {"noise": 1e-2, "overwrite": True})
    assert place.read_bytes() != before[0]
    model = nk.gaussian_process(NET, x, y, **options | {"method": "nystrom_pcg", "overwrite": True})
    assert model.method == "nystrom_pcg"
    assert list(small.iterdir()) == []


def test_targets_that_are_zero_have_a_factor(small):
    x, y, _ = data(60)
    model = nk.kernel_ridge(NET, x, 0 * y, ridge=1e-3, method="cholesky")
    assert not model.dual_coef.any() and not model.leave_one_out().mean.any()


@pytest.mark.slow
def test_a_prediction_has_its_own_memory(small, monkeypatch):
    x, y, z = data(60)
    model = nk.gaussian_process(NET, x, y, method="nystrom_pcg", tolerance=1e-9)
    _, wanted = model.predict(z, return_std=True)
    # 34 MB are enough for four columns at a time
    monkeypatch.setattr(nystrom_pcg, "vector_bytes", lambda size, pairs, threads: pairs << 23)
    _, found = model.predict(z, return_std=True, memory="68MB")
    assert np.abs(found - wanted).max() < 1e-7
    with pytest.raises(ValueError, match="16 MiB"):
        model.predict(z, return_std=True, memory="32MiB")


def test_a_ridge_cannot_be_chosen(small):
    x, y, _ = data(60)
    with pytest.raises(ValueError, match="'loo' takes the eigenvalues of the matrix, which"):
        nk.kernel_ridge(NET, x, y, ridge="loo", method="block_krylov")
    text = r"60 samples take .* noise='evidence' takes an eigendecomposition in memory: give a num"
    with pytest.raises(ValueError, match=text):
        nk.gaussian_process(NET, x, y, noise="evidence", memory="1KiB")


def test_equal_samples_are_named(small):
    x, y, _ = data(80)
    x[30] = x[7]
    text = "the kernel matrix of X is not .* Samples 7 and 30 are equal, and their"
    with pytest.raises(nk.NotPositiveDefiniteError, match=text):
        nk.kernel_ridge(NET, x, y, ridge=0, method="cholesky")
    assert list(small.iterdir()) == []


@pytest.mark.slow
def test_the_memory_decides(tmp_path):
    """Digits, and some of them noisy: a matrix of 39 MB, in memory and in less of it."""
    found = np.load(Path(__file__).parents[2] / "data/digits.npz")
    noise = np.random.default_rng(0).standard_normal((403, 64))
    x = np.vstack([found["x"].astype(float), found["x"][:403] + noise])
    y, _ = nk.one_hot(np.append(found["y"], found["y"][:403]))
    options = {"ridge": 1e-3, "threads": 1, "scratch": tmp_path / "factor"}
    wanted = nk.kernel_ridge(NET, x, y, memory="39MB", **options)
    assert not (tmp_path / "factor").exists()
    model = nk.kernel_ridge(NET, x, y, memory="38.7MB", method="cholesky", **options)
    assert (tmp_path / "factor").exists()
    assert np.abs(model.dual_coef - wanted.dual_coef).max() < 1e-10 * np.abs(wanted.dual_coef).max()
