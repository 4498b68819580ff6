"""ELU, SELU and CELU: linear for x > 0, an exponential that tends to a constant for x < 0.

    σ(x) = p x for x > 0,  pλτ(exp(x/τ) − 1) for x ≤ 0

With a = √q/τ, b = √q'/τ, Ω = π − θ and e(y) = √(π/2) exp(y²/2) erfc(y/√2), the integrals over the
quadrant u, v < 0 are, in polar coordinates and with the integral over the radius done,

    N(a, b) = E[exp(aX + bY); X, Y < 0] = (1/2π) ∫_0^Ω (1 − y e(y)) dχ,  y = α + β,
              α = a sinχ,  β = b sin(Ω − χ)
    D(a, b) = E[(exp(aX) − 1)(exp(bY) − 1); X, Y < 0]
            = (1/2π) ∫_0^Ω (α(e(α) − e(y)) + β(e(β) − e(y))) dχ

With g(a) = E[exp(aX); X < 0 < Y] = e(a)/√(2π) − N(a, 0) and Stein's identity,

    K/(p²τ²ab) = (sinθ + Ω cosθ)/2π + λ² D/ab
                 + λ [cosθ (g(a) + g(b)) − (sinθ/2π)(ε(a sinθ) + ε(b sinθ))]
    K̇/p² = Ω/2π + λ² N(a, b) + λ (g(a) + g(b)),   ε(y) = (e(0) − e(y))/y

For small variances the integrals come from a table (`elu_table`), for larger ones from
Gauss-Legendre rules over the angle (`elu_integral`).

Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021, *Avoiding kernel fixed points*,
by the bivariate normal distribution; the integral over the angle is derived here. Condition: 1.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import special

from ntk_numba.activations import elu_integral, elu_table
from ntk_numba.activations.one_kink import relu
from ntk_numba.activations.registry import named
from ntk_numba.duals.base import Activation, Doubles, Dual, Facts
from ntk_numba.duals.curve import curve_of
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import PI, ROOT_TWO, Extended, concatenate, extended, stack, where, whole
from ntk_numba.function import spelled, typed

TAYLOR, TERMS = 0.25, 24  # for a < TAYLOR, E[σ²] is a Taylor series of TERMS terms


@cache
def _taylor(k: int) -> Extended:
    """Return (2^k − 2) E[|X|^k; X < 0]/k!, where the mean is (k − 1) times that of k − 2."""
    mean = extended(0.5) if k % 2 == 0 else 1 / np.sqrt(2 * PI)
    for n in range(k, 1, -2):
        mean = mean * (n - 1)
    return whole(2**k - 2) * mean / whole(math.factorial(k))


@dataclass(frozen=True)
class Elu(Activation):
    """σ(x) = p x for x > 0, pλτ(exp(x/τ) − 1) for x ≤ 0."""

    p: float
    lam: float  # λ
    tau: float

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def facts(self) -> Facts:
        return Facts(needs_largest=True)

    def dual(self, q_max: float) -> Dual:
        largest = q_max / self.tau**2
        small = q_max <= elu_table.LARGEST * self.tau**2
        return Dual(
            elu_table.loop if small else elu_integral.loop,
            never_obtuse=self.lam <= 0,  # σ ≥ 0
            parameters=(
                elu_table.parameters(self.lam)
                if small
                else elu_integral.parameters(self.lam, largest)
            ),
            coefficients=self._table_coefficients if small else self._coefficients,
            curve=self._curve,
        )

    def __call__(self, x: Any) -> Any:
        low = self.lam * self.tau * np.expm1(np.minimum(x, 0) / self.tau)
        return typed(self.p * np.where(x > 0, x, low), x)

    def derivative(self, x: Any) -> Any:
        low = self.lam * np.exp(np.minimum(x, 0) / self.tau)
        return typed(self.p * np.where(x > 0, 1, low), x)

    def _curve(self, q: Extended) -> Doubles:
        return curve_of(Elu("", 1.0, self.lam, 1.0))(q / extended(self.tau) ** 2)

    def _of_samples(self, q: Extended) -> tuple[Extended, Extended, Extended]:
        """Return a, e(a)/√(2π) and E[σ²]/(p²q) = ½ + λ² E[(1 − exp(−a|X|))²/a²; X < 0]."""
        a = np.sqrt(q) / self.tau
        axis = special.erfcx(a / ROOT_TWO) / 2
        small_a, safe = np.minimum(a, TAYLOR), np.maximum(a, TAYLOR)
        series = 0 * q
        for k in range(TERMS - 1, 1, -1):
            series = _taylor(k) - small_a * series
        tails = special.erfcx(safe * ROOT_TWO) - 4 * axis + 1
        of_low = where(a < TAYLOR, series, tails / 2 / (safe * safe))
        return a, axis, extended(self.lam) ** 2 * of_low + 0.5

    def moment(self, q: Extended) -> Extended:
        return extended(self.p) ** 2 * q * self._of_samples(q)[2]

    def _coefficients(self, q: Extended) -> Extended:
        """Return the coefficients of `elu_integral.loop`, (3, N)."""
        a, axis, ratio = self._of_samples(q)
        return stack([a, axis, 1 / np.sqrt(ratio)])

    def _table_coefficients(self, q: Extended) -> Extended:
        own = self._coefficients(q)
        return concatenate([own, elu_table.coefficients(self.lam, own[0], own[1])])


@named()
def elu_(alpha: float = 1.0) -> Activation:
    """σ(x) = x for x > 0, alpha·(exp(x) − 1) else."""
    if alpha == 0:
        return relu()
    return Elu("elu" if alpha == 1 else spelled("elu", alpha), 1.0, alpha, 1.0)


@named()
def selu() -> Activation:
    """σ(x) = 1.0507·x for x > 0, 1.7581·(exp(x) − 1) else."""
    # Klambauer, Unterthiner, Mayr & Hochreiter 2017, *Self-normalizing neural networks*
    return Elu("selu", 1.0507009873554804934193349852946, 1.6732632423543772848170429916717, 1.0)


@named()
def celu(alpha: float = 1.0) -> Activation:
    """σ(x) = x for x > 0, alpha·(exp(x/alpha) − 1) else; alpha > 0."""
    if not alpha > 0:
        raise InvalidValueError(f"activation celu: alpha must be positive, not {alpha}")
    return Elu("celu" if alpha == 1 else spelled("celu", alpha), 1.0, 1.0, alpha)
