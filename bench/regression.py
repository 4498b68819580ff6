"""Regression on real data: root mean square error, coverage and log loss.

Kernel regression and Gaussian processes of networks against scikit-learn's with an RBF kernel, on
random splits of small data sets. Hyperparameters are chosen by each method from its training
samples: by the evidence (the log marginal likelihood), by leave-one-out, or by cross-validation.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import ntk_numba as nk
from bench import peers
from bench.datasets import TARGETS, Samples
from bench.protocol import Split, in_processes, split
from bench.report import section, table

SPLITS, TEST = 10, 0.2
DEPTH = 3
NET = nk.MLP(DEPTH, b_std=0.1)
LEVEL = 0.95


class Prediction(NamedTuple):
    """Predictions of targets: their mean, and the standard deviation of targets if known."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64] | None = None


Method = Callable[[Split], Prediction]


def ridge(rule: str) -> Method:
    """Return ridge regression on Θ whose ridge is chosen by a rule."""
    return lambda s: Prediction(nk.kernel_ridge(NET, s.x, s.y, ridge=rule).predict(s.x_test))


def process(kernel: str, objective: str) -> Method:
    """Return a Gaussian process whose σ_w, β and noise are chosen by an objective."""

    def predict(s: Split) -> Prediction:
        best = nk.fit_hyperparameters(NET, s.x, s.y, objective=objective, kernel=kernel)
        model = nk.gaussian_process(best.net, s.x, s.y, kernel=kernel, noise=best.noise)
        mean, std = model.predict(s.x_test, return_std=True)
        return Prediction(mean, np.sqrt(std**2 + model.ridge))

    return predict


def rbf_ridge(s: Split) -> Prediction:
    """Predict by scikit-learn's KernelRidge, its ridge and width chosen by five folds."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV, KFold

    grid = {"alpha": np.logspace(-6, 1, 8), "gamma": np.logspace(-3, 1, 9) / s.x.shape[1]}
    search = GridSearchCV(
        KernelRidge(kernel="rbf"),
        grid,
        scoring="neg_mean_squared_error",
        cv=KFold(5, shuffle=True, random_state=0),
    )
    return Prediction(search.fit(s.x, s.y).predict(s.x_test))


def rbf_process(s: Split) -> Prediction:
    """Predict by scikit-learn's GaussianProcessRegressor, its scale, width and noise fitted."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    width = RBF(s.x.shape[1] ** 0.5, (1e-2, 1e4))
    kernel = ConstantKernel(1, (1e-4, 1e6)) * width + WhiteKernel(0.1, (1e-8, 1e2))
    model = GaussianProcessRegressor(kernel, alpha=0, n_restarts_optimizer=2, random_state=0)
    return Prediction(*model.fit(s.x, s.y).predict(s.x_test, return_std=True))


METHODS: dict[str, Method] = {
    "Θ, ridge by leave-one-out": ridge("loo"),
    "Θ, ridge by evidence": ridge("evidence"),
    "Θ, process by evidence": process("ntk", "evidence"),
    "Σ, process by evidence": process("nngp", "evidence"),
    "Σ, process by leave-one-out": process("nngp", "loo"),
    "RBF, ridge by five folds": rbf_ridge,
    "RBF, process by evidence": rbf_process,
}


def standardised(samples: Samples, seed: int) -> tuple[Split, float]:
    """Return a random split with standardised targets, and what these were divided by."""
    count = len(samples.y)
    order = np.random.default_rng(seed).permutation(count)
    test, train = np.split(order, [round(TEST * count)])
    s = split(samples, train, test)
    mean, std = s.y.mean(), s.y.std()
    return s._replace(y=(s.y - mean) / std, y_test=(s.y_test - mean) / std), float(std)


def scores(p: Prediction, y: NDArray[np.float64], scale: float) -> list[float]:
    """Return the error, coverage and log loss of predictions of targets y, which were divided.

    They are √mean((mean − y)²), the share of targets in the central interval of probability LEVEL,
    and the mean of −log p(y), both for Gaussians; the first and last are for scale·y, and the
    last two are NaN for predictions without standard deviations.
    """
    error = float(np.sqrt(np.mean((p.mean - y) ** 2))) * scale
    if p.std is None:
        return [error, np.nan, np.nan]
    z = (y - p.mean) / p.std
    covered = np.mean(np.abs(z) <= stats.norm.ppf((1 + LEVEL) / 2))
    loss = np.mean(np.log(scale * p.std) + (z**2 + np.log(2 * np.pi)) / 2)
    return [error, float(covered), float(loss)]


def measure(method: str, name: str, seed: int) -> list[float]:
    """Return the scores of a method on a split of a data set."""
    s, scale = standardised(TARGETS[name](), seed)
    return scores(METHODS[method](s), s.y_test, scale)


def rows(name: str) -> list[list[str]]:
    """Return a row of each method: its name, and mean and standard error of the scores."""
    jobs = [(method, name, seed) for method in METHODS for seed in range(SPLITS)]
    found = np.reshape(in_processes(measure, jobs), (len(METHODS), SPLITS, 3))
    lines = []
    for method, mean, std in zip(
        METHODS, found.mean(axis=1), found.std(axis=1, ddof=1), strict=True
    ):
        error = std / np.sqrt(SPLITS)
        covered = f"{100 * mean[1]:.1f} ± {100 * error[1]:.1f}"
        line = [f"{mean[0]:.3f} ± {error[0]:.3f}", covered, f"{mean[2]:.3f} ± {error[2]:.3f}"]
        lines.append([method, *(cell if "nan" not in cell else "" for cell in line)])
    return lines


def main() -> str:
    """Return the section `regression`."""
    parts = []
    peers.python()  # installs the data before several processes need it
    for name, load in TARGETS.items():
        x, y = load()
        parts += [
            f"{name}, N = {len(x)}, n0 = {x.shape[1]}, standard deviation of y {y.std():.3f}:",
            table(["method", "error", f"covered, {100 * LEVEL:.0f} %", "log loss"], rows(name)),
        ]
    return section(
        "regression",
        f"Root mean square error, share of test targets in the central {100 * LEVEL:.0f} % of "
        f"their predictive distribution, and log loss, the mean of −log p(y); mean ± standard "
        f"error of {SPLITS} random splits with {100 * TEST:.0f} % of the samples for testing. "
        f"Features and targets are standardised by the training samples. Networks: ReLU, "
        f"L = {DEPTH}; ridge on Θ with σ_w = 1, β = 0.1; processes with σ_w, β and noise fitted. "
        f"RBF is scikit-learn's KernelRidge and GaussianProcessRegressor; its scale, width and "
        f"noise are fitted, with two restarts",
        *parts,
    )
