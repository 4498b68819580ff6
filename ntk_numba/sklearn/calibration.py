"""The calibration of class probabilities by leave-one-out predictions."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import minimize_scalar

from ntk_numba.predict.classification import class_probabilities
from ntk_numba.predict.regression import KernelRidge

MOST = 20_000  # outputs of leave-one-out predictions, which determine one number well enough
FEWEST = 200  # samples of which they are, however many classes there are
BOUNDS = 1e-3, 1e2  # of the standard deviation; the targets of a class differ by 1
FLOOR = 1e-300  # a probability that is taken for smaller ones, whose logarithms may be infinite


@dataclass(eq=False)
class Calibration:
    """The standard deviation of the outputs of a classifier, computed when it is first needed.

    Attributes
    ----------
    model : KernelRidge
        Fitted to the targets of `one_hot`.
    """

    model: KernelRidge

    @cached_property
    def spread(self) -> float:
        """The standard deviation that makes the labels of the training samples most probable.

        It maximises the mean of log P(c_i), where c_i is the class of sample i, and P are the
        `class_probabilities` of its leave-one-out prediction. If that prediction is right for all
        samples, the maximum would be at 0. So the targets of the likelihood are those of J. Platt
        1999, *Probabilistic Outputs for Support Vector Machines*, section 2.2: 1 − ε for the class
        c_i and ε shared by the others, ε = 1/(n + 2) with the n samples of the class.
        """
        targets = self.model.targets
        count, classes = targets.shape
        some = min(count, max(FEWEST, MOST // classes))
        rows = np.linspace(0, count - 1, some).astype(int)
        outputs = self.model.leave_one_out().mean[rows]
        labels = targets.argmax(axis=1)
        others = 1 / (np.bincount(labels, minlength=classes)[labels[rows]] + 2)
        weights = np.tile(others[:, None] / (classes - 1), classes)
        weights[np.arange(len(rows)), labels[rows]] = 1 - others

        def loss(log_spread: float) -> float:
            chances = class_probabilities(outputs, math.exp(log_spread))
            return -float((weights * np.log(np.maximum(chances, FLOOR))).mean())

        low, high = map(math.log, BOUNDS)
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
        return math.exp(found.x)
