"""What an activation has to say of itself, to the engine and to finite networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Where z = sin²(θ/2) is more than this, θ counts as obtuse, and w = cos²(θ/2) is what is known to
# full relative accuracy. Somewhat over ½, so that no rounding makes a right angle obtuse.
OBTUSE = 0.5 + 2.0**-16


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

    @property
    @abstractmethod
    def never_obtuse(self) -> bool:
        """Whether E[σ(u)σ(v)] ≥ 0 for any (u, v), which later layers can rely on."""

    @abstractmethod
    def __call__(self, x: Floats) -> Floats:
        """σ(x), elementwise."""

    @abstractmethod
    def derivative(self, x: Floats) -> Floats:
        """σ'(x), elementwise; at a kink, the derivative from the left."""

    @abstractmethod
    def second_moment(self, q: Floats) -> Floats:
        """E[σ(z)²] for z ~ N(0, q), elementwise, in the precision of q."""
