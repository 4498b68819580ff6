"""The Gabor function σ(x) = exp(−x²) sin x.

With S = q + q', d = 4(P² − s²), E = 1 + 2S + d, h = 1 + 2S + 4(s² + P²), t = 4s(d + 3S + 2),

    K  = exp(−(S + d)/2E) sinh(s/E)/√E
    K̇ = exp(−(S + d)/2E) [h cosh(s/E) + t sinh(s/E)]/E^(5/2)

which are E[exp(−u² − v²) sin u sin v] and its derivative by s. Nothing in K̇ cancels, and |s|/E is
at most ¼. With A = 1 + 4q, x = 4q/√A, y = √(q/A), A', x' and y' likewise of q', and R = E/√(AA'),
the loop computes

    R₀ = 1 + (√A − √A')²/(2√(AA')),  R = R₀ + xx'zw,  s/E = yy' cosθ/R
    S/√(AA') = (R₀ − 1/√(AA'))/2,    d/√(AA') = xx'zw,  4P²/√(AA') = xx'/4

in which nothing overflows.

Source: derived here. The factor exp(−u² − v²) turns a Gaussian of covariance C into one of
covariance C(I + 2C)⁻¹, divided by √E with E = det(I + 2C), and sin u sin v is half the difference
of the cosines of u − v and u + v. Condition: 1.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, polynomial
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.special import exponentials
from ntk_numba.extended import Extended, stack, where
from ntk_numba.function import Floats, typed

# sinh(t)/t and cosh t as Taylor polynomials in t² ≤ 1/16, to 1e-17
sinh_per = polynomial(tuple(1 / math.factorial(2 * k + 1) for k in range(5, -1, -1)))
cosh = polynomial(tuple(1 / math.factorial(2 * k) for k in range(6, -1, -1)))


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, half, quarter, three_halves = real(1), real(0.5), real(0.25), real(1.5)
    x_row, root_a_minus_one, per_fourth_root = row[0, 0], row[1, 0], row[2, 0]
    y_row, scale = row[3, 0], row[4, 0]
    x_columns, root_a_minus_ones, per_fourth_roots = columns[0], columns[1], columns[2]
    y_columns, scales = columns[3], columns[4]
    for j in range(z.size):
        cosine = w[j] - z[j]
        cosine_squared = cosine * cosine
        per_root_aa = per_fourth_root * per_fourth_roots[j]
        difference = (root_a_minus_one - root_a_minus_ones[j]) * per_root_aa
        r_0 = fma(half * difference, difference, one)  # R₀
        x_product = x_row * x_columns[j]
        d = x_product * (z[j] * w[j])
        r = r_0 + d
        per_r = one / r
        per_root_r = per_r * np.sqrt(r)  # 1/√R
        s_over_e = y_row * y_columns[j] * (cosine * per_r)
        s_over_e *= s_over_e  # (s/E)²
        s_scaled = fma(half, fma(-per_root_aa, per_root_aa, r_0), d)
        k, _ = exponentials(-half * (s_scaled * per_r))
        k *= (scale * scales[j]) * (per_root_r * per_r)
        sinh_ratio = sinh_per(s_over_e)
        cosine_k = k * (sinh_ratio * cosine)
        zk[j], wk[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
        quarter_x_per_r = quarter * x_product * per_r
        h = fma(quarter_x_per_r, one + cosine_squared, r_0 * per_r)
        t = (
            quarter_x_per_r
            * cosine_squared
            * (fma(three_halves, r_0, fma(half * per_root_aa, per_root_aa, d)) * per_r)
        )
        rate[j] = k * fma(h, cosh(s_over_e), t * sinh_ratio)


_loop = DualLoop(_fill_row)


@dataclass(frozen=True)
class Gabor(Activation):
    """σ(x) = exp(−x²) sin x."""

    def dual(self, q_max: float) -> Dual:
        return Dual(
            _loop,
            never_obtuse=False,
            coefficients=self._coefficients,
            curve=curve_of(self),
            parity=-1,
        )

    def __call__(self, x: Any) -> Any:
        return typed(np.exp(-x * x) * np.sin(x), x)

    def derivative(self, x: Any) -> Any:
        return typed(np.exp(-x * x) * (np.cos(x) - 2 * x * np.sin(x)), x)

    def moment(self, q: Extended) -> Extended:
        """Return exp(−q/A) sinh(q/A)/√A."""
        a = 1 + 4 * q
        return -np.expm1(-2 * q / a) / (2 * np.sqrt(a))

    def _coefficients(self, q: Extended) -> Extended:
        """Return x, √A − 1, A^-¼, y and √(q/(A√A K)), (5, N)."""
        a = 1 + 4 * q
        root = np.sqrt(a)
        q_over_a = q / a
        safe = where(q_over_a > 0, q_over_a, 1)
        squared_scale = where(
            q_over_a > 0, -2 * safe / np.expm1(-2 * safe), 1
        )  # the limit for q → 0
        return stack(
            [
                4 * q / root,
                4 * q / (1 + root),
                1 / np.sqrt(root),
                np.sqrt(q_over_a),
                np.sqrt(squared_scale),
            ]
        )


@named()
def gabor() -> Activation:
    """σ(x) = exp(−x²)·sin(x)."""
    return Gabor("gabor")
