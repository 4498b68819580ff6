"""The activations σ(x) = a·erf(bx) + c: erf, normal_cdf and sigmoid_like.

With A = 1 + 2b²q, κ = 2b²q/A, A' and κ' likewise of q', and sinφ = √(κκ') cosθ,

    K  = (2a²/π) φ + c²,   K̇ = (4a²b²/π) / (√(AA') cosφ)

Source: Williams 1997, *Computing with infinite networks*, eq. 11. Condition: 1 + √(AA')·|δ| for a
relative error δ of z or w, since cos²φ = 1 − κκ' + 4κκ'zw and 1 − κκ' is 1/A + 1/A' − 1/AA'.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Doubles, Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.special import angle_per_sine
from ntk_numba.extended import PI, Extended, extended, stack, where
from ntk_numba.function import Floats, spelled, typed


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    four, half = z.dtype.type(4), z.dtype.type(0.5)
    root_kappa, one_minus_kappa, scale, mean = row[0, 0], row[1, 0], row[2, 0], row[3, 0]
    root_kappas, one_minus_kappas, scales, means = columns[0], columns[1], columns[2], columns[3]
    for j in range(z.size):
        cosine = w[j] - z[j]
        root_product, g = root_kappa * root_kappas[j], scale * scales[j]
        one_minus_product = fma(
            -one_minus_kappa, one_minus_kappas[j], one_minus_kappa + one_minus_kappas[j]
        )
        cos_phi = np.sqrt(fma(four * (root_product * root_product), z[j] * w[j], one_minus_product))
        cosine_k = fma(g * cosine, angle_per_sine(root_product * cosine, cos_phi), mean * means[j])
        zk[j], wk[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
        rate[j] = g / cos_phi


_loop = DualLoop(_fill_row)


@dataclass(frozen=True)
class ErrorFunction(Activation):
    """σ(x) = a·erf(bx) + c."""

    a: float
    b: float
    c: float

    def __call__(self, x: Any) -> Any:
        return typed(self.a * special.erf(self.b * x) + self.c, x)

    def derivative(self, x: Any) -> Any:
        slope = 2 / math.sqrt(math.pi) * self.a * self.b
        return typed(slope * np.exp(-((self.b * x) ** 2)), x)

    def dual(self, q_max: float) -> Dual:
        return Dual(
            _loop,
            never_obtuse=self.c**2 >= self.a**2,  # K falls to c² − (2a²/π) φ at most
            coefficients=self._coefficients,
            curve=self._curve,
            parity=-1 if self.c == 0 else 0,
        )

    def _curve(self, q: Extended) -> Doubles:
        return curve_of(replace(self, name="", b=1.0))(extended(self.b) ** 2 * q)

    def _kappa(self, q: Extended) -> tuple[Extended, Extended]:
        """Return κ and 1 − κ."""
        ratio = 2 * extended(self.b) ** 2 * q
        return ratio / (1 + ratio), 1 / (1 + ratio)

    @property
    def _factor(self) -> Extended:
        """2a²/π."""
        return 2 * extended(self.a) ** 2 / PI

    def moment(self, q: Extended) -> Extended:
        """Return (2a²/π) asin κ + c²."""
        # asin κ, κ/√(1 − κ²) = 2b²q/√(1 + 4b²q), which has no difference
        ratio = 2 * extended(self.b) ** 2 * q
        return self._factor * np.arctan(ratio / np.sqrt(1 + 2 * ratio)) + extended(self.c) ** 2

    def _coefficients(self, q: Extended) -> Extended:
        """Return √κ, 1 − κ, a√(2κ/πK) and c/√K, (4, N)."""
        kappa, one_minus_kappa = self._kappa(q)
        moment = self.moment(q)
        safe = where(moment > 0, moment, 1)
        squared_scale = self._factor * kappa / safe
        squared_scale = where(moment > 0, squared_scale, 1)  # the limit for q → 0
        return stack(
            [np.sqrt(kappa), one_minus_kappa, np.sqrt(squared_scale), self.c / np.sqrt(safe)]
        )


@named()
def normal_cdf() -> Activation:
    """σ(x) = Φ(x), the distribution function of N(0, 1)."""
    return ErrorFunction("normal_cdf", 0.5, math.sqrt(0.5), 0.5)


@named()
def sigmoid_like() -> Activation:
    """σ(x) = ½erf(x/2.4020563531719796) + ½, near 1/(1 + e^-x)."""
    # neural-tangents' `Sigmoid_like`
    return ErrorFunction("sigmoid_like", 0.5, 1 / 2.4020563531719796, 0.5)


@named()
def erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Activation:
    """σ(x) = a·erf(b·x) + c."""
    return ErrorFunction(spelled("erf", a, b, c) if (a, b, c) != (1, 1, 0) else "erf", a, b, c)
