"""Kernel ridge regression against dense algebra in plain NumPy, and its errors."""

import pickle

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.errors import NtkNumbaError
from ntk_numba.predict import training

RNG = np.random.default_rng(11)
NET = nk.MLP(3, "relu", 1.4, 0.1)
X, Z = RNG.standard_normal((30, 4)), RNG.standard_normal((7, 4))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]])


def dense(kernel="ntk", net=NET, x=X, z=Z):
    """Return the kernel of X, that between Z and X, and the mean of the diagonal."""
    k = getattr(nk.gram(net, x), kernel)
    return k, getattr(nk.gram(net, z, x), kernel), np.trace(k) / len(k)


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("ridge", [1e-3, 1e-9, 0])
def test_predictions(kernel, ridge):
    k, cross, mean = dense(kernel)
    model = nk.kernel_ridge(NET, X, Y, kernel=kernel, ridge=ridge)
    a = k + ridge * mean * np.eye(30)
    coef = np.linalg.solve(a, Y)
    assert model.predict(Z) == pytest.approx(cross @ coef, rel=1e-10, abs=1e-10)
    assert model.dual_coef == pytest.approx(coef, rel=1e-9, abs=1e-9)
    assert model.ridge == pytest.approx(ridge * mean) and model.relative_ridge == ridge
    off = np.linalg.norm(Y - a @ model.dual_coef, axis=0) / np.linalg.norm(Y, axis=0)
    assert off.max() < 1e-12 and model.residual < 1e-12
    one = nk.kernel_ridge(NET, X, Y[:, 0], kernel=kernel, ridge=ridge)
    assert one.predict(Z).shape == (7,) and one.dual_coef.shape == (30, 1)
    assert one.predict(Z) == pytest.approx(model.predict(Z)[:, 0], rel=1e-9, abs=1e-9)


def test_an_absolute_ridge():
    k, cross, mean = dense()
    model = nk.kernel_ridge(NET, X, Y, ridge=0.5, absolute=True)
    assert model.ridge == 0.5 and model.relative_ridge == pytest.approx(0.5 / mean)
    wanted = cross @ np.linalg.solve(k + 0.5 * np.eye(30), Y)
    assert model.predict(Z) == pytest.approx(wanted, rel=1e-11, abs=1e-11)


def test_leave_one_out():
    model = nk.kernel_ridge(NET, X, Y, ridge=1e-4)
    found = model.leave_one_out()
    for i in range(0, 30, 7):
        keep = np.arange(30) != i
        without = nk.kernel_ridge(NET, X[keep], Y[keep], ridge=model.ridge, absolute=True)
        wanted = without.predict(X[i : i + 1])[0]
        assert found.mean[i] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        assert found.residual[i] == pytest.approx(Y[i] - wanted, rel=1e-9, abs=1e-9)
    flat = nk.kernel_ridge(NET, X, Y[:, 0], ridge=1e-4).leave_one_out()
    assert flat.mean == pytest.approx(found.mean[:, 0]) and flat.log_density.shape == (30,)


@pytest.mark.parametrize("objective", ["loo", "evidence"])
def test_a_ridge_from_the_targets(objective):
    noisy = 2 * X[:, :2] + 1.5 * np.random.default_rng(1).standard_normal(Y.shape)
    model = nk.kernel_ridge(NET, X, noisy, ridge=objective)
    assert model.choice.objective == objective and model.choice.ridge == model.ridge

    def value(factor):
        ridge = model.ridge * factor
        if objective == "loo":
            other = nk.kernel_ridge(NET, X, noisy, ridge=ridge, absolute=True)
            return -np.mean(other.leave_one_out().residual ** 2)
        process = nk.gaussian_process(NET, X, noisy, kernel="ntk", noise=ridge, absolute=True)
        return process.log_marginal_likelihood

    best = value(1)
    assert abs(best) == pytest.approx(abs(model.choice.value), rel=1e-9)
    assert value(1.05) < best and value(0.95) < best


def test_targets_of_which_nothing_is_explained():
    noise = np.linalg.eigh(nk.gram(NET, X).ntk)[1][:, 0]
    with pytest.warns(nk.RidgeWarning, match="ridge='loo': the best of all numbers .* largest"):
        model = nk.kernel_ridge(NET, X, noise, ridge="loo")
    assert model.relative_ridge == pytest.approx(1e4) and model.choice.edge == "largest"


def test_float32():
    model = nk.kernel_ridge(NET, X.astype(np.float32), Y, ridge=1e-4)
    assert model.training.dtype == np.float32 and model.dual_coef.dtype == np.float64
    assert model.residual <= 1e-10
    wanted = nk.kernel_ridge(NET, X, Y, ridge=1e-4)
    assert model.predict(Z) == pytest.approx(wanted.predict(Z), abs=1e-4)
    assert np.array_equal(model.predict(Z), model.predict(Z))
    as_double = nk.kernel_ridge(NET, X.astype(np.float32), Y, ridge=1e-4, dtype="float64")
    assert as_double.factor.dtype == np.float64


def test_one_dimension_and_one_sample():
    x = np.linspace(-2, 2, 15)[:, None]
    model = nk.kernel_ridge(NET, x, np.sin(x), ridge=1e-8)
    assert model.predict([[0.3]]) == pytest.approx(np.sin([[0.3]]), abs=1e-2)
    one = nk.kernel_ridge(NET, X[:1], Y[:1, 0], ridge=0.0)
    assert one.predict(X[:1]) == pytest.approx(Y[:1, 0])
    assert one.leave_one_out().mean == pytest.approx([0.0])


def test_constant_targets():
    assert nk.kernel_ridge(NET, X, np.zeros(30)).predict(Z) == pytest.approx(np.zeros(7))
    same = nk.kernel_ridge(NET, X, np.full(30, 3.0))
    assert same.predict(X) == pytest.approx(np.full(30, 3.0), rel=1e-4)


@pytest.mark.parametrize("activation", marked(pytest.mark.slow, ["relu", "tanh", "elu"]))
def test_a_new_sample_may_be_longer_than_all_others(activation):
    """Series are then fitted to it; the error is that which Gram.error states."""
    net = nk.MLP(3, activation, 1.4, 0.1)
    model = nk.kernel_ridge(net, X, Y)
    far = np.vstack([3 * Z, 20 * X[:1]])
    both = np.vstack([X, far])
    k = nk.gram(net, both).ntk
    coef = np.linalg.solve(k[:30, :30] + model.ridge * np.eye(30), Y)
    assert model.predict(far) == pytest.approx(k[30:, :30] @ coef, rel=1e-6, abs=1e-6)
    assert (model.training.up_to is None) == (activation == "relu")


def test_blocks_of_rows_within_the_memory(monkeypatch):
    model = nk.kernel_ridge(NET, X, Y)
    z = RNG.standard_normal((50, 4))
    wanted = model.predict(z)
    fixed = (16 << 20) + 2 * X.nbytes
    seen = []
    cross = training.NewSamples.cross
    monkeypatch.setattr(
        training.NewSamples, "cross", lambda self, run, *a: seen.append(run) or cross(self, run, *a)
    )
    assert model.predict(z, memory=fixed + 8 * (16 * 30 + 3 * 4 * 8)) == pytest.approx(
        wanted, rel=1e-12, abs=1e-12
    )
    assert [run.stop - run.start for run in seen] == [8] * 6 + [2]
    z[20] *= 1e200
    with pytest.raises(ValueError, match=r"X_new\[16:24\]: row 4 has norm"):
        model.predict(z, memory=fixed + 8 * (16 * 30 + 3 * 4 * 8))
    with pytest.raises(ValueError, match="X_new: row 20 has norm"):
        model.predict(z)
    with pytest.raises(ValueError, match=r"memory=16 MiB is too little: 1 new sample takes 16"):
        model.predict(z, memory="16MiB")


def test_threads_change_nothing_but_rounding():
    one, two = (nk.kernel_ridge(NET, X, Y, threads=t) for t in (1, 2))
    assert one.dual_coef == pytest.approx(two.dual_coef, rel=1e-9)
    assert one.predict(Z, threads=1) == pytest.approx(two.predict(Z, threads=2), rel=1e-10)


def test_standardized_features():
    x = X * [1, 1e3, 1e-3, 0] + [0, 50, 1, 7]
    z = Z * [1, 1e3, 1e-3, 0] + [0, 50, 1, 7]
    model = nk.kernel_ridge(NET, x, Y, preprocess="standardize")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[3] = 1
    by_hand = nk.kernel_ridge(NET, (x - mean) / scale, Y)
    assert model.predict(z) == pytest.approx(by_hand.predict((z - mean) / scale), rel=1e-8)
    with pytest.raises(ValueError, match=r"X_new: row 0, column 1 .* is inf"):
        nk.kernel_ridge(NET, 1e-300 * X, Y, preprocess="standardize").predict([[0, 1e300, 0, 0]])
    assert model.training.preprocess.scale == pytest.approx(scale, rel=1e-12)


def test_the_model_does_not_change_with_the_data():
    x, y = X.copy(), Y.copy()
    model = nk.kernel_ridge(NET, x, y)
    before = model.predict(Z), model.leave_one_out().mean
    x[:], y[:] = 0, 0
    assert np.array_equal(model.predict(Z), before[0])
    assert np.array_equal(model.leave_one_out().mean, before[1])


def test_pickling():
    model = nk.kernel_ridge(NET, X, Y, preprocess="standardize")
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(Z), model.predict(Z))
    assert again.leave_one_out().mean == pytest.approx(model.leave_one_out().mean, rel=1e-9)
    assert len(pickle.dumps(model)) < 30 * 30 * 8 + 3000


def test_a_matrix_that_is_given(tmp_path):
    wanted = nk.kernel_ridge(NET, X, Y)
    k = nk.gram(NET, X)
    copy = k.ntk.copy()
    path = str(tmp_path / "k.h5")
    nk.write_gram(NET, X, path, kernels=("nngp", "ntk")).close()
    np.save(tmp_path / "x.npy", X)
    for gram in (k, k.ntk, path):
        model = nk.kernel_ridge(NET, str(tmp_path / "x.npy"), Y, gram=gram)
        assert model.dual_coef == pytest.approx(wanted.dual_coef, rel=1e-9)
    assert np.array_equal(k.ntk, copy)
    single = nk.gram(NET, X, dtype="float32")
    model = nk.kernel_ridge(NET, X, Y, gram=single)
    assert model.training.dtype == np.float32
    with pytest.raises(ValueError, match="gram holds float32, but dtype='float64'"):
        nk.kernel_ridge(NET, X, Y, gram=single, dtype="float64")
    other = X.copy()
    other[3, 2] += 1e-9
    with pytest.raises(ValueError, match="gram is not that of X: X is not the data"):
        nk.kernel_ridge(NET, other, Y, gram=path)
    with pytest.raises(ValueError, match="gram is of another network"):
        nk.kernel_ridge(nk.MLP(3, "relu", 1.4, 0.2), X, Y, gram=path)
    with pytest.raises(ValueError, match="gram is of 30 samples and X has 7"):
        nk.kernel_ridge(NET, Z, Y[:7], gram=k)
    for bad in (k.nngp, nk.gram(NET, X[::-1]).ntk, k.ntk * 1.001):
        with pytest.raises(ValueError, match=r"gram is not that of net and X: row 0, column 0"):
            nk.kernel_ridge(NET, X, Y, gram=bad)


@pytest.mark.slow
def test_a_matrix_of_a_series_given_by_a_file_fits_the_predictions(tmp_path):
    net = nk.MLP(3, "elu", 1.4, 0.1)
    nk.write_gram(net, X, tmp_path / "k.h5", up_to=50.0).close()
    model = nk.kernel_ridge(net, X, Y, gram=tmp_path / "k.h5")
    assert model.training.up_to == 50.0


def test_equal_samples():
    x = np.vstack([X, X[4:5]])
    same, differ = np.vstack([Y, Y[4:5]]), np.vstack([Y, Y[4:5] + 1])
    for y, text in ((same, "and their targets are equal"), (differ, "and their targets differ")):
        with pytest.raises(
            nk.NotPositiveDefiniteError, match=rf"Samples 4 and 30 are equal, {text}: give a"
        ) as caught:
            nk.kernel_ridge(NET, x, y, ridge=0)
        nk.kernel_ridge(NET, x, y, ridge=caught.value.least_ridge, absolute=True)
    with pytest.raises(nk.NotPositiveDefiniteError, match="Samples 0 and 1 differ less than this"):
        nk.kernel_ridge(nk.MLP(2, "relu", 0.0, 0.0), X, Y)
    mean = nk.kernel_ridge(NET, x, differ, ridge=1e-10).predict(X[4:5])
    assert mean[0] == pytest.approx(Y[4] + 0.5, abs=1e-5)


def test_progress(capsys):
    nk.kernel_ridge(NET, X, Y, progress=True)
    assert "Cholesky" in capsys.readouterr().err
    nk.kernel_ridge(NET, X, Y)
    assert capsys.readouterr() == ("", "")


def nan_at(array, place):
    array = np.array(array)
    array[place] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"y": Y[:29]}, "y has 29 rows and X has 30"),
        ({"y": nan_at(Y, (5, 1))}, r"y: row 5, column 1 \(counted from 0\) is nan"),
        ({"y": nan_at(Y[:, 0], 3)}, r"y: row 3 \(counted from 0\) is nan"),
        ({"y": np.ones((30, 0))}, "y has no columns"),
        ({"y": np.ones((30, 1, 1))}, r"y must be of shape \(N,\) or \(N, n_out\)"),
        ({"y": 3.0}, r"y must be of shape"),
        ({"y": Y + 1j}, "complex"),
        ({"y": np.array(["a"] * 30)}, "y holds <U1"),
        ({"y": None}, "y is None"),
        ({"X": nan_at(X, (2, 1))}, "X: row 2, column 1 .* is nan"),
        ({"X": X[:0]}, "X is empty"),
        ({"ridge": -1e-3}, "ridge must be finite and not negative"),
        ({"ridge": np.nan}, "ridge must be finite"),
        ({"ridge": "gcv"}, "ridge must be a number, 'loo' or 'evidence', not 'gcv'"),
        ({"ridge": "loo", "absolute": True}, "absolute=True needs a number as ridge"),
        ({"ridge": None}, "ridge must be a number"),
        ({"kernel": "rbf"}, "kernel must be 'ntk' or 'nngp', not 'rbf'"),
        ({"kernel": 3}, "kernel must be 'ntk' or 'nngp', not 3"),
        ({"ridge": 1e308}, "ridge=1e\\+308 is too large"),
        ({"kernel": ("nngp", "ntk")}, "kernel must be 'ntk' or 'nngp'"),
        ({"method": "cg"}, "method must be 'auto', 'cholesky', 'block_krylov' or 'nystrom_p"),
        ({"tolerance": 0}, "tolerance must be"),
        ({"kernel": np.array(["ntk"])}, "kernel must be 'ntk' or 'nngp'"),
        ({"preprocess": np.array(["a", "b"])}, "preprocess must be None or 'standardize'"),
        ({"y": np.full(30, 1.7e308), "ridge": 0}, "scale the targets down"),
        ({"preprocess": "whiten"}, "preprocess must be None or 'standardize'"),
        ({"memory": "1kB"}, "memory=500 B is too little: this job takes at least"),
        ({"dtype": int}, "dtype must be float64 or float32"),
        ({"net": "relu"}, "net"),
    ],
)  # fmt: skip
def test_bad_arguments(change, text):
    job = {"net": NET, "X": X, "y": Y} | change
    with pytest.raises(NtkNumbaError, match=text):
        nk.kernel_ridge(job.pop("net"), job.pop("X"), job.pop("y"), **job)


@pytest.mark.parametrize(
    ("z", "text"),
    [
        (Z[:, :3], "X_new has 3 features, and the model was trained with 4"),
        (nan_at(Z, (6, 0)), "X_new: row 6, column 0 .* is nan"),
        (Z[0], "X_new must have two dimensions"),
        (Z[:0], "X_new is empty"),
        ("missing.npy", "missing.npy"),
    ],
)
def test_bad_new_samples(z, text):
    with pytest.raises(NtkNumbaError, match=text):
        nk.kernel_ridge(NET, X, Y).predict(z)


def test_a_short_description():
    text = repr(nk.kernel_ridge(NET, X, Y, ridge=0.5))
    assert "ntk of depth 3" in text and "30 samples, 2 outputs" in text and "0.5 of the" in text


def test_equal_samples_need_a_larger_ridge_in_float32():
    x = np.array([[0.0, 1.0], [1.0, 0.5], [0.0, 1.0]], np.float32)
    with pytest.raises(
        nk.errors.NotPositiveDefiniteError, match=r"0 and 2 .*: give a larger ridge"
    ):
        nk.kernel_ridge(nk.MLP(3), x, [1.0, 2.0, 3.0], ridge=1e-9)
