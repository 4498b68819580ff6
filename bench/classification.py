"""Classification of real data: kernels of networks against an RBF kernel and random forests.

Small data sets are compared by the protocol of Arora et al. 2020, *Harnessing the Power of
Infinitely Wide Deep Nets on Small-data Tasks* (`protocol.py`), with 35 settings of each method:

- Θ, SVM: theirs. Support vector machines on n0·Θ of ReLU networks of depths 1 to 5 without biases.
- Θ or Σ, regression on one-hot targets, the class of the largest output; with Σ it is the mean of
  a Gaussian process, as in Lee et al. 2018, *Deep Neural Networks as Gaussian Processes*.
- RBF, SVM; and random forest.

Digits of MNIST are a table of its own (`mnist.py`).
"""

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

import ntk_numba as nk
from bench import mnist, peers
from bench.datasets import CLASSES
from bench.protocol import (
    FOLDS,
    Method,
    Split,
    accuracy,
    in_processes,
    percent,
    ranks,
    share_of_best,
)
from bench.report import section, table

DEPTHS, RIDGES = (1, 2, 3, 4, 5), tuple(10.0**k for k in range(-6, 1))
COSTS = tuple(10.0**k for k in range(-2, 5))
WIDTHS = (1 / 16, 1 / 4, 1, 4, 16)  # n0·γ of the RBF kernel exp(−γ‖x − x'‖²)
LEAVES, SHARES = (1, 2, 4, 8, 16), (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
TREES, ITERATIONS = 100, 100_000
REPEATS = 3

Settings = Sequence[tuple[float, ...]]


def svm(kernel: NDArray[np.float64], cross: NDArray[np.float64], cost: float, s: Split) -> float:
    """Return the accuracy of a support vector machine on computed kernels."""
    from sklearn.svm import SVC

    machine = SVC(C=cost, kernel="precomputed", max_iter=ITERATIONS).fit(kernel, s.y)
    return float(np.mean(machine.predict(cross) == s.y_test))


def network_svm(s: Split, settings: Settings) -> list[float]:
    """Score support vector machines on n0·Θ; settings (depth, C)."""
    net = nk.MLP(max(DEPTHS))
    n0 = s.x.shape[1]
    # layer l of the deepest network is the network of depth l
    kernels = n0 * nk.gram(net, s.x, kernels="ntk", layers="all").ntk
    cross = n0 * nk.gram(net, s.x_test, s.x, kernels="ntk", layers="all").ntk
    return [svm(kernels[int(k) - 1], cross[int(k) - 1], cost, s) for k, cost in settings]


def regression(s: Split, settings: Settings, kernel: str) -> list[float]:
    """Score regression on one-hot targets; settings (depth, relative ridge)."""
    targets, classes = nk.one_hot(s.y)
    found = []
    for depth, ridge in settings:
        net = nk.MLP(int(depth), w_std=2**0.5, b_std=0.1)
        model = nk.kernel_ridge(net, s.x, targets, kernel=kernel, ridge=ridge)
        found.append(float(np.mean(classes[model.predict(s.x_test).argmax(axis=1)] == s.y_test)))
    return found


def rbf_svm(s: Split, settings: Settings) -> list[float]:
    """Score support vector machines on an RBF kernel; settings (n0·γ, C)."""
    from sklearn.svm import SVC

    n0 = s.x.shape[1]
    machines = (SVC(C=cost, gamma=width / n0, max_iter=ITERATIONS) for width, cost in settings)
    return [float(m.fit(s.x, s.y).score(s.x_test, s.y_test)) for m in machines]


def forest(s: Split, settings: Settings) -> list[float]:
    """Score random forests; settings (samples of a leaf, features of a split as a power of n0)."""
    from sklearn.ensemble import RandomForestClassifier

    n0 = s.x.shape[1]
    forests = (
        RandomForestClassifier(
            TREES, min_samples_leaf=int(leaf), max_features=round(n0**share), random_state=0
        )
        for leaf, share in settings
    )
    return [float(f.fit(s.x, s.y).score(s.x_test, s.y_test)) for f in forests]


METHODS: dict[str, tuple[Method, Settings]] = {
    "Θ, SVM": (network_svm, list(product(DEPTHS, COSTS))),
    "Θ, regression": (partial(regression, kernel="ntk"), list(product(DEPTHS, RIDGES))),
    "Σ, regression": (partial(regression, kernel="nngp"), list(product(DEPTHS, RIDGES))),
    "RBF, SVM": (rbf_svm, list(product(WIDTHS, COSTS))),
    "random forest": (forest, list(product(LEAVES, SHARES))),
}


def measure(name: str, method: str, seed: int) -> float:
    """Return the accuracy of one repetition of the protocol."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solver terminated early")
        return accuracy(*METHODS[method], CLASSES[name](), seed)


def small() -> tuple[str, str]:
    """Return the table of small data sets, and that of the methods' ranks."""
    peers.python()  # installs the data before several processes need it
    jobs = list(product(CLASSES, METHODS, range(REPEATS)))
    shape = len(CLASSES), len(METHODS), REPEATS
    found = np.reshape(in_processes(measure, jobs), shape)
    rows = []
    for (name, load), accuracies in zip(CLASSES.items(), found, strict=True):
        x, y = load()
        head = [name, f"{len(x):,}", x.shape[1], len(np.unique(y))]
        rows.append([*head, *map(percent, accuracies)])
    scores = found.mean(axis=2)
    found_ranks, shares = ranks(scores), share_of_best(scores)
    summary = [
        [name, f"{100 * a.mean():.2f}", f"{r:.2f}", f"{100 * np.mean(b >= 0.95):.0f} %",
         f"{100 * b.mean():.2f} %"]
        for name, a, r, b in zip(METHODS, scores.T, found_ranks.mean, shares.T, strict=True)
    ]  # fmt: skip
    return (
        table(["data set", "N", "n0", "classes", *METHODS], rows),
        table(["method", "mean accuracy", "Friedman rank", "P95", "PMA"], summary)
        + f"\n\nFriedman's statistic of the ranks is {found_ranks.statistic:.2f}, "
        f"p = {found_ranks.p:.1e}.",
    )


def main() -> str:
    """Return the section `classification`."""
    comparison, summary = small()
    return section(
        "classification",
        f"Accuracy in per cent, mean ± standard error of {REPEATS} repetitions of the protocol of "
        f"Arora et al. 2020: of the {len(DEPTHS) * len(COSTS)} settings of a method the one that "
        f"is best on one random half after training on the other, scored on {FOLDS} folds of all "
        f"samples. Features are standardised by the training samples. Θ, SVM: C-SVM on n0·Θ, ReLU, "
        f"β = 0, L = 1 to 5, C = 0.01 to 10,000; their other parameter, how many of the first "
        f"layers are fixed, is not available. Regression: one-hot targets, L = 1 to 5, β = 0.1, "
        f"relative ridge 1e-6 to 1; with Σ it is that of Lee et al. 2018, who also choose σ_w and "
        f"β. RBF: 5 widths, the same C. SVMs stop after {ITERATIONS:,} iterations. "
        f"Forests: {TREES} trees, 5 sizes of leaves, 7 numbers of features of a split. "
        f"The data are those of scikit-learn and of {peers.FILES[1]}.",
        comparison,
        "The rank of a method is 1 where it is best, on average over the data sets; P95 is the "
        "share of data sets on which it reaches 95 % of the best accuracy, PMA its mean share of "
        "the best accuracy:",
        summary,
        mnist.WHAT,
        mnist.digits(),
    )
