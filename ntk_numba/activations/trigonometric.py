"""The activations σ(x) = p·sin(bx) + r·cos(bx): sin and cos of any phase, and rbf.

With P = √(qq'), the fractions odd = p²/(p² + r²) and even = r²/(p² + r²), g = (p² + r²)/2 and

    E₋ = exp(−b²(q + q' − 2s)/2) = exp(−b²[(√q − √q')² + 4Pz]/2)
    E₊ = exp(−b²(q + q' + 2s)/2) = exp(−b²[(√q − √q')² + 4Pw]/2)

the kernels are

    K  = g·[odd·(E₋ − E₊) + even·(E₋ + E₊)]
    K̇ = gb²·[odd·(E₋ + E₊) + even·(E₋ − E₊)]

Source: Rahimi & Recht 2007, *Random features for large-scale kernel machines*, for even = odd;
otherwise by 2 sin u sin v = cos(u − v) − cos(u + v) and E[cos l] = exp(−Var(l)/2). E₋ − E₊ is
∓E± expm1(−2b²|s|), so that K is accurate also where it is as small as b²P. Condition: 1 + |b|√q,
since an error ε of an angle changes b²s by ε b²P.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ntk_numba.activations import exponential
from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, larger, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Doubles, Dual
from ntk_numba.duals.curve import Curve
from ntk_numba.duals.special import exponentials
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import Extended, extended, stack
from ntk_numba.function import Floats, spelled, typed

FLAT = 100.0  # for larger b²q, E₊ is negligible and λ is b√q
ROUNDING = 1e-20  # of the numbers in `_Curve.chord`
SMALLEST = 1e-30  # smaller b²q are replaced by this: K/b²q has its limit for q → 0


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    zero, half, two = real(0), real(0.5), real(2)
    odd, even = parameters[0], parameters[1]
    root, norm, root_norm = row[0, 0], row[1, 0], row[2, 0]
    roots, norms, root_norms = columns[0], columns[1], columns[2]
    for j in range(z.size):
        cosine = w[j] - z[j]
        root_difference = root - roots[j]
        smaller_half = smaller(z[j], w[j])
        # in an order that is the same for both samples, and in which no product overflows
        two_first, second = two * larger(root, roots[j]), smaller(root, roots[j])
        e_larger, _ = exponentials(
            -fma(two_first, second * smaller_half, half * (root_difference * root_difference))
        )
        _, exp_minus_one = exponentials(-abs(two_first * (second * cosine)))
        e_sum = fma(e_larger, exp_minus_one, two * e_larger)
        e_larger *= exp_minus_one
        e_difference = e_larger if cosine < zero else -e_larger
        cosine_k = (norm * norms[j]) * fma(odd, e_difference, even * e_sum)
        zk[j], wk[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
        rate[j] = larger(root_norm, root_norms[j]) * (
            smaller(root_norm, root_norms[j]) * fma(odd, e_sum, even * e_difference)
        )


class _Curve(Curve):
    """The curve for b = 1, from closed forms.

    A quadrature would need more and more nodes as q grows, since the function oscillates.
    """

    def __init__(self, activation: "Sinusoid") -> None:
        super().__init__(activation)
        self._odd, self._even = activation.fractions

    def _norm(self, q: Any) -> Extended:
        """Return K(q)/g."""
        y = extended(2 * q)
        return self._even * (1 + np.exp(-y)) - self._odd * np.expm1(-y)

    def speed(self, q: float) -> float:
        """Return dλ/d ln √q.

        Its square is ½q/(odd·sinh q + even·cosh q)² times

            odd²(sinh 2q − 2q) + 2 odd·even cosh 2q + even²(sinh 2q + 2q)

        which is q ∂²ln⟨f_q, f_q'⟩/∂√q∂√q' at q = q'.
        """
        if q > FLAT:
            return math.sqrt(q)
        odd, even, y = self._odd, self._even, extended(2 * q)
        excess = np.sinh(y) - y if 2 * q > 1 else _sinh_excess(y)
        sinh_q, cosh_q = np.sinh(extended(q)), np.cosh(extended(q))
        total = odd**2 * excess + 2 * odd * even * np.cosh(y) + even**2 * (np.sinh(y) + y)
        return float(np.sqrt(q * total / 2) / (odd * sinh_q + even * cosh_q))

    def chord(self, q: float, q2: float) -> float:
        """Return |f_q − f_q2|², q ≤ q2."""
        y, y2 = extended(q), extended(q2)
        half_square = (np.sqrt(y) - np.sqrt(y2)) ** 2 / 2
        exp_minus_one = np.expm1(-2 * np.sqrt(y * y2))
        k = np.exp(-half_square) * (self._even * (2 + exp_minus_one) - self._odd * exp_minus_one)
        return float(2 - 2 * k / np.sqrt(self._norm(q) * self._norm(q2)))

    def rounding(self, length: float) -> float:
        return ROUNDING / length**2

    def bend(self, q: float) -> float:
        """Return κ/√12."""
        return 0.5 if q > FLAT else super().bend(q)


def _sinh_excess(y: Extended) -> Extended:
    """Return sinh y − y for y ≤ 1, by its series."""
    total = 0 * y
    for k in range(12, 0, -1):
        total = (total + 1) * y * y / (2 * k * (2 * k + 1))
    return total * y


@lru_cache(maxsize=64)
def _curve_of(activation: "Sinusoid") -> _Curve:
    """Return the curve of an activation with b = 1, as `duals.curve.curve_of` does for others."""
    return _Curve(activation)


_loop = DualLoop(_fill_row)


@dataclass(frozen=True)
class Sinusoid(Activation):
    """σ(x) = p·sin(bx) + r·cos(bx)."""

    p: float
    b: float
    r: float

    @property
    def smooth_beyond(self) -> float:
        return math.inf

    @property
    def fractions(self) -> tuple[float, float]:
        """The fractions of E[σ²] of the odd and the even part; (0, 1) for the function 0."""
        scale = max(abs(self.p), abs(self.r))
        if scale == 0:
            return 0.0, 1.0
        p, r = self.p / scale, self.r / scale
        return p**2 / (p**2 + r**2), r**2 / (p**2 + r**2)

    def dual(self, q_max: float) -> Dual:
        odd, even = self.fractions
        return Dual(
            _loop,
            # K/g = E₋ + (even − odd)E₊
            never_obtuse=even >= odd,
            parameters=(odd, even),
            coefficients=self._coefficients,
            curve=self._curve,
            parity=1 if self.p == 0 else -1 if self.r == 0 else 0,
        )

    def __call__(self, x: Any) -> Any:
        return typed(self.p * np.sin(self.b * x) + self.r * np.cos(self.b * x), x)

    def derivative(self, x: Any) -> Any:
        p, r = self.b * self.p, self.b * self.r
        return typed(p * np.cos(self.b * x) - r * np.sin(self.b * x), x)

    def moment(self, q: Extended) -> Extended:
        """Return [p²(1 − exp(−2b²q)) + r²(1 + exp(−2b²q))]/2."""
        p, b, r = (extended(v) for v in (self.p, self.b, self.r))
        y = -2 * b**2 * q
        return (r**2 * (1 + np.exp(y)) - p**2 * np.expm1(y)) / 2

    def _curve(self, q: Extended) -> Doubles:
        odd, even = (math.sqrt(v) for v in self.fractions)
        return _curve_of(Sinusoid("", odd, 1.0, even))(extended(self.b) ** 2 * q)

    def _coefficients(self, q: Extended) -> Extended:
        """Return |b|√q, √(g/K) and their product, (3, N)."""
        odd, even = self.fractions
        y = np.maximum(extended(self.b) ** 2 * q, SMALLEST)
        root = np.sqrt(y)
        norm = 1 / np.sqrt(even * (1 + np.exp(-2 * y)) - odd * np.expm1(-2 * y))
        return stack([root, norm, root * norm])


@dataclass(frozen=True)
class Rbf(Sinusoid):
    """σ(x) = sin(bx) + cos(bx), whose K depends on q + q' − 2s alone."""

    def dual(self, q_max: float) -> Dual:
        return Dual(exponential.loop, never_obtuse=True, coefficients=self._coefficients)

    def _coefficients(self, q: Extended) -> Extended:
        return exponential.split_root(abs(self.b) * np.sqrt(q))


def _sine_and_cosine(phase: float) -> tuple[float, float]:
    """Return sine and cosine, exactly 0 if the phase is a multiple of π/2 up to its rounding."""
    if phase == 0:
        return 0.0, 1.0
    values = float(np.sin(extended(phase))), float(np.cos(extended(phase)))
    sine, cosine = (0.0 if abs(v) <= 2.0**-52 * abs(phase) else v for v in values)
    return sine, cosine


@named()
def sin(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Activation:
    """σ(x) = a·sin(b·x + c)."""
    sine, cosine = _sine_and_cosine(c)
    return Sinusoid(spelled("sin", a, b, c), a * cosine, b, a * sine)


@named()
def cos(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Activation:
    """σ(x) = a·cos(b·x + c)."""
    sine, cosine = _sine_and_cosine(c)
    return Sinusoid(spelled("cos", a, b, c), -a * sine, b, a * cosine)


@named()
def rbf(gamma: float = 1.0) -> Activation:
    """σ(x) = √2·sin(√(2·gamma)·x + π/4), whose K is exp(-gamma·(q + q' - 2s)); gamma > 0."""
    if not gamma > 0:
        raise InvalidValueError(f"activation rbf: gamma must be positive, not {gamma}")
    return Rbf(spelled("rbf", gamma), 1.0, math.sqrt(2 * gamma), 1.0)
