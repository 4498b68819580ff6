"""What an activation has to say of itself, to the engine and to finite networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.loops import Row
from ntk_numba.duals.curve import curve_of

Floats = NDArray[np.floating]

# Where z = sin²(θ/2) is more than this, θ counts as obtuse, and w = cos²(θ/2) is what is known to
# full relative accuracy. Somewhat over ½, so that no rounding makes a right angle obtuse.
OBTUSE = 0.5 + 2.0**-16

# Below this z_K is made of differences, see `Activation.row`; sines of half the angle, by dtype. A
# kernel's rounding error ε is an error ε/√z of the angle; the differences are good to some 1e-13 of
# the angle at the limit, and better below.
NEAR = {np.dtype(np.float64): 2e-6, np.dtype(np.float32): 2e-3}
# The same where kinks off 0 make the rate change with the angle as soon as that is no smaller than
# what the kinks are apart
NEAR_KINKS = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 2e-4}


@dataclass(frozen=True)
class Activation(ABC):
    """A function σ of one variable together with its dual, E[σ(u)σ(v)] for Gaussian (u, v).

    For a pair with variances q, q' and angle θ, z = sin²(θ/2) and w = cos²(θ/2); the dual gives the
    same for the next layer, where cosθ_K = K(q, q', θ)/√(K(q)K(q')), K(q) = E[σ(√q t)²], and

        rate = dcosθ_K/dcosθ = √(qq') K̇(q, q', θ)/√(K(q)K(q'))

    Attributes
    ----------
    name : str
        As `ntk_numba.activations.get` takes it, parameters included: ``leaky_relu:0.1``.
    row : Row or None
        Fills z_K, w_K and the rate of a row of pairs (see `ntk_numba.row.Row`); None if the
        engine's own loop for functions with one kink at 0 does. mine and theirs are the samples'
        `all_traits`.
    near : bool
        Whether z_K comes as (1 − cosθ_K)/2, which has forgotten small angles. The engine then makes
        those anew, from the rate and from the first two traits.
    moving : bool
        Whether there are kinks off 0, which move with √q: a chord of the `curve` then has a term in
        its third power.
    parity : int
        1 if σ is even, −1 if it is odd, else 0.
    method : str
        "closed form" or what else it is.
    ntk : str
        What there is to say of its Θ.
    domain : str
        The variances q that it is meant for.
    kinks : tuple of float
        Where σ or a derivative jumps.
    ranged : bool
        Whether it has to be made ready for the variances that there are, see `up_to`.
    settled : float
        The |x| from which on σ is smooth on the scale of |x|, not on that of 1.
    """

    name: str

    row: ClassVar[Row | None] = None
    near: ClassVar[bool] = True
    moving: ClassVar[bool] = False
    method: ClassVar[str] = "closed form"
    ntk: ClassVar[str] = "yes"
    domain: ClassVar[str] = "any q"
    ranged: ClassVar[bool] = False
    settled: ClassVar[float] = 8.0

    @property
    def parity(self) -> int:
        return 0

    @property
    def kinks(self) -> tuple[float, ...]:
        return ()

    @property
    def parameters(self) -> tuple[float, ...]:
        """What `row` takes besides the pair, as data: nothing is compiled anew."""
        return ()

    def traits(self, q: Floats) -> Floats:
        """(traits, N), what `row` takes of samples of variances q, in the precision of q."""
        return np.empty((0, q.size), q.dtype)

    def curve(self, q: Floats) -> Floats:
        """(2, N), of the curve of σ(√q t) on the unit sphere: its length up to q and its curvature
        divided by √12 (see `curve`), or, if `moving`, c of a chord Δ²(1 − c|Δ| + …).
        """
        return curve_of(self)(q)

    def all_traits(self, q: Floats) -> Floats:
        """`traits`, after the two of the `curve` if `near`."""
        own = self.traits(q)
        return np.concatenate([self.curve(q), own]) if self.near and self.row else own

    @property
    def trait_count(self) -> int:
        """How many `all_traits` there are."""
        return (2 if self.near and self.row else 0) + len(self.traits(np.ones(1)))

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the errors of cosθ_K and of the rate divided by √(rate rate') at x = x, x'; 0 if K and
        K̇ are exact to rounding.
        """
        return 0.0, 0.0

    def up_to(self, q: float) -> "Activation":
        """The same, made ready for variances of at most q; itself if it is ready for any."""
        return self

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


def spelled(name: str, *parameters: float) -> str:
    """The name of an activation with its parameters, as `ntk_numba.activations.get` takes it."""
    return name + (":" + ",".join(repr(float(p)) for p in parameters) if parameters else "")
