"""σ(x) = xΦ(x), Φ the normal distribution function: GELU without approximation.

With e = 1/(1+q), α = q/(1+q), the same of q', P = √(qq'), m = √(αα'), x = m cosθ and

    C² = 1 − x² = e + e' − ee' + 4m²zw

    K  = P·[cosθ/4 + (m cos²θ ee'/C + mC + cosθ asin x)/2π]
    K̇ = ¼ + [asin x + (x/C)(ee'/C² + e + e')]/2π

For large q, GELU is ReLU but for a share of e^(3/2), and so are angles between parallel samples.
Hence K = P(½ − D): with sinφ = C, cosφ = |x|, and φ/C = 1 + ε,

    D = min(z, ½) + (C/2π)[(1 − m²)/(1 + m) − 2 min(z, w) + |cosθ| ε − m cos²θ ee'/C²]

where 1 − m² = e + e' − ee'. With D₁, D₂ those of (q, q) and (q', q') and hᵢ = 1 − √(1 − 2Dᵢ),

    z_K = (2D − h₁ − h₂ + h₁h₂)/(2√((1 − 2D₁)(1 − 2D₂)))

loses digits of D and not of 1.

Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021, *Avoiding kernel fixed points:
computing with ELU and GELU infinite networks*, in other variables. No term cancels near θ = 0.
Condition: 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.special import angle_excess
from ntk_numba.function import Floats

LEAST = 1e-30  # that e counts as, so that C is not 0 in float32


def _row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, quarter, four = real(1), real(2), real(0.5), real(0.25), real(4)
    none, turn, right = real(0), real(0.5 / np.pi), real(0.5 * np.pi)
    root, rest, less, share = row[0, 0], row[1, 0], row[2, 0], row[3, 0]
    roots, rests, lesses, shares = columns[0], columns[1], columns[2], columns[3]
    for j in range(z.size):
        cosine = w[j] - z[j]
        size, smallest = abs(cosine), smaller(z[j], w[j])
        m, g = root * roots[j], share * shares[j]
        both, either = rest * rests[j], rest + rests[j]
        left = either - both  # 1 − m²
        c = np.sqrt(fma(four * (m * m), z[j] * w[j], left))
        x = m * size
        per_all = one / (c * (one + m) * (one + x))
        per_c, per_m = per_all * (one + m) * (one + x), per_all * c * (one + x)
        part = half * c * c * (per_all * c * (one + m))  # sin²(φ/2)
        excess = part * angle_excess(part, x)
        bulge = fma(-two, smallest, left * per_m) + size * excess
        bulge = fma(-(x * size), (both * per_c) * per_c, bulge)
        d = fma(turn * c, bulge, smallest if z[j] <= w[j] else half)
        parts = fma(-less, lesses[j], less + lesses[j])
        zk[j] = half * g * fma(two, d, -parts)
        wk[j] = one - zk[j]
        slope = right - fma(c, excess, c) + (x * per_c) * fma(both * per_c, per_c, either)
        rate[j] = g * two * fma(turn, -slope if cosine < none else slope, quarter)


_loop = DualLoop(_row)


@dataclass(frozen=True)
class Gelu(Activation):
    """σ(x) = xΦ(x)."""

    def dual(self, q_max: float) -> Dual:
        # for small q, σ(x) is x/2, so that opposite samples stay opposite
        return Dual(
            _loop, never_obtuse=False, coefficients=self._coefficients, curve=curve_of(self)
        )

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(x * special.ndtr(x), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
        return np.asarray(special.ndtr(x) + x * density, x.dtype)

    def _lack(self, q: Floats) -> Floats:
        """D of (q, q) at θ = 0."""
        rest, alpha = 1 / (1 + q), q / (1 + q)
        c = np.sqrt(rest * (1 + alpha))
        excess = np.where(c < 0.1, _asin_excess(np.minimum(c, 0.1)), np.arctan2(c, alpha) / c - 1)
        bulge = rest + excess - alpha * rest / (1 + alpha)
        return np.asarray(c / (8 * np.arctan(q.dtype.type(1))) * bulge)

    def second_moment(self, q: Floats) -> Floats:
        return np.asarray(q * (0.5 - self._lack(q)))

    def _coefficients(self, q: Floats) -> Floats:
        """√α, e, h and 1/√(1 − 2D)."""
        lack = 2 * self._lack(q)
        root = np.sqrt(1 - lack)
        rest = np.maximum(1 / (1 + q), LEAST)
        return np.stack([np.sqrt(q / (1 + q)), rest, lack / (1 + root), 1 / root])


def _asin_excess(c: Floats) -> Floats:
    """asin(c)/c − 1, c ≤ 0.1, by its series."""
    terms = [math.comb(2 * k, k) / (4**k * (2 * k + 1)) * c ** (2 * k) for k in range(11, 0, -1)]
    return np.asarray(sum(terms))


@named()
def gelu() -> Activation:
    """σ(x) = xΦ(x), Φ the normal distribution function."""
    return Gelu("gelu")
