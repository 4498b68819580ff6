"""The activation σ(x) = max(x, 0)ⁿ, rectified_monomial, with the arc-cosine kernels of degree n.

    K = Pⁿ Jₙ(θ)/2π,   K̇ = n² Pⁿ⁻¹ Jₙ₋₁(θ)/2π,   Jₙ(0) = (2n − 1)!! π
    J₀ = π − θ,   J₁ = sinθ + (π − θ) cosθ

The function is homogeneous, so cosθ_K = κₙ = Jₙ(θ)/Jₙ(0) depends on θ alone, and the rate is
n²/(2n − 1) κₙ₋₁. The recurrence Jₙ₊₁ = (2n + 1) cosθ Jₙ + n² sin²θ Jₙ₋₁ becomes a recurrence of
zₙ = (1 − κₙ)/2 in which, up to a right angle, nothing cancels: with a = n²/(4n² − 1),

    z₀ = θ/2π,   z₁ = z − h/2 (h of `one_kink`)
    zₙ₊₁ = (1 − 2aw) z + cosθ zₙ + 4azw zₙ₋₁

Source: Cho & Saul 2009, eq. 3 to 9; the recurrence follows from their
Jₙ = (−1)ⁿ sin²ⁿ⁺¹θ ((1/sinθ) ∂/∂θ)ⁿ ((π − θ)/sinθ) and is checked in the tests. Condition: n.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_numba.activations.one_kink import dual, relu
from ntk_numba.activations.polynomial import whole_degree
from ntk_numba.activations.registry import named
from ntk_numba.activations.step import heaviside
from ntk_numba.compiled.intrinsics import fma, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.special import angle_excess
from ntk_numba.extended import Extended, whole
from ntk_numba.function import Floats, spelled, typed


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, per_pi = real(1), real(2), real(0.5), real(1 / math.pi)
    degree = int(parameters[0])
    # zk and rate hold zₙ of two successive degrees, at first 1 and 0
    for j in range(z.size):
        m = smaller(z[j], w[j])
        # θ/2π or (π − θ)/2π, whichever is smaller
        small_angle = (
            per_pi * np.sqrt(fma(-m, m, m)) * fma(m, angle_excess(m, fma(-two, m, one)), one)
        )
        rate[j] = half - small_angle if z[j] > w[j] else small_angle
        zk[j], _, _ = dual(z[j], w[j], half, half)
    for n in range(1, degree):
        n_squared = real(n * n)
        two_a = two * (n_squared / (real(4) * n_squared - one))
        for j in range(z.size):
            z_before = rate[j]
            rate[j] = zk[j]
            sum_of_two = fma(two * (two_a * z[j]) * w[j], z_before, fma(-two_a, w[j], one) * z[j])
            zk[j] = fma(w[j] - z[j], zk[j], sum_of_two)
    slope = real(degree * degree) / real(2 * degree - 1)
    for j in range(z.size):
        wk[j] = one - zk[j]
        rate[j] = slope * fma(-two, rate[j], one)


_loop = DualLoop(_fill_row)


@dataclass(frozen=True)
class RectifiedMonomial(Activation):
    """σ(x) = max(x, 0)ⁿ, n ≥ 1."""

    degree: int

    @property
    def facts(self) -> Facts:
        return Facts(domain="any q for which qⁿ is in the range of the dtype")

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,)

    def dual(self, q_max: float) -> Dual:
        return Dual(_loop, never_obtuse=True, parameters=(float(self.degree),))  # σ ≥ 0

    def __call__(self, x: Any) -> Any:
        return typed(np.maximum(x, 0) ** self.degree, x)

    def derivative(self, x: Any) -> Any:
        slope = self.degree * np.maximum(x, 0) ** (self.degree - 1)
        return typed(np.where(x > 0, slope, 0), x)

    def moment(self, q: Extended) -> Extended:
        """Return (2n − 1)!!/2 · qⁿ."""
        odds = math.prod(range(1, 2 * self.degree, 2))
        return whole(odds) / 2 * q**self.degree


@named()
def rectified_monomial(n: float = 2.0) -> Activation:
    """σ(x) = max(x, 0)ⁿ for n = 0, 1, …, 20; 0 at 0."""
    degree = whole_degree("rectified_monomial", n, 0)
    if degree < 2:
        return relu() if degree == 1 else heaviside()
    return RectifiedMonomial(spelled("rectified_monomial", n), degree)
