"""Classification of real data: kernels of networks against an RBF kernel and random forests.

Small data sets are compared by the protocol of Arora et al. 2020, *Harnessing the Power of
Infinitely Wide Deep Nets on Small-data Tasks* (`protocol.py`), with 35 settings of each method:

- Θ, SVM: theirs. Support vector machines on n0·Θ of ReLU networks of depths 1 to 5 without biases.
- Θ or Σ, regression on one-hot targets, the class of the largest output; with Σ it is the mean of
  a Gaussian process, as in Lee et al. 2018, *Deep Neural Networks as Gaussian Processes*.
- RBF, SVM; and random forest.

Digits of MNIST are classified in the setting of Lee et al. 2018, and by regression with 4,000.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

import ntk_numba as nk
from bench.datasets import CLASSES, Samples, mnist
from bench.protocol import FOLDS, Method, Split, accuracy, folds, ranks, share_of_best
from bench.report import section, table

DEPTHS, RIDGES = (1, 2, 3, 4, 5), tuple(10.0**k for k in range(-6, 1))
COSTS = tuple(10.0**k for k in range(-2, 5))
WIDTHS = (1 / 16, 1 / 4, 1, 4, 16)  # n0·γ of the RBF kernel exp(−γ‖x − x'‖²)
LEAVES, SHARES = (1, 2, 4, 8, 16), (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
TREES = 200
REPEATS = 4

Settings = Sequence[tuple[float, ...]]


def svm(kernel: NDArray[np.float64], cross: NDArray[np.float64], cost: float, s: Split) -> float:
    """Return the accuracy of a support vector machine on computed kernels."""
    from sklearn.svm import SVC

    machine = SVC(C=cost, kernel="precomputed", cache_size=1000).fit(kernel, s.y)
    return float(np.mean(machine.predict(cross) == s.y_test))


def network_svm(s: Split, settings: Settings) -> list[float]:
    """Score support vector machines on n0·Θ; settings (depth, C)."""
    net = nk.MLP(max(DEPTHS))
    n0 = s.x.shape[1]
    # layer l of the deepest network is the network of depth l
    kernels = n0 * nk.gram(net, s.x, kernels="ntk", layers="all").ntk
    cross = n0 * nk.gram(net, s.x_test, s.x, kernels="ntk", layers="all").ntk
    return [svm(kernels[int(l) - 1], cross[int(l) - 1], cost, s) for l, cost in settings]


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
    machines = (SVC(C=cost, gamma=width / n0, cache_size=1000) for width, cost in settings)
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


def percent(values: NDArray[np.float64]) -> str:
    """Format the mean of accuracies and its standard error, in per cent."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{100 * np.mean(values):.2f} ± {100 * error:.2f}"
