"""The function of an activation, without anything about kernels.

Networks of finite width take a `Function`; the kernels take an `Activation`
(`ntk_numba.duals.base`), which is a `Function` that also has a dual.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Function(ABC):
    """A real function σ of one variable, with its derivative and its Gaussian second moment.

    Attributes
    ----------
    name : str
        The name that `ntk_numba.activations.get` takes, parameters included: ``leaky_relu:0.1``.
    kinks : tuple of float
        The x at which σ or a derivative of it jumps.
    smooth_beyond : float
        For larger |x|, σ is smooth on the scale of |x|; for smaller ones, on the scale of 1.
    """

    name: str

    @property
    def kinks(self) -> tuple[float, ...]:
        return ()

    @property
    def smooth_beyond(self) -> float:
        return 8.0

    @abstractmethod
    def __call__(self, x: Any) -> Any:
        """Return σ(x), elementwise, in the type of x: an array of floats, or an `Extended` one."""

    @abstractmethod
    def derivative(self, x: Any) -> Any:
        """Return σ'(x), elementwise; at a kink, the derivative from the left."""

    @abstractmethod
    def second_moment(self, q: Any) -> Any:
        """Return E[σ(z)²] for z ~ N(0, q), elementwise, in the type of q."""


def typed(value: Any, x: Any) -> Any:
    """Return a value in the dtype of x if that is an array of floats, and as it is otherwise."""
    return np.asarray(value, x.dtype) if isinstance(x, np.ndarray | np.generic) else value


def spelled(name: str, *parameters: float) -> str:
    """Return a name with its parameters in the form that `ntk_numba.activations.get` takes."""
    return name + (":" + ",".join(repr(float(p)) for p in parameters) if parameters else "")
