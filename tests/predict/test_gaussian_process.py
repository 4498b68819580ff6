"""Gaussian processes against dense algebra in plain NumPy."""

import pickle

import numpy as np
import pytest
import scipy.linalg
from marks import marked

import ntk_numba as nk
from ntk_numba.errors import NtkNumbaError

RNG = np.random.default_rng(12)
NET = nk.MLP(3, "relu", 1.4, 0.1)
X, Z = RNG.standard_normal((25, 4)), RNG.standard_normal((6, 4))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]])
BOTH = nk.gram(NET, np.vstack([X, Z]))


def parts(kernel):
    k = getattr(BOTH, kernel)
    return k[:25, :25], k[25:, :25], k[25:, 25:]


def process(kernel="nngp", noise=1e-3, **options):
    return nk.gaussian_process(NET, X, Y, kernel=kernel, noise=noise, **options)


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-10), ("float32", 1e-5)])
def test_the_posterior(kernel, dtype, error):
    k, cross, new = parts(kernel)
    g = process(kernel, dtype=dtype)
    noise = 1e-3 * np.trace(k) / 25
    a = k + noise * np.eye(25)
    cov = new - cross @ np.linalg.solve(a, cross.T)
    mean = cross @ np.linalg.solve(a, Y)
    found, std = g.predict(Z, return_std=True)
    close = {"rel": error, "abs": error}
    assert found == pytest.approx(mean, **close) and g.predict(Z) == pytest.approx(mean, **close)
    assert std == pytest.approx(np.sqrt(np.diag(cov)), **close)
    found, covariance = g.predict(Z, return_cov=True)
    assert covariance == pytest.approx(cov, **close) and np.array_equal(covariance, covariance.T)
    _, log_det = np.linalg.slogdet(a)
    evidence = -0.5 * np.einsum("ij,ij->", Y, np.linalg.solve(a, Y)) - log_det
    evidence -= 25 * np.log(2 * np.pi)
    assert g.log_marginal_likelihood == pytest.approx(evidence, **close)
    assert g.ridge == pytest.approx(noise, rel=1e-6) and g.relative_ridge == pytest.approx(1e-3)


def test_one_output_and_leave_one_out():
    g = nk.gaussian_process(NET, X, Y[:, 0], noise=0.1, absolute=True)
    mean, std = g.predict(Z, return_std=True)
    assert mean.shape == std.shape == (6,)
    left_out = g.leave_one_out()
    keep = np.arange(25) != 8
    without = nk.gaussian_process(NET, X[keep], Y[keep, 0], noise=0.1, absolute=True)
    mean, std = without.predict(X[8:9], return_std=True)
    assert left_out.mean[8] == pytest.approx(mean[0], rel=1e-10)
    assert left_out.variance[8] == pytest.approx(std[0] ** 2 + 0.1, rel=1e-10)
    variance = left_out.variance[8]
    density = -0.5 * np.log(2 * np.pi * variance) - (Y[8, 0] - mean[0]) ** 2 / (2 * variance)
    assert left_out.log_density[8] == pytest.approx(density, rel=1e-10)


@pytest.mark.parametrize("time", [np.inf, 0.0, 3.0])
@pytest.mark.parametrize("noise", [0, 1e-2])
def test_trained_networks(time, noise):
    """T8, with Θ⁻¹(I − exp(−Θt/N)) from SciPy's exponential of a matrix."""
    theta, theta_z, _ = parts("ntk")
    sigma, sigma_z, sigma_zz = parts("nngp")
    g = process("ensemble", noise, time=time)
    a = theta + noise * np.trace(theta) / 25 * np.eye(25)
    left = 0 if time == np.inf else scipy.linalg.expm(-a * time / 25)
    weights = theta_z @ np.linalg.solve(a, np.eye(25) - left)
    cov = sigma_zz - weights @ sigma_z.T - sigma_z @ weights.T + weights @ sigma @ weights.T
    mean, std = g.predict(Z, return_std=True)
    assert mean == pytest.approx(weights @ Y, rel=1e-9, abs=1e-10)
    assert std == pytest.approx(np.sqrt(np.diag(cov)), rel=1e-9, abs=1e-10)
    assert g.predict(Z, return_cov=True)[1] == pytest.approx(cov, rel=1e-9, abs=1e-10)
    assert np.isnan(g.residual) == (time < np.inf)
    flow = nk.flow_distribution(
        ntk=theta, ntk_test=theta_z, nngp=sigma, nngp_test=sigma_z, nngp_test_test=sigma_zz, y=Y,
        time=time, ridge=noise,
    )  # fmt: skip
    assert flow[0] == pytest.approx(mean, rel=1e-8, abs=1e-9)
    assert flow[1] == pytest.approx(cov, rel=1e-8, abs=1e-9)


def test_the_ensemble_takes_both_kernels():
    g = process("ensemble", gram=nk.gram(NET, X))
    assert g.predict(Z) == pytest.approx(process("ensemble").predict(Z), rel=1e-10)
    with pytest.raises(ValueError, match=r"25 samples needs at least .* of memory"):
        process("ensemble", gram=nk.gram(NET, X), memory=9999)
    with pytest.raises(ValueError, match="gram has no nngp, only ntk"):
        process("ensemble", gram=nk.gram(NET, X, kernels="ntk"))
    chosen = process("ensemble", "loo")
    ridge = nk.kernel_ridge(NET, X, Y, ridge="loo")
    assert chosen.ridge == pytest.approx(ridge.ridge) and chosen.choice.objective == "loo"


@pytest.mark.parametrize("kernel", marked(pytest.mark.slow, ["ensemble", "nngp"]))
def test_draws_have_the_mean_and_covariance(kernel):
    g = process(kernel, 1e-2)
    mean, cov = g.predict(Z, return_cov=True)
    draws = g.sample(Z, 20_000, seed=3)
    assert draws.shape == (20_000, 6, 2)
    allowed = 5 * np.sqrt(np.diag(cov).max() / 20_000)
    assert draws.mean(axis=0) == pytest.approx(mean, abs=allowed)
    assert np.cov(draws[..., 1].T) == pytest.approx(cov, abs=0.05 * np.diag(cov).max())
    between = np.mean((draws[..., 0] - mean[:, 0]) * (draws[..., 1] - mean[:, 1]), axis=0)
    assert between == pytest.approx(0, abs=0.05 * np.diag(cov).max())
    assert np.array_equal(g.sample(Z, 2, seed=5), g.sample(Z, 2, seed=5))
    prior = g.sample(Z, 20_000, prior=True)[..., 0]
    assert prior.mean(axis=0) == pytest.approx(0, abs=0.1)
    sigma = parts("nngp")[2]
    assert np.cov(prior.T) == pytest.approx(sigma, abs=0.05 * np.diag(sigma).max())


def test_at_training_samples_without_noise_nothing_is_left():
    g = process(noise=0)
    mean, std = g.predict(X[:3], return_std=True)
    assert mean == pytest.approx(Y[:3], abs=1e-8) and std == pytest.approx(0, abs=1e-6)
    assert not np.isnan(std).any()
    one = nk.gaussian_process(NET, X[:1], Y[:1], noise=0)
    assert one.predict(Z[:1]).shape == (1, 2)
    assert g.sample(X[:3], 4).shape == (4, 3, 2)


@pytest.mark.parametrize("kernel", ["ntk", "ensemble"])
def test_pickling(kernel):
    g = process(kernel)
    again = pickle.loads(pickle.dumps(g))
    for a, b in zip(again.predict(Z, return_std=True), g.predict(Z, return_std=True), strict=True):
        assert a == pytest.approx(b, rel=1e-10)
    if kernel == "ntk":
        assert again.log_marginal_likelihood == pytest.approx(g.log_marginal_likelihood)


def test_blocks_of_rows():
    z = RNG.standard_normal((40, 4))
    for kernel in ("nngp", "ensemble"):
        g = process(kernel)
        mean, std = g.predict(z, return_std=True)
        small = g.predict(z, return_std=True, memory=(16 << 20) + 2 * X.nbytes + 20_000)
        assert small[0] == pytest.approx(mean, rel=1e-11, abs=1e-11)
        assert small[1] == pytest.approx(std, rel=1e-11, abs=1e-11)
    with pytest.raises(ValueError, match=r"is too little: 40 new samples take"):
        g.predict(z, return_cov=True, memory=(16 << 20) + 20_000)


@pytest.mark.parametrize("activation", marked(pytest.mark.slow, ["elu", "tanh"]))
def test_the_variance_at_a_longer_sample(activation):
    net = nk.MLP(3, activation, 1.4, 0.1)
    g = nk.gaussian_process(net, X, Y)
    mean, std = g.predict(np.vstack([5 * Z, X[:1]]), return_std=True)
    assert (std[:-1] > 0.1).all() and std[-1] < 1e-2 and np.isfinite(mean).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kernel": "rbf"}, "kernel must be 'nngp', 'ntk' or 'ensemble'"),
        ({"noise": -1}, "noise must be finite and not negative"),
        ({"noise": "gcv"}, "noise must be a number, 'loo' or 'evidence'"),
        ({"time": 3.0}, "time is of trained networks only"),
        ({"time": -1.0, "kernel": "ensemble"}, "time must be at least 0"),
        ({"noise": "evidence", "kernel": "ensemble"}, "noise='evidence' is of a Gaussian process"),
        ({"y": Y[:3]}, "y has 3 rows"),
    ],
)
def test_bad_arguments(change, text):
    job = {"y": Y} | change
    with pytest.raises(NtkNumbaError, match=text):
        nk.gaussian_process(NET, X, job.pop("y"), **job)


def test_what_an_ensemble_is_not():
    g = process("ensemble")
    for ask in (lambda: g.log_marginal_likelihood, g.leave_one_out, g.gradient):
        with pytest.raises(ValueError, match="not the posterior of one"):
            ask()
    with pytest.raises(ValueError, match="choose one of them"):
        g.predict(Z, return_std=True, return_cov=True)


def test_equal_samples_are_named():
    x, y = np.vstack([X, X[:1]]), np.vstack([Y, Y[:1]])
    for kernel in ("nngp", "ensemble"):
        with pytest.raises(
            nk.NotPositiveDefiniteError, match=r"Samples 0 and 25 .* positive noise"
        ):
            nk.gaussian_process(NET, x, y, kernel=kernel, noise=0)


def test_a_short_description():
    assert "nngp of depth 3" in repr(process()) and "0.001 of the mean" in repr(process())
