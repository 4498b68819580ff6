"""The activations σ(x) = a·erf(bx) + c: erf, normal_cdf and sigmoid_like.

With A = 1 + 2b²q, κ = 2b²q/A, A' and κ' likewise of q', and sinφ = √(κκ') cosθ,

    K  = (2a²/π) φ + c²,   K̇ = (4a²b²/π) / (√(AA') cosφ)

Source: Williams 1997, *Computing with infinite networks*, eq. 11. Condition: 1 + √(AA')·|δ| for a
relative error δ of z or w, since cos²φ = 1 − κκ' + 4κκ'zw and 1 − κκ' is 1/A + 1/A' − 1/AA'.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.special import angle_per_sine
from ntk_numba.function import Floats, spelled


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

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(self.a * special.erf(self.b * x) + self.c, x.dtype)

    def derivative(self, x: Floats) -> Floats:
        slope = 2 / np.sqrt(np.pi) * self.a * self.b
        return np.asarray(slope * np.exp(-((self.b * x) ** 2)), x.dtype)

    def dual(self, q_max: float) -> Dual:
        return Dual(
            _loop,
            never_obtuse=self.c**2 >= self.a**2,  # K falls to c² − (2a²/π) φ at most
            coefficients=self._coefficients,
            curve=self._curve,
            parity=-1 if self.c == 0 else 0,
        )

    def _curve(self, q: Floats) -> Floats:
        return curve_of(replace(self, name="", b=1.0))(q.dtype.type(self.b) ** 2 * q)

    def _kappa(self, q: Floats) -> tuple[Floats, Floats]:
        """Return κ and 1 − κ."""
        ratio = 2 * q.dtype.type(self.b) ** 2 * q
        return ratio / (1 + ratio), 1 / (1 + ratio)

    def second_moment(self, q: Floats) -> Floats:
        """Return (2a²/π) asin κ + c²."""
        a, c = q.dtype.type(self.a), q.dtype.type(self.c)
        kappa, _ = self._kappa(q)
        return np.asarray(2 * a**2 / (4 * np.arctan(q.dtype.type(1))) * np.arcsin(kappa) + c**2)

    def _coefficients(self, q: Floats) -> Floats:
        """Return √κ, 1 − κ, a√(2κ/πK) and c/√K, (4, N)."""
        kappa, one_minus_kappa = self._kappa(q)
        moment = self.second_moment(q)
        safe = np.where(moment > 0, moment, 1)
        squared_scale = (
            2 * q.dtype.type(self.a) ** 2 / (4 * np.arctan(q.dtype.type(1))) * kappa / safe
        )
        squared_scale = np.where(moment > 0, squared_scale, 1)  # the limit for q → 0
        return np.stack(
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
