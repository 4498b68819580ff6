"""Functions that are linear but for one kink at 0: identity, relu, leaky_relu, ab_relu and abs.

σ(x) = a·min(x, 0) + b·max(x, 0) is (a + b)/2·x + (b − a)/2·|x|, the sum of an odd part and an even
one. Their fractions of the second moment E[σ(u)²] = gq, g = (a² + b²)/2, are odd = (a + b)²/4g and
even = (b − a)²/4g, which add to 1: identity (1, 0), relu (½, ½), abs (0, 1). With
(u, v) ~ N(0, [[q, s], [s, q']]) and s = √(qq') cosθ,

    K  = E[σ(u)σ(v)]   = g√(qq') · [cosθ + 2·even·(sinθ − θ cosθ)/π]
    K̇ = E[σ'(u)σ'(v)] = g · [1 − 2·even·θ/π]

Source: Cho & Saul 2009, the arc-cosine kernels of degree 1 and 0, for a = 0, b = 1; the general
form follows by E[u|v|] = 0 and is checked against quadrature in the tests.

The kernels do not use cosθ, which determines θ poorly near 0 and π: an error ε of cosθ is an error
√ε of θ there. Instead they carry from layer to layer the pair

    z = sin²(θ/2) = (1 − cosθ)/2,   w = cos²(θ/2) = (1 + cosθ)/2,

the smaller of the two to full relative accuracy. In these variables the dual is, with K normalised,

    z_K = z − even·h,   w_K = w + even·h,   h = (sinθ − θ cosθ)/π.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.policy import per_dtype
from ntk_numba.duals.base import OBTUSE, Activation, Dual, Facts
from ntk_numba.duals.special import angle_excess
from ntk_numba.extended import Extended, extended
from ntk_numba.function import spelled, typed


@dataclass(frozen=True)
class OneKink(Activation):
    """σ(x) = a·min(x, 0) + b·max(x, 0)."""

    a: float
    b: float

    @property
    def kinks(self) -> tuple[float, ...]:
        return () if self.a == self.b else (0.0,)

    @property
    def facts(self) -> Facts:
        return Facts(well_conditioned=True)

    @property
    def fractions(self) -> tuple[float, float]:
        """The fractions of E[σ²] of the odd and the even part; (1, 0) for the function 0."""
        scale = max(abs(self.a), abs(self.b))
        if scale == 0:
            return 1.0, 0.0
        a, b = self.a / scale, self.b / scale  # no square overflows
        squares = 2 * (a**2 + b**2)
        return (a + b) ** 2 / squares, (a - b) ** 2 / squares

    def dual(self, q_max: float) -> Dual:
        odd, even = self.fractions
        # the least value of K is (even − odd)·P at θ = π, or a positive one at a smaller θ
        return Dual(None, never_obtuse=even >= odd, parameters=(odd, even))

    def __call__(self, x: Any) -> Any:
        return typed(np.where(x > 0, self.b * x, self.a * x), x)

    def derivative(self, x: Any) -> Any:
        return typed(np.where(x > 0, self.b, self.a), x)

    def moment(self, q: Extended) -> Extended:
        """Return (a² + b²)/2 · q."""
        a, b = extended(self.a), extended(self.b)
        return (a * a + b * b) / 2 * q


def _dual(obtuse_too: bool) -> Callable[..., Any]:
    """Return the factory of `dual` or `acute_dual`.

    obtuse_too : False for a dual of acute pairs only, which is a third faster
    """

    def factory(real: Any) -> Callable[..., tuple[float, float, float]]:
        one, two, zero = real(1), real(2), real(0)
        obtuse_from, two_over_pi = real(OBTUSE), real(2 / math.pi)

        def dual(z: float, w: float, odd: float, even: float) -> tuple[float, float, float]:
            obtuse = obtuse_too and z > obtuse_from
            m = w if obtuse else z
            c = fma(-two, m, one)
            excess = m * angle_excess(m, c)
            rise = fma(-excess, c, two * m)
            scale = (even * two_over_pi) * math.sqrt(fma(-m, m, m))
            slope = scale + scale
            # h = scale·rise/even; if θ = π − φ, z = 1 − m and w = m, then h is cosφ more
            at_right_angle = odd if obtuse else zero
            factor = even - odd if obtuse else one
            part = fma(-scale, rise, factor * m)
            rate = fma(slope if obtuse else -slope, one + excess, odd - even if obtuse else one)
            if not obtuse_too:
                return part, one - part, rate
            return at_right_angle + part, (one - at_right_angle) - part, rate

        return dual

    return factory


dual = per_dtype("dual", _dual(True))
acute_dual = per_dtype("acute_dual", _dual(False))
"""(z, w, odd, even) → (z_K, w_K, K̇/g), each to a few ulp of its value (w_K only if θ > π/2).

`acute_dual` is for pairs with θ ≤ π/2, and does not read w.

With φ = θ or π − θ, whichever is at most π/2, and m = sin²(φ/2):

    sinφ = 2√(m(1−m)),  φ = sinφ (1 + e),  e = m · angle_excess(m, cosφ)
    (sinφ − φ cosφ)/sinφ = 1 − (1 + e)(1 − 2m) = 2m − e(1 − 2m)

which is at least 4m/3: nothing cancels.
"""


@named()
def identity() -> Activation:
    """σ(x) = x."""
    return OneKink("identity", 1.0, 1.0)


@named()
def relu() -> Activation:
    """σ(x) = max(x, 0)."""
    return OneKink("relu", 0.0, 1.0)


@named()
def leaky_relu(alpha: float = 0.01) -> Activation:
    """σ(x) = x for x > 0, alpha·x otherwise."""
    return OneKink(spelled("leaky_relu", alpha), alpha, 1.0)


@named()
def ab_relu(a: float, b: float) -> Activation:
    """σ(x) = a·min(x, 0) + b·max(x, 0)."""
    return OneKink(spelled("ab_relu", a, b), a, b)


@named()
def abs_() -> Activation:
    """σ(x) = |x|."""
    return OneKink("abs", -1.0, 1.0)
