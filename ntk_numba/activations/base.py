"""What an activation has to say of itself, to the engine and to finite networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Activation(ABC):
    """A function σ of one variable together with its dual, E[σ(u)σ(v)] for Gaussian (u, v).

    Attributes
    ----------
    name : str
        As `ntk_numba.activations.get` takes it, parameters included: ``leaky_relu:0.1``.
    """

    name: str

    @property
    @abstractmethod
    def family(self) -> int:
        """The code by which the engine finds the family's dual."""

    @property
    @abstractmethod
    def dual_parameters(self) -> tuple[float, ...]:
        """What the family's dual takes besides the pair, as data: nothing is compiled anew."""

    @abstractmethod
    def __call__(self, x: Floats) -> Floats:
        """σ(x), elementwise."""

    @abstractmethod
    def derivative(self, x: Floats) -> Floats:
        """σ'(x), elementwise; at a kink, the derivative from the left."""

    @abstractmethod
    def second_moment(self, q: Floats) -> Floats:
        """E[σ(z)²] for z ~ N(0, q), elementwise, in the precision of q."""
