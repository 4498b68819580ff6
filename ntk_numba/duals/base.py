"""The dual of an activation, and the class of functions that have one.

For a pair with variances q, q' and angle θ, z = sin²(θ/2) and w = cos²(θ/2), a dual gives the same
for the next layer, where cosθ_K = K(q, q', θ)/√(K(q)K(q')), K(q) = E[σ(√q t)²], and

    rate = dcosθ_K/dcosθ = √(qq') K̇(q, q', θ)/√(K(q)K(q'))

All of it is unchanged when σ is multiplied by a constant.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ntk_numba.compiled.loops import DualLoop
from ntk_numba.function import Floats, Function

# Where z = sin²(θ/2) is more than this, θ counts as obtuse, and w = cos²(θ/2) is what is known to
# full relative accuracy. Somewhat over ½, so that no rounding makes a right angle obtuse.
OBTUSE = 0.5 + 2.0**-16

# Below this z_K is composed of differences, see `Dual.curve`; sines of half the angle, by dtype. A
# kernel's rounding error ε is an error ε/√z of the angle; the differences are good to some 1e-13 of
# the angle at the limit, and better below.
NEAR = {np.dtype(np.float64): 2e-6, np.dtype(np.float32): 2e-3}
# The same where kinks off 0 make the rate change with the angle as soon as that is no smaller than
# the distance of the kinks
NEAR_KINKS = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 2e-4}


def no_coefficients(q: Floats) -> Floats:
    """Return the coefficients of a loop that needs none of its samples, (0, N)."""
    return np.empty((0, q.size), q.dtype)


@dataclass(frozen=True, eq=False)
class Dual:
    """What the kernels take of an activation for variances up to some largest one.

    Attributes
    ----------
    loop : DualLoop or None
        Fills z_K, w_K and the rate of a row of pairs; None for functions that are linear but for
        one kink at 0, which the engine's own loop computes.
    never_obtuse : bool
        Whether E[σ(u)σ(v)] ≥ 0 for any (u, v), which later layers rely on.
    parameters : tuple of float
        What the loop takes besides pairs and samples, as data: it is compiled once for all of them.
    coefficients : q → (count, N)
        What the loop takes of samples of variances q, in the precision of q.
    curve : q → (2, N), or None
        If the loop computes z_K as (1 − cosθ_K)/2, which cancels for small angles, the engine
        computes those from the rate and from this: the length of the curve that σ(√q t) traces on
        the unit sphere up to q, and its curvature divided by √12 (see `duals.curve`).
    kinks_move : bool
        Whether there are kinks off 0, which move with √q. The curve then has, in place of its
        curvature, c of a chord Δ²(1 − c|Δ| + …).
    parity : int
        1 if σ is even, −1 if it is odd, else 0.
    bounds : (float, float)
        Bounds of the errors of cosθ_K, and of the rate divided by √(rate rate') at x = x, x';
        0 if K and K̇ are exact to rounding.
    """

    loop: DualLoop | None
    never_obtuse: bool
    parameters: tuple[float, ...] = ()
    coefficients: Callable[[Floats], Floats] = no_coefficients
    curve: Callable[[Floats], Floats] | None = None
    kinks_move: bool = False
    parity: int = 0
    bounds: tuple[float, float] = (0.0, 0.0)

    def of_samples(self, q: Floats) -> Floats:
        """Return the two rows of the curve, if there is one, and the loop's own coefficients."""
        own = self.coefficients(q)
        return own if self.curve is None else np.concatenate([self.curve(q), own])

    @cached_property
    def count(self) -> int:
        """The number of coefficients that a sample has, those of the curve included."""
        return (0 if self.curve is None else 2) + len(self.coefficients(np.ones(1)))

    def near(self, dtype: np.dtype) -> float:
        """Return the z_K below which the engine computes it from the curve, 0 if never."""
        if self.curve is None:
            return 0.0
        return (NEAR_KINKS if self.kinks_move else NEAR)[dtype]


class Facts(NamedTuple):
    """What the documentation says of an activation, and what a job has to know beforehand.

    Attributes
    ----------
    method : str
        How its dual is computed: "closed form" or another way.
    domain : str
        The variances q that it is meant for.
    ntk : str
        "yes", or a restriction on its Θ.
    needs_largest : bool
        Whether its dual depends on the largest variance in the data.
    well_conditioned : bool
        Whether entries have the accuracy of `engine.accuracy` whatever the data; that of other
        closed forms is multiplied by the condition number that the family's file states.
    """

    method: str = "closed form"
    domain: str = "any q"
    ntk: str = "yes"
    needs_largest: bool = False
    well_conditioned: bool = False


@dataclass(frozen=True)
class Activation(Function):
    """A function with a dual, E[σ(u)σ(v)] for Gaussian (u, v)."""

    @property
    def facts(self) -> Facts:
        """What the documentation says of it."""
        return Facts()

    @abstractmethod
    def dual(self, q_max: float) -> Dual:
        """Return the dual for variances of at most q_max."""
