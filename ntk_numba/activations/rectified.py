"""σ(x) = max(x, 0)ⁿ: rectified_monomial, the arc-cosine kernels of degree n.

    K = Pⁿ Jₙ(θ)/2π,   K̇ = n² Pⁿ⁻¹ Jₙ₋₁(θ)/2π,   Jₙ(0) = (2n − 1)!! π
    J₀ = π − θ,   J₁ = sinθ + (π − θ) cosθ

The function is homogeneous, so cosθ_K = κₙ = Jₙ(θ)/Jₙ(0) is one of θ alone, and the rate is
n²/(2n − 1) κₙ₋₁. With J's recurrence Jₖ₊₁ = (2k + 1) cosθ Jₖ + k² sin²θ Jₖ₋₁,

    κₖ₊₁ = cosθ κₖ + k²/(4k² − 1) sin²θ κₖ₋₁

All terms are positive up to a right angle, and |cosθ| + sin²θ/3 ≤ 1 beyond, where errors of some n
roundings remain, relative to 1 and not to what is left of κ near θ = π.

Source: Cho & Saul 2009, eq. 3 to 9; the recurrence follows from their
Jₙ = (−1)ⁿ sin²ⁿ⁺¹θ ((1/sinθ) ∂/∂θ)ⁿ ((π − θ)/sinθ) and is checked in the tests. Condition: n, of
κₙ as of its slope at θ = 0.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ntk_numba.activations.base import Activation, Floats, spelled
from ntk_numba.activations.piecewise_linear import relu
from ntk_numba.activations.special import angle_excess
from ntk_numba.activations.step import heaviside
from ntk_numba.jit import fma, smaller
from ntk_numba.row import Row

HIGHEST = 20  # degree


def _row(
    z: Floats, w: Floats, zk: Floats, wk: Floats, rate: Floats,
    mine: Floats, theirs: Floats, parameters: Floats,
) -> None:  # fmt: skip
    one, two, four, half = z.dtype.type(1), z.dtype.type(2), z.dtype.type(4), z.dtype.type(0.5)
    two_over_pi = z.dtype.type(2 / math.pi)
    degree = int(parameters[0])
    # zk and rate hold κ of two successive degrees, here 0 and 1
    for j in range(z.size):
        m = smaller(z[j], w[j])
        sine = two_over_pi * np.sqrt(fma(-m, m, m))  # sinθ/π
        angle = sine * fma(m, angle_excess(m, fma(-two, m, one)), one)
        rest = angle if z[j] > w[j] else one - angle  # (π − θ)/π
        rate[j], zk[j] = rest, fma(rest, w[j] - z[j], sine)
    for k in range(1, degree):
        square = z.dtype.type(k * k)
        factor = four * (square / (four * square - one))
        for j in range(z.size):
            below = rate[j]
            rate[j] = zk[j]
            zk[j] = fma(w[j] - z[j], zk[j], (factor * (z[j] * w[j])) * below)
    slope = z.dtype.type(degree * degree) / z.dtype.type(2 * degree - 1)
    for j in range(z.size):
        k = zk[j]
        zk[j], wk[j] = fma(-half, k, half), fma(half, k, half)
        rate[j] = slope * rate[j]


@dataclass(frozen=True)
class RectifiedMonomial(Activation):
    """σ(x) = max(x, 0)ⁿ, n ≥ 1."""

    degree: int

    row: ClassVar[Row] = Row(_row)
    domain: ClassVar[str] = "any q of which qⁿ is in the range of the dtype"

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def parameters(self) -> tuple[float, ...]:
        return (float(self.degree),)

    @property
    def never_obtuse(self) -> bool:
        """σ ≥ 0."""
        return True

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.maximum(x, 0) ** self.degree, x.dtype)

    def derivative(self, x: Floats) -> Floats:
        slope = self.degree * np.maximum(x, 0) ** (self.degree - 1)
        return np.asarray(np.where(x > 0, slope, 0), x.dtype)

    def second_moment(self, q: Floats) -> Floats:
        """(2n − 1)!!/2 · qⁿ."""
        odds = math.prod(range(1, 2 * self.degree, 2))
        return np.asarray(q.dtype.type(odds) / 2 * q**self.degree, q.dtype)

    def all_traits(self, q: Floats) -> Floats:
        """Zeros: a homogeneous function does not turn with the variance (see `curve`)."""
        return np.zeros((2, q.size), q.dtype)


def rectified_monomial(n: float = 2.0) -> Activation:
    """σ(x) = max(x, 0)ⁿ for n = 0, 1, … 20; 0 at 0."""
    if n != int(n) or not 0 <= n <= HIGHEST:
        raise ValueError(
            f"rectified_monomial: the degree is a whole number 0 to {HIGHEST}, not {n}"
        )
    if n < 2:
        return relu() if n == 1 else heaviside()
    return RectifiedMonomial(spelled("rectified_monomial", n), int(n))
