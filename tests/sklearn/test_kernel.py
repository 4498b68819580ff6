"""The kernel, the regressor and the classifier for scikit-learn, used by scikit-learn itself."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.decomposition import KernelPCA
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.svm import SVC, SVR
from structure import MODULES

from ntk_numba.sklearn import NTKKernel


def plain_relu(x, depth, w_std, b_std):
    """Return Σ and Θ of ReLU networks in plain NumPy, also for complex w_std and b_std.

    w_std, b_std : one for each layer
    """
    sigma = w_std[0] ** 2 * (x @ x.T) / x.shape[1] + b_std[0] ** 2
    theta = sigma
    for w, b in zip(w_std[1:], b_std[1:], strict=True):
        lengths = np.sqrt(np.diag(sigma))
        scale = np.multiply.outer(lengths, lengths)
        cosine = sigma / scale
        np.fill_diagonal(cosine, 1)
        angle = np.arccos(cosine)
        sine = np.sqrt(1 - cosine**2)
        slopes = (np.pi - angle) / (2 * np.pi)
        sigma = w**2 * scale * (sine + (np.pi - angle) * cosine) / (2 * np.pi) + b**2
        theta = w**2 * slopes * theta + sigma
    return {"nngp": sigma, "ntk": theta}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((12, 4))


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(1).standard_normal((5, 4))


@pytest.mark.parametrize("name", ["nngp", "ntk"])
def test_the_kernel_is_that_of_the_network(x, z, name):
    kernel = NTKKernel(4, w_std=1.3, b_std=0.2, kernel=name)
    both = plain_relu(np.vstack([x, z]), 4, [1.3] * 4, [0.2] * 4)[name]
    np.testing.assert_allclose(kernel(x), both[:12, :12], rtol=1e-10)
    np.testing.assert_allclose(kernel(x, z), both[:12, 12:], rtol=1e-10)
    assert np.array_equal(kernel(x), kernel(x).T)
    assert np.array_equal(kernel(x, x), kernel(x))
    assert np.array_equal(kernel.diag(x), np.diag(kernel(x)))
    assert not kernel.is_stationary() and kernel.requires_vector_input


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        pd.DataFrame,
        scipy.sparse.csr_array,
        lambda a: a.astype(np.float32),
        lambda a: a.astype(int),
    ],
    ids=["list", "DataFrame", "sparse", "float32", "int"],
)
def test_the_kernel_takes_samples_of_any_type_and_returns_float64(x, z, convert):
    kernel = NTKKernel()
    a, b = (np.round(4 * v) for v in (x, z))
    for result, right in [
        (kernel(convert(a), convert(b)), kernel(a, b)),
        (kernel.diag(convert(a)), kernel.diag(a)),
    ]:
        assert result.dtype == np.float64
        assert np.array_equal(result, right)


def test_single_samples_give_one_number(x, z):
    kernel = NTKKernel()
    assert np.ndim(kernel(x[0], z[1])) == 0
    assert kernel(x[0], z[1]) == kernel(list(x[0]), list(z[1])) == kernel(x[:1], z[1:2])[0, 0]
    pairs = pairwise_kernels(x, z, metric=kernel.__call__)  # a function, called for each pair
    np.testing.assert_allclose(pairs, kernel(x, z), rtol=1e-14)
    with pytest.raises(ValueError, match=r"X must have two dimensions"):
        kernel(x[0])


def test_parameters_are_hyperparameters(x):
    kernel = NTKKernel(2, w_std=2.0, b_std=0.5)
    assert [h.name for h in kernel.hyperparameters] == ["b_std", "w_std"]
    np.testing.assert_allclose(kernel.theta, np.log([0.5, 2.0]))
    np.testing.assert_allclose(kernel.bounds, np.log([[1e-3, 10], [1e-2, 100]]))
    other = kernel.clone_with_theta(np.log([0.25, 3]))
    np.testing.assert_allclose([other.b_std, other.w_std], [0.25, 3])
    assert clone(kernel) == kernel != other
    assert NTKKernel(3, ["relu", "erf"]) == NTKKernel(3, ["relu", "erf"]) != NTKKernel(3)
    assert NTKKernel(w_std=[1, 1, 1]) != NTKKernel(w_std=[1, 1])
    assert pickle.loads(pickle.dumps(kernel)) == kernel
    assert kernel.get_params()["activation"] == "relu"
    fixed = NTKKernel(b_std=0.0, b_std_bounds="fixed", w_std_bounds="fixed")
    assert fixed.n_dims == 0 and fixed.theta.shape == (0,)
    layers = NTKKernel(3, ["relu", "erf"], [1, 2, 4], 0.5)
    np.testing.assert_allclose(layers.theta, np.log([0.5, 1, 2, 4]))
    assert layers.clone_with_theta(layers.theta).w_std.tolist() == pytest.approx([1, 2, 4])


def test_kernels_combine(x):
    kernel = NTKKernel(2)
    combined = 2.0 * kernel * RBF(3.0) + kernel**2 + WhiteKernel(0.5)
    right = 2 * kernel(x) * RBF(3.0)(x) + kernel(x) ** 2 + 0.5 * np.eye(len(x))
    np.testing.assert_allclose(combined(x), right, rtol=1e-14)
    np.testing.assert_allclose(combined.diag(x), np.diag(right), rtol=1e-14)
    assert "NTKKernel(depth=2, activation='relu', w_std=1, b_std=0.1, kernel='ntk')" in str(
        combined
    )
    assert str(NTKKernel(2, w_std=[1, 0.12345])).count("w_std=[1, 0.123]") == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"b_std": 0}, r"b_std is 0, and 0 has no logarithm .* give b_std_bounds='fixed'"),
        ({"w_std": [1, 0, 1]}, r"w_std is \[1, 0, 1\], and 0 has no logarithm"),
        ({"w_std": -1}, r"w_std of layer 1 must be finite and not negative"),
        ({"w_std": "wide"}, r"w_std must be a number or one number per layer"),
        ({"depth": 0}, r"depth must be at least 1"),
        ({"activation": "rleu"}, r"rleu"),
        ({"kernel": "nkt"}, r"kernel must be 'nngp' or 'ntk', not 'nkt'"),
        ({"w_std_bounds": "fix"}, r"w_std_bounds must be 'fixed' or a pair .*, not 'fix'"),
        ({"w_std_bounds": {}}, r"w_std_bounds must be 'fixed' or a pair .*, not {}"),
        ({"b_std_bounds": (0, 1)}, r"b_std_bounds must be 'fixed' or a pair"),
        ({"w_std_bounds": [(1, 2), (1, 2)]}, r"w_std_bounds has 2 pairs, and w_std 1 numbers"),
        ({"b_std_bounds": (2, 1)}, r"b_std_bounds must be 'fixed' or a pair"),
    ],
)
def test_wrong_parameters_are_named_when_the_kernel_is_used(x, wrong, text):
    kernel = NTKKernel(**wrong)
    assert "NTKKernel" in repr(kernel)
    with pytest.raises((ValueError, TypeError), match=text):
        GaussianProcessRegressor(kernel).fit(x, x[:, 0])


def test_estimators_take_it_as_a_callable(x, z):
    """They give it all samples at once, and K is that of X with itself where Y is X."""
    kernel = NTKKernel(2, b_std=0, kernel="nngp")
    k, cross = kernel(x), kernel(z, x)
    labels = (x[:, 0] > 0).astype(int)
    for kind in (SVC, SVR):
        model = kind(kernel=kernel).fit(x, labels)
        same = kind(kernel="precomputed").fit(k, labels)
        np.testing.assert_allclose(model.predict(z), same.predict(cross), rtol=1e-10)
    ridge = KernelRidge(kernel=kernel, alpha=1e-3).fit(x, x[:, 1])
    right = cross @ np.linalg.solve(k + 1e-3 * np.eye(len(x)), x[:, 1])
    np.testing.assert_allclose(ridge.predict(z), right, rtol=1e-10)
    parts = KernelPCA(3, kernel=kernel).fit(x).transform(x)
    centred = k - k.mean(0) - k.mean(1)[:, None] + k.mean()
    np.testing.assert_allclose((parts**2).sum(0), np.linalg.eigvalsh(centred)[:-4:-1], rtol=1e-10)
    features = Nystroem(kernel=kernel, n_components=len(x)).fit(x).transform(x)
    np.testing.assert_allclose(features @ features.T, k, rtol=0, atol=1e-10)
    model = SVC(kernel=kernel).fit(scipy.sparse.csr_array(x), labels)
    assert model.score(pd.DataFrame(x), labels) == SVC(kernel=kernel).fit(x, labels).score(
        x, labels
    )
    threaded = pairwise_kernels(x, z, metric=kernel, n_jobs=3)
    np.testing.assert_allclose(threaded, cross.T, rtol=1e-12)


def test_only_this_wing_imports_scikit_learn():
    for module, path in MODULES.items():
        if module.partition(".")[0] != "sklearn":
            assert not re.search(r"^\s*(from|import) sklearn", path.read_text(), re.MULTILINE), path


def test_without_scikit_learn_the_error_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import ntk_numba.sklearn"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModuleNotFoundError: ntk_numba.sklearn needs scikit-learn 1.6 or newer" in run.stderr


def derivatives(x, name, w_std, b_std):
    """Return ∂K/∂log w_std and ∂K/∂log b_std of each layer of a ReLU network, by complex steps."""
    step, depth = 1e-100, len(w_std)
    found = []
    for values in (w_std, b_std):
        for layer in range(depth):
            moved = [np.array(w_std, complex), np.array(b_std, complex)]
            moved[values is b_std][layer] *= 1 + 1j * step
            found.append(plain_relu(x, depth, *moved)[name].imag / step)
    return np.array(found)


@pytest.mark.parametrize("name", ["nngp", "ntk"])
def test_the_gradient_is_exact(x, name):
    w_std, b_std = [1.3, 0.7, 1.1], [0.2, 0.4, 0.1]
    right = derivatives(x, name, w_std, b_std)
    kernel = NTKKernel(3, w_std=w_std, b_std=b_std, kernel=name)
    k, gradient = kernel(x, eval_gradient=True)
    assert np.array_equal(k, kernel(x))
    assert gradient.shape == (12, 12, 6) == (*k.shape, kernel.n_dims)
    np.testing.assert_allclose(gradient, np.moveaxis(right[[3, 4, 5, 0, 1, 2]], 0, 2), rtol=1e-10)
    shared = NTKKernel(3, w_std=1.3, b_std=0.4, kernel=name)
    right = derivatives(x, name, [1.3] * 3, [0.4] * 3)
    sums = np.stack([right[3:].sum(0), right[:3].sum(0)], axis=2)
    np.testing.assert_allclose(shared(x, eval_gradient=True)[1], sums, rtol=1e-10)
    for fixed, column in ("w_std", 0), ("b_std", 1):
        one = clone(shared).set_params(**{f"{fixed}_bounds": "fixed"})
        np.testing.assert_allclose(one(x, eval_gradient=True)[1][..., 0], sums[..., column])
    both = shared.set_params(w_std_bounds="fixed", b_std_bounds="fixed")
    assert both(x, eval_gradient=True)[1].shape == (12, 12, 0)
    with pytest.raises(ValueError, match="eval_gradient: the gradient is that of X with itself"):
        shared(x, x, eval_gradient=True)


def test_gaussian_processes_optimise_it(x):
    """The hyperparameters of the largest likelihood, and its gradient there, which is 0."""
    y = np.sin(2 * x[:, 0]) + 0.1 * x[:, 1]
    kernel = ConstantKernel(1.0) * NTKKernel(2, kernel="nngp", w_std_bounds="fixed")
    process = GaussianProcessRegressor(kernel, alpha=1e-2).fit(x, y)
    value, gradient = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)
    assert value > process.log_marginal_likelihood(kernel.theta) + 0.1
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    k = process.kernel_(x) + 1e-2 * np.eye(len(x))
    likelihood = -0.5 * (
        y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + len(x) * np.log(2 * np.pi)
    )
    np.testing.assert_allclose(value, likelihood, rtol=1e-10)
    mean, std = process.predict(x, return_std=True)
    assert np.all(std < 0.2) and np.abs(mean - y).max() < 0.2


@pytest.mark.cluster
def test_gaussian_processes_classify_with_it(x):
    """In two processes, one class against the others in each."""
    labels = np.digitize(x[:, 0], [-0.3, 0.3])
    kernel = NTKKernel(2, b_std_bounds="fixed", w_std_bounds=(0.1, 1e3))
    alone, process = (
        GaussianProcessClassifier(kernel, n_jobs=jobs).fit(x, labels) for jobs in (1, 2)
    )  # fmt: skip
    chances = process.predict_proba(x)
    np.testing.assert_allclose(chances, alone.predict_proba(x), rtol=1e-6)
    assert chances.shape == (12, 3) and process.score(x, labels) > 0.7
