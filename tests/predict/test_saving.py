"""A model that was saved is the model that was fitted."""

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.predict.loading import as_process
from ntk_numba.predict.training import Training

X = np.random.default_rng(0).standard_normal((30, 3))
Y = np.column_stack([X[:, 0], X[:, 1] * X[:, 2]])
NEW = np.random.default_rng(1).standard_normal((7, 3)) * 2
NET = nk.MLP(3, ["relu", "erf"], w_std=1.2, b_std=0.1)


def saved(model, tmp_path, **options):
    path = tmp_path / "m.h5"
    model.save(path, overwrite=True, **options)
    return nk.load_model(path)


MODELS = {
    "ridge": lambda: nk.kernel_ridge(NET, X, Y[:, 0], ridge=1e-3),
    "chosen": lambda: nk.kernel_ridge(NET, X, Y, ridge="loo", kernel="nngp"),
    "float32": lambda: nk.kernel_ridge(NET, X.astype(np.float32), Y, ridge=1e-3),
    "standardized": lambda: nk.kernel_ridge(NET, X, Y, preprocess="standardize"),
    "series": lambda: nk.kernel_ridge(NET.replace(activation="tanh"), X, Y, up_to=100),
    "process": lambda: nk.gaussian_process(NET, X, Y, noise=1e-2),
    "ntk": lambda: nk.gaussian_process(NET, X, Y[:, 1], kernel="ntk", noise=1e-2),
    "ensemble": lambda: nk.gaussian_process(NET, X, Y, kernel="ensemble", noise=1e-3),
    "until": lambda: nk.gaussian_process(NET, X, Y, kernel="ensemble", noise=0, time=50.0),
}


@pytest.mark.parametrize(
    "name", marked(pytest.mark.slow, MODELS, ["ridge", "chosen", "process", "ensemble"])
)
def test_the_same_predictions(tmp_path, name):
    model = MODELS[name]()
    loaded = saved(model, tmp_path)
    assert type(loaded) is type(model) and loaded.net == model.net
    assert (loaded.predict(NEW) == model.predict(NEW)).all()
    for field in ("kernel", "flat", "ridge", "relative_ridge", "residual", "choice"):
        values = getattr(loaded, field), getattr(model, field)
        assert values[0] == values[1] or (field == "residual" and np.isnan(values).all())
    assert loaded.training.dtype == model.training.dtype
    assert loaded.training.up_to == model.training.up_to
    assert (loaded.targets == model.targets).all() and (loaded.dual_coef == model.dual_coef).all()
    if loaded.kernel != "ensemble":
        for a, b in zip(loaded.leave_one_out(), model.leave_one_out(), strict=True):
            assert (a == b).all()
    if isinstance(model, nk.GaussianProcess):
        assert loaded.time == model.time
        for a, b in zip(
            loaded.predict(NEW, return_std=True), model.predict(NEW, return_std=True), strict=True
        ):
            assert (a == b).all()


@pytest.mark.parametrize("kernel", ["nngp", "ensemble"])
def test_the_factor_is_computed_again_within_the_memory(tmp_path, kernel, monkeypatch):
    model = nk.gaussian_process(NET, np.tile(X, (10, 1)), np.tile(Y, (10, 1)), kernel=kernel)
    loaded = saved(model, tmp_path)
    monkeypatch.setattr(Training, "matrices", None)  # nothing is computed
    with pytest.raises(ValueError, match="memory=250 KiB is too little"):
        loaded.predict(NEW, return_std=True, memory="500KiB")


def test_the_process_of_a_regression(tmp_path):
    model = nk.kernel_ridge(NET, X, Y, kernel="nngp", ridge=1e-3)
    mean, std = as_process(saved(model, tmp_path)).predict(NEW, return_std=True)
    right = nk.gaussian_process(NET, X, Y, noise=1e-3).predict(NEW, return_std=True)
    assert np.allclose(mean, right[0], rtol=1e-12) and np.allclose(std, right[1], rtol=1e-10)
    process = nk.gaussian_process(NET, X, Y)
    assert as_process(process) is process


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "ä,\n"],
        [3, 1, 2],
        [2.5, 1.0, 3.0],
        [True, False, True],
        np.array([0, 1, 2**64 - 1], np.uint64),
        np.longdouble([1.5, 2, 3]),
        np.array(["b", "a", "c"], object),
    ],
)
def test_classes(tmp_path, labels):
    targets, classes = nk.one_hot(np.tile(labels, 10))
    model = nk.kernel_ridge(NET, X, targets)
    model.classes, model.target_names = classes, ["kind"]
    loaded = saved(model, tmp_path)
    assert (loaded.classes == classes).all() and (
        loaded.classes.dtype.kind == classes.dtype.kind.replace("O", "U")
    )
    assert loaded.target_names == ["kind"]
    model.classes = classes[:1]
    with pytest.raises(ValueError, match="one for each output"):
        model.save(tmp_path / "other.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]


def test_names_of_targets(tmp_path):
    model = MODELS["process"]()
    model.target_names = np.array(["a", "b"])
    assert saved(model, tmp_path).target_names == ["a", "b"]
    model.target_names = ["a"]
    with pytest.raises(ValueError, match="target_names must have 2 of them, not 1"):
        model.save(tmp_path / "other.h5")


def test_samples_in_another_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", a=X, b=NEW)
    model = nk.kernel_ridge(NET, "x.npz:a", Y, preprocess="standardize")
    with pytest.raises(ValueError, match=r"does not have the samples .*; row 0"):
        model.save("m.h5", reference="x.npz:b")
    loaded = saved(model, tmp_path, reference="x.npz:a")
    assert (loaded.predict(NEW) == model.predict(NEW)).all()
    assert loaded.reference == f"{tmp_path / 'x.npz'}:a" and model.reference is None
    with monkeypatch.context() as patch:
        patch.chdir("/")
        assert (nk.load_model(tmp_path / "m.h5").training.samples == model.training.samples).all()
    np.savez("x.npz", a=X + 1e-15, b=NEW)
    with pytest.raises(ValueError, match=r"samples are in .*x.npz:a, which has other contents now"):
        nk.load_model("m.h5")
    (tmp_path / "x.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"x.npz.* does not exist"):
        nk.load_model("m.h5")


def test_an_existing_file_is_kept(tmp_path):
    model = MODELS["ridge"]()
    model.save(tmp_path / "m.h5")
    before = (tmp_path / "m.h5").read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        MODELS["ntk"]().save(tmp_path / "m.h5")
    model.save(tmp_path / "again.h5")
    assert (tmp_path / "m.h5").read_bytes() == before == (tmp_path / "again.h5").read_bytes()
