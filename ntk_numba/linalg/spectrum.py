"""The leading eigenvalues of a kernel matrix of any size, and estimates from its whole spectrum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number that was estimated by random vectors.

    value : float
    error : float
        The standard error of the value; 0 if it is exact but for rounding.
    """

    value: float
    error: float
