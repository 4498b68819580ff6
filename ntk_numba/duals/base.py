"""The dual of an activation, and the class of functions that have one.

For a pair with variances q, q' and angle θ, let z = sin²(θ/2) and w = cos²(θ/2). A dual computes
z_K and w_K, the same of the angle θ_K behind the activation, cosθ_K = K(q, q', θ)/√(K(q)K(q')),
K(q) = E[σ(√q t)²], and

    rate = dcosθ_K/dcosθ = √(qq') K̇(q, q', θ)/√(K(q)K(q'))

None of these changes when σ is multiplied by a constant. The families in `activations` make duals,
and `engine` evaluates them.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.loops import DualLoop
from ntk_numba.extended import Extended, extended, values_of
from ntk_numba.function import Function

# If z = sin²(θ/2) is larger than this, θ counts as obtuse, and w = cos²(θ/2) is the one of the two
# that has full relative accuracy. It is a little more than ½, so that no rounding makes a right
# angle obtuse.
OBTUSE = 0.5 + 2.0**-16

# A z_K below this limit, by dtype, is computed from differences, see `Dual.curve`. A kernel's
# rounding error ε is an error ε/√z of the angle, while the differences have an error of about 1e-13
# of the angle at the limit, and a smaller one below it.
NEAR = {np.dtype(np.float64): 2e-6, np.dtype(np.float32): 2e-3}
# The same limit for functions with kinks off 0: their rate changes with the angle as soon as the
# angle is about as large as the distance of the kinks.
NEAR_KINKS = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 2e-4}


Doubles = NDArray[np.float64]


def no_coefficients(q: Extended) -> Doubles:
    """Return the coefficients of samples for a loop that takes none, (0, N)."""
    return np.empty((0, q.size))


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual of an activation for variances up to a largest one: all that the kernels use of it.

    Attributes
    ----------
    loop : DualLoop or None
        The compiled loop that computes z_K, w_K and the rate of a row of pairs; None for functions
        that are linear but for one kink at 0, for which the engine has a loop of its own.
    never_obtuse : bool
        Whether E[σ(u)σ(v)] ≥ 0 for all (u, v). Later layers then skip the formulas for obtuse
        angles.
    parameters : tuple of float
        The constants of the loop. They are passed as data, so that the loop is compiled once.
    coefficients : q → (count, N)
        A function that returns the loop's coefficients of samples with variances q, an extended
        array or one of float64.
    curve : q → (2, N), or None
        Given if the loop computes z_K as (1 − cosθ_K)/2, which cancels for small angles. The engine
        then computes small z_K from the rate and from the two numbers that this function returns:
        the length of the curve that σ(√q t) traces on the unit sphere up to q, and its curvature
        divided by √12 (see `duals.curve`).
    kinks_move : bool
        Whether there are kinks off 0, whose positions in t change with √q. Instead of the
        curvature, `curve` then returns the c of a squared chord Δ²(1 − c|Δ| + …).
    parity : int
        1 if σ is even, −1 if it is odd, else 0.
    bounds : (float, float)
        Bounds of the errors of cosθ_K and of the rate, the latter relative to √(rate(x,x)
        rate(x',x')). (0, 0) if K and K̇ are exact to rounding.
    """

    loop: DualLoop | None
    never_obtuse: bool
    parameters: tuple[float, ...] = ()
    coefficients: Callable[[Extended], Extended | Doubles] = no_coefficients
    curve: Callable[[Extended], Doubles] | None = None
    kinks_move: bool = False
    parity: int = 0
    bounds: tuple[float, float] = (0.0, 0.0)

    def of_samples(self, q: Extended) -> Doubles:
        """Return the two rows of the curve, if any, and the loop's coefficients, (`count`, N)."""
        own = self.coefficients(q).astype(float)
        return own if self.curve is None else np.concatenate([self.curve(q), own])

    @cached_property
    def count(self) -> int:
        """The number of coefficients of a sample, including the two of a curve."""
        return (0 if self.curve is None else 2) + len(self.coefficients(extended(np.ones(1))))

    def curve_limit(self, dtype: np.dtype) -> float:
        """Return the z_K below which the engine uses the curve, or 0 if it never does."""
        if self.curve is None:
            return 0.0
        return (NEAR_KINKS if self.kinks_move else NEAR)[dtype]


class Facts(NamedTuple):
    """Facts about an activation, for the documentation and for the planning of a job.

    Attributes
    ----------
    method : str
        How the dual is computed: "closed form" or a kind of series.
    domain : str
        The variances q that are supported.
    ntk : str
        "yes", or a restriction on Θ.
    needs_largest : bool
        Whether the dual depends on the largest variance in the data.
    well_conditioned : bool
        Whether entries have the accuracy in `ntk_numba.accuracy` for all data; for other closed
        forms, errors are larger by the condition number that the family's file states.
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
        """The facts for the documentation and for the planning of a job."""
        return Facts()

    @property
    def tolerance(self) -> float:
        """The largest error asked for, see `engine.fitted`; 0 for closed forms, which have none."""
        return 0.0

    def finer(self, tolerance: float) -> "Activation":
        """Return the same function with another tolerance of its dual."""
        return self

    @abstractmethod
    def dual(self, q_max: float) -> Dual:
        """Return the dual for variances of at most q_max."""

    @abstractmethod
    def moment(self, q: Extended) -> Extended:
        """Return E[σ(z)²] for z ~ N(0, q), elementwise."""

    def second_moment(self, q: Any) -> Any:
        """Return E[σ(z)²] for z ~ N(0, q), elementwise, in the type of q."""
        moment = self.moment(extended(q))
        return moment if isinstance(q, Extended) else moment.astype(q.dtype)

    def values_at(self, x: Doubles) -> Doubles:
        """Return σ(x) rounded to float64, whose bits do not depend on libraries."""
        return values_of(self, x)

    def slopes_at(self, x: Doubles) -> Doubles:
        """Return σ'(x) rounded to float64, whose bits do not depend on libraries."""
        return values_of(self.derivative, x)
