"""Multiples factor·σ of activations, such as the one with E[σ(z)²] = 1."""

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntk_numba.activations.registry import check_size
from ntk_numba.arguments import plain
from ntk_numba.duals.base import Activation, Doubles, Dual, Facts
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.extended import Extended, extended
from ntk_numba.function import typed


@dataclass(frozen=True)
class Scaled(Activation):
    """A multiple of another activation, which has the same dual."""

    factor: float
    unscaled: Activation

    @property
    def kinks(self) -> tuple[float, ...]:
        return self.unscaled.kinks

    @property
    def smooth_beyond(self) -> float:
        return self.unscaled.smooth_beyond

    @property
    def facts(self) -> Facts:
        return self.unscaled.facts

    @property
    def tolerance(self) -> float:
        return self.unscaled.tolerance

    def finer(self, tolerance: float) -> Activation:
        return replace(self, unscaled=self.unscaled.finer(tolerance))

    def dual(self, q_max: float) -> Dual:
        return self.unscaled.dual(q_max)

    def __call__(self, x: Any) -> Any:
        return typed(self.factor * self.unscaled(x), x)

    def derivative(self, x: Any) -> Any:
        return typed(self.factor * self.unscaled.derivative(x), x)

    def values_at(self, x: Doubles) -> Doubles:
        return self.factor * self.unscaled.values_at(x)

    def slopes_at(self, x: Doubles) -> Doubles:
        return self.factor * self.unscaled.slopes_at(x)

    def moment(self, q: Extended) -> Extended:
        return extended(self.factor) ** 2 * self.unscaled.moment(q)


def scaled(factor: float, activation: Activation) -> Activation:
    """Return the activation factor·σ, whose name is ``"factor*name"``.

    Raises
    ------
    ValueError
        If the factor is 0 or not finite.
    """
    if not math.isfinite(factor) or factor == 0:
        raise InvalidValueError(f"activation: the factor {factor!r} must be finite and not 0")
    check_size(f"the factor of {activation.name}", factor)
    if isinstance(activation, Scaled):
        factor, activation = factor * activation.factor, activation.unscaled
    if factor == 1:
        return activation
    return Scaled(f"{float(factor)!r}*{activation.name}", float(factor), activation)


def normalised(activation: Activation, q: float = 1.0) -> Activation:
    """Return the multiple of σ with E[σ(z)²] = 1 for z ~ N(0, q).

    Raises
    ------
    ValueError
        If q is not a positive number, or the second moment at q is 0 or infinite.
    TypeError
        If the activation is not an `Activation`, such as `get` returns.
    """
    if not isinstance(activation, Activation):
        raise InvalidTypeError(
            f"activation must be an Activation, such as activations.get returns, not {activation!r}"
        )
    q = plain(q)
    if isinstance(q, bool) or not isinstance(q, numbers.Real):
        raise InvalidTypeError(f"q must be a number, a positive variance, not {q!r}")
    if not 0 < q < math.inf:
        raise InvalidValueError(f"q must be a positive variance, not {q!r}")
    moment = float(activation.second_moment(np.array([q]))[0])
    if not 0 < moment < math.inf:
        raise InvalidValueError(f"activation {activation.name}: E[σ(z)²] is {moment} at q = {q}")
    return scaled(1 / math.sqrt(moment), activation)
