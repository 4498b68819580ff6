"""How methods are compared on real data: splits, tuning, ranks. It knows no method.

The protocol of the tables of Fernández-Delgado et al. 2014, which Arora et al. 2020 follow: the
setting of a method that is best on one half of the samples, after training on the other half, is
scored on four folds of all samples. The folds contain the samples that the setting was chosen with.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.datasets import Samples
from ntk_numba.machine import available_threads

FOLDS = 4


class Split(NamedTuple):
    """Training and test samples; features are standardised by the training samples."""

    x: NDArray[np.float64]
    y: NDArray[np.generic]
    x_test: NDArray[np.float64]
    y_test: NDArray[np.generic]


# Accuracies on the test samples after training with each of the settings
Method = Callable[[Split, Sequence[tuple[float, ...]]], Sequence[float]]


def split(samples: Samples, train: NDArray[np.intp], test: NDArray[np.intp]) -> Split:
    """Return these rows, standardised; a constant feature becomes 0."""
    x, y = samples
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = (x - mean) / np.where(std > 0, std, 1)
    return Split(scaled[train], y[train], scaled[test], y[test])


def halves(samples: Samples, seed: int) -> Split:
    """Return one half for training and one for tuning, each with its share of each class."""
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(1, test_size=0.5, random_state=seed)
    return split(samples, *next(splitter.split(samples.x, samples.y)))


def folds(samples: Samples, seed: int, count: int = FOLDS) -> Iterator[Split]:
    """Yield a split for each fold; each fold has its share of each class."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    for train, test in splitter.split(samples.x, samples.y):
        yield split(samples, train, test)


def accuracy(
    method: Method, settings: Sequence[tuple[float, ...]], samples: Samples, seed: int
) -> float:
    """Return the mean accuracy over the folds, of the first setting that is best on the half."""
    best = int(np.argmax(method(halves(samples, seed), settings)))
    found = [method(fold, settings[best : best + 1])[0] for fold in folds(samples, seed)]
    return float(np.mean(found))


def in_processes(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the results of `work` for each job, computed by a process of one thread a core."""
    from joblib import Parallel, delayed

    return Parallel(available_threads())(delayed(work)(*job) for job in jobs)


class Ranks(NamedTuple):
    """Methods ranked by their scores, 1 for the best; equal scores share the mean of their ranks.

    mean : Friedman rank of each method, the mean of its ranks over data sets
    statistic, p : Friedman's statistic of the ranks, and its p-value if all methods were equal
    """

    mean: NDArray[np.float64]
    statistic: float
    p: float


def ranks(scores: NDArray[np.float64]) -> Ranks:
    """Rank methods by their scores, (data sets, methods), of which larger ones are better."""
    mean = stats.rankdata(-scores, axis=1).mean(axis=0)
    test = stats.friedmanchisquare(*scores.T)
    return Ranks(mean, float(test.statistic), float(test.pvalue))


def share_of_best(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each score as a share of the best one of its data set."""
    return scores / scores.max(axis=1, keepdims=True)


def percent(values: NDArray[np.float64]) -> str:
    """Format the mean of accuracies and its standard error, in per cent."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{100 * np.mean(values):.2f} ± {100 * error:.2f}"
