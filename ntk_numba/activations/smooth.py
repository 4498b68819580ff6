"""Named activations without a closed form, whose dual is a series.

They are tanh, sigmoid, softsign and arctan, for any variance (`duals.mixture`), and silu, softplus,
mish and gelu_tanh, for variances that are not too large (`duals.series`). σ and σ' are written
such that nothing overflows or cancels, mostly in terms of e = exp(−|x|).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from ntk_numba.activations.registry import named
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.mixture import (
    Mixture,
    fitted,
    of_arctan,
    of_sigmoid,
    of_softsign,
    of_tanh,
)
from ntk_numba.duals.series import TOLERANCE, Series, checked_tolerance
from ntk_numba.function import spelled, typed


def _bell(x: Any) -> Any:
    """Return the derivative of the logistic function."""
    e = np.exp(-abs(x))
    return e / (1 + e) ** 2


def _silu_slope(x: Any) -> Any:
    return special.expit(x) + x * _bell(x)


def _softplus(x: Any) -> Any:
    return np.log1p(np.exp(-abs(x))) + np.maximum(x, 0)


def _mish_parts(x: Any) -> tuple[Any, Any]:
    """Return tanh(softplus(x)) and its derivative, in terms of e = exp(−|x|)."""
    e, positive = np.exp(-abs(x)), x > 0
    bottom = np.where(positive, 1 + 2 * e + 2 * e**2, e**2 + 2 * e + 2)
    top = np.where(positive, 1 + 2 * e, e * (e + 2))
    return top / bottom, 4 * np.where(positive, e**2, e) * (1 + e) / bottom**2


def _mish(x: Any) -> Any:
    return x * _mish_parts(x)[0]


def _mish_slope(x: Any) -> Any:
    value, slope = _mish_parts(x)
    return value + x * slope


_ROOT, _CUBE = math.sqrt(8 / math.pi), 0.044715  # the constants of gelu_tanh


def _gelu_tanh_slope(x: Any) -> Any:
    inner = _ROOT * (x + _CUBE * x**3)
    slope = x * _ROOT * (1 + 3 * _CUBE * x**2)
    return special.expit(inner) + _bell(inner) * slope


class Formulas(NamedTuple):
    """The function of an activation, its derivative, and facts about the function.

    value, slope : σ and σ', elementwise
    parity : 1 if σ is even, −1 if it is odd, else 0
    never_negative : whether σ ≥ 0 everywhere
    mixture : σ' as a mixture of Gaussians, if it is one
    """

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    parity: int = 0
    never_negative: bool = False
    kinks: tuple[float, ...] = ()
    mixture: Callable[[], Mixture] | None = None


FORMULAS = {
    "tanh": Formulas(np.tanh, lambda x: 4 * _bell(2 * x), parity=-1, mixture=of_tanh),
    "sigmoid": Formulas(special.expit, _bell, never_negative=True, mixture=of_sigmoid),
    "silu": Formulas(lambda x: x * special.expit(x), _silu_slope),
    "softplus": Formulas(_softplus, special.expit, never_negative=True),
    "mish": Formulas(_mish, _mish_slope),
    "gelu_tanh": Formulas(
        lambda x: x * special.expit(_ROOT * (x + _CUBE * x**3)), _gelu_tanh_slope
    ),
    "softsign": Formulas(
        lambda x: x / (1 + abs(x)),
        lambda x: 1 / (1 + abs(x)) ** 2,
        parity=-1,
        kinks=(0.0,),
        mixture=of_softsign,
    ),
    "arctan": Formulas(np.arctan, lambda x: 1 / (1 + x * x), parity=-1, mixture=of_arctan),
}


@dataclass(frozen=True)
class Named(Series):
    """An activation from `FORMULAS`, with a tolerance of its series."""

    function: str
    largest_error: float

    @property
    def tolerance(self) -> float:
        return self.largest_error

    def finer(self, tolerance: float) -> "Named":
        return replace(self, largest_error=tolerance)

    @property
    def parity(self) -> int:
        return FORMULAS[self.function].parity

    @property
    def never_negative(self) -> bool:
        return FORMULAS[self.function].never_negative

    @property
    def kinks(self) -> tuple[float, ...]:
        return FORMULAS[self.function].kinks

    @property
    def facts(self) -> Facts:
        if FORMULAS[self.function].mixture is None:
            return super().facts
        return Facts(method="Hermite series", needs_largest=True)

    def dual(self, q_max: float) -> Dual:
        """Return the dual for variances up to q_max, within the tolerance.

        Raises
        ------
        ValueError
            If the tolerance is not reached.
        """
        mixture = FORMULAS[self.function].mixture
        return super().dual(q_max) if mixture is None else fitted(self, mixture, q_max)

    def __call__(self, x: Any) -> Any:
        return typed(FORMULAS[self.function].value(x), x)

    def derivative(self, x: Any) -> Any:
        return typed(FORMULAS[self.function].slope(x), x)


def _named(function: str, tolerance: float) -> Activation:
    """Return an activation from `FORMULAS`; its name has the tolerance unless it is the default."""
    checked = checked_tolerance(function, tolerance)
    name = function if checked == TOLERANCE else spelled(function, checked)
    return Named(name, function, checked)


@named()
def tanh(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = tanh x, by a series to a tolerance."""
    return _named("tanh", tolerance)


@named()
def sigmoid(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = 1/(1 + exp(−x)), by a series to a tolerance."""
    return _named("sigmoid", tolerance)


@named("swish")
def silu(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x/(1 + exp(−x)), also known as swish, by a series to a tolerance."""
    return _named("silu", tolerance)


@named()
def softplus(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = ln(1 + exp(x)), by a series to a tolerance."""
    return _named("softplus", tolerance)


@named()
def mish(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x·tanh(ln(1 + exp(x))), by a series to a tolerance."""
    return _named("mish", tolerance)


@named()
def gelu_tanh(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x/2·(1 + tanh(√(2/π)(x + 0.044715x³))), by a series to a tolerance."""
    return _named("gelu_tanh", tolerance)


@named()
def softsign(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x/(1 + |x|), by a series to a tolerance."""
    return _named("softsign", tolerance)


@named()
def arctan(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = arctan x, by a series to a tolerance."""
    return _named("arctan", tolerance)
