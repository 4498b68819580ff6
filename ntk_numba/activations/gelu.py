"""GELU without approximation: σ(x) = xΦ(x), Φ the normal distribution function.

With e = 1/(1+q), α = q/(1+q), e' and α' likewise of q', P = √(qq'), m = √(αα'), x = m cosθ and

    C² = 1 − x² = e + e' − ee' + 4m²zw

    K  = P·[cosθ/4 + (m cos²θ ee'/C + mC + cosθ asin x)/2π]
    K̇ = ¼ + [asin x + (x/C)(ee'/C² + e + e')]/2π

For large q, GELU differs from ReLU by a fraction e^(3/2), and angles between parallel samples are
of that order. Hence K = P(½ − D): with sinφ = C, cosφ = |x|, and φ/C = 1 + ε,

    D = min(z, ½) + (C/2π)[(1 − m²)/(1 + m) − 2 min(z, w) + |cosθ| ε − m cos²θ ee'/C²]

where 1 − m² = e + e' − ee'. With D₁, D₂ the values of D for (q, q) and (q', q') at θ = 0, and
hᵢ = 1 − √(1 − 2Dᵢ),

    z_K = (2D − h₁ − h₂ + h₁h₂)/(2√((1 − 2D₁)(1 − 2D₂)))

has the rounding error of D, which is small, and not that of 1.

Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021, *Avoiding kernel fixed points:
computing with ELU and GELU infinite networks*, in other variables. No term cancels near θ = 0.
Condition: 1.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.special import angle_excess
from ntk_numba.extended import PI, Extended, stack, where, whole
from ntk_numba.function import Floats, typed

SMALLEST_E = 1e-30  # smaller e are replaced by this, so that C is not 0 in float32


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, quarter, four = real(1), real(2), real(0.5), real(0.25), real(4)
    zero, per_two_pi, right_angle = real(0), real(0.5 / np.pi), real(0.5 * np.pi)
    root_alpha, e, h, norm = row[0, 0], row[1, 0], row[2, 0], row[3, 0]
    root_alphas, es, hs, norms = columns[0], columns[1], columns[2], columns[3]
    for j in range(z.size):
        cosine = w[j] - z[j]
        abs_cosine, smallest = abs(cosine), smaller(z[j], w[j])
        m, norm_product = root_alpha * root_alphas[j], norm * norms[j]
        e_product, e_sum = e * es[j], e + es[j]
        one_minus_m_squared = e_sum - e_product
        c = np.sqrt(fma(four * (m * m), z[j] * w[j], one_minus_m_squared))
        x = m * abs_cosine
        per_all = one / (c * (one + m) * (one + x))
        per_c, per_m = per_all * (one + m) * (one + x), per_all * c * (one + x)
        sin_squared_half_phi = half * c * c * (per_all * c * (one + m))
        epsilon = sin_squared_half_phi * angle_excess(sin_squared_half_phi, x)
        bracket = fma(-two, smallest, one_minus_m_squared * per_m) + abs_cosine * epsilon
        bracket = fma(-(x * abs_cosine), (e_product * per_c) * per_c, bracket)
        d = fma(per_two_pi * c, bracket, smallest if z[j] <= w[j] else half)
        h_sum = fma(-h, hs[j], h + hs[j])
        zk[j] = half * norm_product * fma(two, d, -h_sum)
        wk[j] = one - zk[j]
        slope = (
            right_angle - fma(c, epsilon, c) + (x * per_c) * fma(e_product * per_c, per_c, e_sum)
        )
        rate[j] = norm_product * two * fma(per_two_pi, -slope if cosine < zero else slope, quarter)


_loop = DualLoop(_fill_row)


@dataclass(frozen=True)
class Gelu(Activation):
    """σ(x) = xΦ(x)."""

    def dual(self, q_max: float) -> Dual:
        # for small q, σ(x) is nearly x/2, so that opposite samples stay opposite
        return Dual(
            _loop, never_obtuse=False, coefficients=self._coefficients, curve=curve_of(self)
        )

    def __call__(self, x: Any) -> Any:
        return typed(x * special.ndtr(x), x)

    def derivative(self, x: Any) -> Any:
        density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return typed(special.ndtr(x) + x * density, x)

    def _d_of_itself(self, q: Extended) -> Extended:
        """Return D of (q, q) at θ = 0."""
        e, alpha = 1 / (1 + q), q / (1 + q)
        c = np.sqrt(e * (1 + alpha))
        epsilon = where(c < 0.1, _asin_excess(np.minimum(c, 0.1)), np.arctan(c / alpha) / c - 1)
        bracket = e + epsilon - alpha * e / (1 + alpha)
        return c / (2 * PI) * bracket

    def moment(self, q: Extended) -> Extended:
        return q * (0.5 - self._d_of_itself(q))

    def _coefficients(self, q: Extended) -> Extended:
        """Return √α, e, h and 1/√(1 − 2D), (4, N)."""
        two_d = 2 * self._d_of_itself(q)
        root = np.sqrt(1 - two_d)
        e = np.maximum(1 / (1 + q), SMALLEST_E)
        return stack([np.sqrt(q / (1 + q)), e, two_d / (1 + root), 1 / root])


def _asin_excess(c: Extended) -> Extended:
    """Return asin(c)/c − 1 for c ≤ 0.1, by its series."""
    square = c * c
    total = 0 * c
    for k in range(11, 0, -1):
        total = square * (total + whole(math.comb(2 * k, k)) / whole(4**k * (2 * k + 1)))
    return total


@named()
def gelu() -> Activation:
    """σ(x) = xΦ(x), Φ the normal distribution function."""
    return Gelu("gelu")
