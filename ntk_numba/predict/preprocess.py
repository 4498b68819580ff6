"""What is done to samples before a kernel is computed, at training and at prediction alike."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.source import Source

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Standardize:
    """The map x ↦ (x − mean)/scale of each feature.

    Attributes
    ----------
    mean : (n0,) float64
    scale : (n0,) float64
        The standard deviation (division by N) of the training samples; 1 for a feature that is
        constant in them.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, source: Source) -> "Standardize":
        """Return the map after which the rows of a source have mean 0 and variance 1."""
        count, features = source.shape
        mean = np.zeros(features)
        for start, stop in source.blocks():  # of means, so that no sum overflows
            mean += source.read(start, stop).astype(float).sum(axis=0) / count
        largest, squares = np.zeros(features), np.zeros(features)
        for start, stop in source.blocks():
            np.maximum(largest, np.abs(source.read(start, stop) - mean).max(axis=0), out=largest)
        unit = np.where(largest > 0, largest, 1.0)  # so that no square over- or underflows
        for start, stop in source.blocks():
            squares += (((source.read(start, stop) - mean) / unit) ** 2).sum(axis=0)
        scale = unit * np.sqrt(squares / count)
        # deviations of a constant feature from its rounded mean are rounding errors
        constant = scale <= 8 * np.finfo(float).eps * np.abs(mean)
        return cls(mean, np.where(constant | (scale == 0), 1.0, scale))

    def apply(self, rows: Floats) -> Floats:
        """Return rows (M, n0) after the map, in their dtype."""
        with np.errstate(over="ignore"):  # the kernel refuses a row that is infinite
            return ((rows - self.mean) / self.scale).astype(rows.dtype, copy=False)


Preprocess: TypeAlias = Literal["standardize"] | Standardize | None


def fit_preprocess(preprocess: Any, source: Source) -> Standardize | None:
    """Return the map that an argument stands for, fitted to the rows of a source.

    Raises
    ------
    ValueError
        If the argument is none of None, "standardize" and a `Standardize` of as many features.
    """
    if preprocess is None:
        return None
    if isinstance(preprocess, Standardize):
        if len(preprocess.mean) != source.shape[1]:
            raise InvalidValueError(
                f"preprocess is of {len(preprocess.mean)} features, X has {source.shape[1]}"
            )
        return preprocess
    if isinstance(preprocess, str) and preprocess == "standardize":
        return Standardize.of(source)
    raise InvalidValueError(f"preprocess must be None or 'standardize', not {preprocess!r}")
