"""σ(x) = exp(−x²) sin x, a Gabor function.

With S = q + q', d = 4(P² − s²), E = 1 + 2S + d, h = 1 + 2S + 4(s² + P²), t = 4s(d + 3S + 2),

    K  = exp(−(S + d)/2E) sinh(s/E)/√E
    K̇ = exp(−(S + d)/2E) [h cosh(s/E) + t sinh(s/E)]/E^(5/2)

which are E[exp(−u² − v²) sin u sin v] and its derivative by s. Nothing in K̇ cancels, and |s|/E is
at most ¼. With A = 1 + 4q, x = 4q/√A, y = √(q/A), the same of q', and R = E/√(AA'), the row has

    R₀ = 1 + (√A − √A')²/(2√(AA')),  R = R₀ + xx'zw,  s/E = yy' cosθ/R
    S/√(AA') = (R₀ − 1/√(AA'))/2,    d/√(AA') = xx'zw,  4P²/√(AA') = xx'/4

in which nothing overflows. Condition: 1.
"""

import math
from dataclasses import dataclass

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, polynomial
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.special import exponentials
from ntk_numba.function import Floats

# Of t² ≤ 1/16, Taylor's, to 1e-17: sinh(t)/t and cosh t
sinh_per = polynomial(tuple(1 / math.factorial(2 * k + 1) for k in range(5, -1, -1)))
cosh = polynomial(tuple(1 / math.factorial(2 * k) for k in range(6, -1, -1)))


def _row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, half, quarter, sesqui = real(1), real(0.5), real(0.25), real(1.5)
    size, above, per_root, side, share = row[0, 0], row[1, 0], row[2, 0], row[3, 0], row[4, 0]
    sizes, aboves, per_roots = columns[0], columns[1], columns[2]
    sides, shares = columns[3], columns[4]
    for j in range(z.size):
        cosine = w[j] - z[j]
        square = cosine * cosine
        per_both = per_root * per_roots[j]
        apart = (above - aboves[j]) * per_both
        alike = fma(half * apart, apart, one)  # R₀
        x = size * sizes[j]
        d = x * (z[j] * w[j])
        ratio = alike + d
        per_ratio = one / ratio
        root = per_ratio * np.sqrt(ratio)  # 1/√R
        small = side * sides[j] * (cosine * per_ratio)
        small *= small
        s = fma(half, fma(-per_both, per_both, alike), d)
        k, _ = exponentials(-half * (s * per_ratio))
        k *= (share * shares[j]) * (root * per_ratio)
        odd = sinh_per(small)
        value = k * (odd * cosine)
        zk[j], wk[j] = fma(-half, value, half), fma(half, value, half)
        part = quarter * x * per_ratio
        h = fma(part, one + square, alike * per_ratio)
        t = part * square * (fma(sesqui, alike, fma(half * per_both, per_both, d)) * per_ratio)
        rate[j] = k * fma(h, cosh(small), t * odd)


_loop = DualLoop(_row)


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

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.exp(-x * x) * np.sin(x))

    def derivative(self, x: Floats) -> Floats:
        return np.asarray(np.exp(-x * x) * (np.cos(x) - 2 * x * np.sin(x)))

    def second_moment(self, q: Floats) -> Floats:
        """exp(−q/A) sinh(q/A)/√A."""
        a = 1 + 4 * q
        return np.asarray(-np.expm1(-2 * q / a) / (2 * np.sqrt(a)))

    def _coefficients(self, q: Floats) -> Floats:
        """x, √A − 1, A^-¼, y and √(q/√A K)."""
        a = 1 + 4 * q
        root = np.sqrt(a)
        small = q / a
        safe = np.where(small > 0, small, 1)
        share = np.where(small > 0, -2 * safe / np.expm1(-2 * safe), 1)  # the limit for q → 0
        return np.stack(
            [4 * q / root, 4 * q / (1 + root), 1 / np.sqrt(root), np.sqrt(small), np.sqrt(share)]
        )


@named()
def gabor() -> Activation:
    """σ(x) = exp(−x²)·sin(x)."""
    return Gabor("gabor")
