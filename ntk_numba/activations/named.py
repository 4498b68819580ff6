"""tanh, sigmoid, silu, softplus, mish, gelu_tanh, softsign, arctan: by series.

Each takes a tolerance, as ``tanh:1e-12``. No closed form of their duals is known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit

from ntk_numba.activations.base import Activation, Floats, spelled
from ntk_numba.activations.series import TOLERANCE, Series

Function = Callable[[Floats], Floats]


class _Formula(NamedTuple):
    value: Function
    derivative: Function
    positive: bool = False
    kinks: tuple[float, ...] = ()


def _softplus(x: Floats) -> Floats:
    return np.asarray(-log_expit(-x))


def _mish_slope(x: Floats) -> Floats:
    t = np.tanh(_softplus(x))
    return np.asarray(t + x * expit(x) * (1 - t) * (1 + t))


GELU = np.sqrt(2 / np.pi), 0.044715  # Hendrycks & Gimpel 2016


def _gelu_tanh(x: Floats) -> Floats:
    # ½(1 + tanh y) = 1/(1 + e^−2y), which does not cancel
    return np.asarray(x * expit(2 * GELU[0] * (x + GELU[1] * x**3)))


def _gelu_tanh_slope(x: Floats) -> Floats:
    y = 2 * GELU[0] * (x + GELU[1] * x**3)
    return np.asarray(expit(y) + x * expit(y) * expit(-y) * 2 * GELU[0] * (1 + 3 * GELU[1] * x**2))


FORMULAE = {
    "tanh": _Formula(np.tanh, lambda x: 4 * expit(2 * x) * expit(-2 * x)),
    "sigmoid": _Formula(expit, lambda x: expit(x) * expit(-x), True),
    "silu": _Formula(lambda x: x * expit(x), lambda x: expit(x) * (1 + x * expit(-x))),
    "softplus": _Formula(_softplus, expit, True),
    "mish": _Formula(lambda x: x * np.tanh(_softplus(x)), _mish_slope),
    "gelu_tanh": _Formula(_gelu_tanh, _gelu_tanh_slope),
    "softsign": _Formula(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2, kinks=(0.0,)),
    "arctan": _Formula(np.arctan, lambda x: 1 / (1 + x * x)),
}


@dataclass(frozen=True)
class Named(Series):
    """One of FORMULAE."""

    label: str

    @property
    def kinks(self) -> tuple[float, ...]:
        return FORMULAE[self.label].kinks

    @property
    def never_obtuse(self) -> bool:
        return FORMULAE[self.label].positive

    def with_tolerance(self, tolerance: float) -> str:
        return f"{self.label}:{tolerance:.1e}"

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(FORMULAE[self.label].value(x), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        return np.asarray(FORMULAE[self.label].derivative(x), x.dtype)


def _named(label: str, tolerance: float, usual: float = TOLERANCE) -> Activation:
    name = label if tolerance == usual else spelled(label, tolerance)
    return Named(name, tolerance, 0.0, label)


def tanh(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = tanh x."""
    return _named("tanh", tolerance)


def sigmoid(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = 1/(1 + e^−x)."""
    return _named("sigmoid", tolerance)


def silu(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x/(1 + e^−x)."""
    return _named("silu", tolerance)


def softplus(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = ln(1 + e^x)."""
    return _named("softplus", tolerance)


def mish(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x·tanh(ln(1 + e^x))."""
    return _named("mish", tolerance)


def gelu_tanh(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    return _named("gelu_tanh", tolerance)


SOFTSIGN_TOLERANCE = 1e-3


def softsign(tolerance: float = SOFTSIGN_TOLERANCE) -> Activation:
    """σ(x) = x/(1 + |x|)."""
    # its second derivative jumps at 0: the series converges as a power of the degree only
    return _named("softsign", tolerance, SOFTSIGN_TOLERANCE)


def arctan(tolerance: float = TOLERANCE) -> Activation:
    """σ(x) = arctan x."""
    return _named("arctan", tolerance)
