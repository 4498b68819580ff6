"""Probabilities of classes from the outputs of a Gaussian process."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.containers import read_array

REACH = 9.0  # standard deviations from the largest mean, beyond which the largest output never is
FAR = 1e3  # as good as infinitely many; their square does not overflow
ROUNDING = 36.0  # −log of the error of the quadrature
BATCH = 1 << 20  # numbers in the table of a batch of samples


def class_probabilities(mean: ArrayLike, std: ArrayLike) -> NDArray[np.float64]:
    """Return the probability of each class that its output is the largest.

    The outputs are independent Gaussians with means m_c and a common standard deviation s, so

        P(c) = ∫ φ(u − m_c/s) Π_{j≠c} Φ(u − m_j/s) du

    With the targets of `one_hot`, this turns the posterior of a regression on classes into
    probabilities. They say how sure the regression is of its largest output; they are not
    calibrated by labels, as those of a classifier with a likelihood for classes are, and depend on
    the scale of the kernel: if K(x, x) is far above the mean square of the targets, s is too, and
    the probabilities are nearly equal. `fit_hyperparameters` fits the scale.

    Parameters
    ----------
    mean : (M, C)
        Means of the outputs, C ≥ 2.
    std : (M,) or a number
        Their standard deviations, the same for all outputs, ≥ 0.

    Returns
    -------
    (M, C) float64
        Rows sum to 1. Where std is 0, the classes with the largest mean share 1 equally.

    Raises
    ------
    ValueError
        If shapes do not fit, numbers are not finite, or a standard deviation is negative.
    TypeError
        If an argument does not hold real numbers.

    Notes
    -----
    The error is below 1e-13. The trapezoidal rule converges geometrically here (L. Trefethen,
    J. Weideman, *The Exponentially Convergent Trapezoidal Rule*, 2014): on the line of imaginary
    part a, the integrand is at most e^(C a²/2) times what it is on the real line, so that a step h
    has an error of about e^(−2π²/(C h²)). The rule itself is that of the multinomial probit model
    (M. Girolami, S. Rogers 2006).

    Examples
    --------
    >>> ntk_numba.class_probabilities([[1.0, 0.0]], [1.0]).round(4)
    array([[0.7602, 0.2398]])
    """
    means = read_array(mean, "mean").astype(float, copy=False)
    if means.ndim != 2 or means.shape[1] < 2:
        raise InvalidValueError(
            f"mean must be of shape (M, C) with C ≥ 2 classes, not {means.shape}"
        )
    count, classes = means.shape
    spread = read_array(std, "std").astype(float, copy=False)
    if spread.shape not in ((), (count,)):
        raise InvalidValueError(f"std must be a number or of shape ({count},), not {spread.shape}")
    for name, values in (("mean", means), ("std", spread)):
        if not np.isfinite(values).all():
            raise InvalidValueError(f"{name} holds numbers that are not finite")
    if (spread < 0).any():
        raise InvalidValueError("std must not be negative")
    spread = np.broadcast_to(spread, (count,))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        below = means - means.max(axis=1, keepdims=True)
        found = (below == 0) / (below == 0).sum(axis=1, keepdims=True)
        scaled = np.maximum(below / spread[:, None], -FAR)
    random = np.flatnonzero(spread > 0)
    step = np.pi * np.sqrt(2 / (ROUNDING * classes))
    nodes = np.arange(-REACH, REACH + np.sqrt(2 * np.log(classes)) + step, step)
    batch = max(1, BATCH // (classes * nodes.size))
    for start in range(0, random.size, batch):
        rows = random[start : start + batch]
        away = nodes - scaled[rows, :, None]  # (rows, C, nodes)
        log_below = log_ndtr(away)
        density = -0.5 * away**2 - 0.5 * np.log(2 * np.pi)
        others = log_below.sum(axis=1, keepdims=True) - log_below
        chances = np.exp(density + others).sum(axis=2)
        found[rows] = chances / chances.sum(axis=1, keepdims=True)  # so that none exceeds 1
    return found
