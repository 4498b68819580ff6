"""σ(x) = p·sin(bx) + r·cos(bx): sin and cos of any phase, rbf.

With E∓ = exp(−b²(q + q' ∓ 2s)/2) = exp(−b²[(√q − √q')² + 4P{z, w}]/2), P = √(qq'), the shares
odd = p²/(p² + r²) and even = r²/(p² + r²), and g = (p² + r²)/2,

    K  = g·[odd·(E₋ − E₊) + even·(E₋ + E₊)]
    K̇ = gb²·[odd·(E₋ + E₊) + even·(E₋ − E₊)]

Source: Rahimi & Recht 2007, *Random features for large-scale kernel machines*, for even = odd;
otherwise by 2 sin u sin v = cos(u − v) − cos(u + v) and E[cos l] = exp(−Var(l)/2). E₋ − E₊ is
∓E± expm1(−2b²|s|), so that K is right where it is about b²P. Condition: 1 + |b|√q, since an angle
of ε changes b²s by ε b²P.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ntk_numba.activations import exponential
from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.curve import Curve
from ntk_numba.duals.special import exponentials
from ntk_numba.errors import InvalidValueError
from ntk_numba.function import Floats, spelled

FLAT = 100.0  # b²q from which on E₊ is nothing and λ is b√q
LEAST = 1e-30  # b²q that stands for less: K is to b²q what it is for q → 0


def _row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    none, half, two = real(0), real(0.5), real(2)
    odd, even = parameters[0], parameters[1]
    root, share, rise = row[0, 0], row[1, 0], row[2, 0]
    roots, shares, rises = columns[0], columns[1], columns[2]
    for j in range(z.size):
        cosine = w[j] - z[j]
        apart = root - roots[j]
        m = smaller(z[j], w[j])
        both = two * root
        k, _ = exponentials(-fma(both, roots[j] * m, half * (apart * apart)))
        _, less = exponentials(-abs(both * (roots[j] * cosine)))
        total = fma(k, less, two * k)  # E₋ + E₊
        k *= less
        difference = k if cosine < none else -k
        value = (share * shares[j]) * fma(odd, difference, even * total)
        zk[j], wk[j] = fma(-half, value, half), fma(half, value, half)
        rate[j] = rise * (rises[j] * fma(odd, total, even * difference))


class _Curve(Curve):
    """Of b = 1, from the closed form: oscillations would take ever more nodes."""

    def __init__(self, activation: "Sinusoid") -> None:
        super().__init__(activation)
        self._odd, self._even = activation.shares

    def _norm(self, q: float) -> np.longdouble:
        """K(q)/g."""
        y = np.longdouble(2 * q)
        return np.longdouble(self._even * (1 + np.exp(-y)) - self._odd * np.expm1(-y))

    def speed(self, q: float) -> float:
        """dλ/d ln √q; its square is ½q/(odd·sinh q + even·cosh q)² times

            odd²(sinh 2q − 2q) + 2 odd·even cosh 2q + even²(sinh 2q + 2q)

        which is q ∂²ln⟨f_q, f_q'⟩/∂√q∂√q' at q = q'.
        """
        if q > FLAT:
            return math.sqrt(q)
        odd, even, y = self._odd, self._even, 2 * q
        more = math.sinh(y) - y if y > 1 else _sinh_excess(y)
        total = odd**2 * more + 2 * odd * even * math.cosh(y) + even**2 * (math.sinh(y) + y)
        return math.sqrt(q * total / 2) / (odd * math.sinh(q) + even * math.cosh(q))

    def chord(self, q: float, q2: float) -> float:
        """|f_q − f_q2|², q ≤ q2."""
        y, y2 = np.longdouble(q), np.longdouble(q2)
        apart = (np.sqrt(y) - np.sqrt(y2)) ** 2 / 2
        less = np.expm1(-2 * np.sqrt(y * y2))
        k = np.exp(-apart) * (self._even * (2 + less) - self._odd * less)
        return float(2 - 2 * k / np.sqrt(self._norm(q) * self._norm(q2)))

    def rounding(self, length: float) -> float:
        return float(np.finfo(np.longdouble).eps) / length**2

    def bend(self, q: float) -> float:
        """κ/√12."""
        return 0.5 if q > FLAT else super().bend(q)


def _sinh_excess(y: float) -> float:
    """The difference sinh y − y, y ≤ 1."""
    return sum(y**k / math.factorial(k) for k in range(17, 1, -2))


@lru_cache(maxsize=64)
def _curve_of(activation: "Sinusoid") -> _Curve:
    return _Curve(activation)


_loop = DualLoop(_row)


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
    def shares(self) -> tuple[float, float]:
        """The shares of the odd and the even part in E[σ²]; (0, 1) for the function 0."""
        scale = max(abs(self.p), abs(self.r))
        if scale == 0:
            return 0.0, 1.0
        p, r = self.p / scale, self.r / scale
        return p**2 / (p**2 + r**2), r**2 / (p**2 + r**2)

    def dual(self, q_max: float) -> Dual:
        odd, even = self.shares
        return Dual(
            _loop,
            # K falls to (even − odd)E₊ + E₋ at θ = π, where E₊ ≥ E₋, or to 0 for q → ∞
            never_obtuse=even >= odd,
            parameters=(odd, even),
            coefficients=self._coefficients,
            curve=self._curve,
            parity=1 if self.p == 0 else -1 if self.r == 0 else 0,
        )

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(self.p * np.sin(self.b * x) + self.r * np.cos(self.b * x), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        p, r = self.b * self.p, self.b * self.r
        return np.asarray(p * np.cos(self.b * x) - r * np.sin(self.b * x), x.dtype)

    def second_moment(self, q: Floats) -> Floats:
        """[p²(1 − exp(−2b²q)) + r²(1 + exp(−2b²q))]/2."""
        p, b, r = (q.dtype.type(v) for v in (self.p, self.b, self.r))
        y = -2 * b**2 * q
        return np.asarray((r**2 * (1 + np.exp(y)) - p**2 * np.expm1(y)) / 2)

    def _curve(self, q: Floats) -> Floats:
        odd, even = (math.sqrt(v) for v in self.shares)
        return _curve_of(Sinusoid("", odd, 1.0, even))(q.dtype.type(self.b) ** 2 * q)

    def _coefficients(self, q: Floats) -> Floats:
        """|b|√q, √(g/K) and their product."""
        odd, even = self.shares
        y = np.maximum(q.dtype.type(self.b) ** 2 * q, LEAST)
        root = np.sqrt(y)
        share = 1 / np.sqrt(even * (1 + np.exp(-2 * y)) - odd * np.expm1(-2 * y))
        return np.stack([root, share, root * share])


@dataclass(frozen=True)
class Rbf(Sinusoid):
    """σ(x) = sin(bx) + cos(bx): K depends on q + q' − 2s alone."""

    def dual(self, q_max: float) -> Dual:
        return Dual(exponential.loop, never_obtuse=True, coefficients=self._coefficients)

    def _coefficients(self, q: Floats) -> Floats:
        return exponential.split_root(abs(q.dtype.type(self.b)) * np.sqrt(q))


def _sine_and_cosine(phase: float) -> tuple[float, float]:
    """Exactly 0 of what is a multiple of π/2 up to the rounding of the phase."""
    values = math.sin(phase), math.cos(phase)
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
