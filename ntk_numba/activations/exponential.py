"""Exponentials: a·exp(bx), and the Gaussian a·exp(bx²) with b < 0.

For a·exp(bx), with P = √(qq') and K(q) = a² exp(2b²q),

    K/√(K(q)K(q')) = exp(−b²[(√q − √q')² + 4Pz]/2),   K̇ = b²K

For a·exp(−βx²), with A = 1 + 4βq, A' = 1 + 4βq' and K(q) = a²/√A,

    K = a²/√M,  M = (1 + 2βq)(1 + 2βq') − 4β²s²,   K̇ = 4β²sK/M
    M/√(AA') = 1 + (√A − √A')²/(2√(AA')) + 16β²P²zw/√(AA')

Sources: for exp, E[exp(l)] = exp(Var(l)/2) of a linear form l; for the Gaussian, Williams 1997,
*Computing with infinite networks*. Small angles keep their digits in both, since z_K is computed
without cancellation. Condition: 1 for the Gaussian; 1 + b²q for exp, since a relative error δ of q
makes a relative error 2b²qδ of K(q).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, larger, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.special import exponentials
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import Extended, extended, minimum, stack
from ntk_numba.function import Floats, spelled, typed

BITS = 24  # the bits of the first part of a root, as many as a float32 holds
LARGEST_ROOT = 1e38  # larger |b|√q are replaced by this, so that float32 does not overflow


def split_root(root: Extended) -> Extended:
    """Return each root as a sum of two numbers, (2, N), the first of which has `BITS` bits.

    Differences of two roots that are split so keep their digits in float32.
    """
    root = minimum(root, LARGEST_ROOT)
    high = root.leading(BITS)
    return stack([high, root - high])


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, _, zk, wk, rate = angles
    real = z.dtype.type
    one, half, two = real(1), real(0.5), real(2)
    high, low = row[0, 0], row[1, 0]
    highs, lows = columns[0], columns[1]
    root = high + low
    for j in range(z.size):
        difference = (high - highs[j]) + (low - lows[j])
        column_root = highs[j] + lows[j]
        # the larger root first: in any other order that is the same for both samples, a product
        # might overflow
        first, second = larger(root, column_root), smaller(root, column_root)
        k, k_minus_one = exponentials(
            -fma(two * first, second * z[j], half * (difference * difference))
        )
        zk[j] = -half * k_minus_one
        wk[j] = fma(half, k_minus_one, one)
        rate[j] = (first * k) * second


loop = DualLoop(_fill_row)
"""The loop of cosθ_K = exp(−[(r − r')² + 4rr'z]/2), whose rate is rr' cosθ_K. A sample's
coefficients are `split_root` of r; the activation `exp` has r = |b|√q. `trigonometric.Rbf` takes
this loop too."""


@dataclass(frozen=True)
class Exponential(Activation):
    """σ(x) = a·exp(bx)."""

    a: float
    b: float

    @property
    def facts(self) -> Facts:
        return Facts(
            domain="q below 350/b² (float32: 44/b²), beyond which K(x,x) = a² exp(2b²q) overflows"
        )

    def dual(self, q_max: float) -> Dual:
        return Dual(loop, never_obtuse=True, coefficients=self._coefficients)

    def __call__(self, x: Any) -> Any:
        return typed(self.a * np.exp(self.b * x), x)

    def derivative(self, x: Any) -> Any:
        return typed(self.a * self.b * np.exp(self.b * x), x)

    def moment(self, q: Extended) -> Extended:
        """Return a² exp(2b²q)."""
        a, b = extended(self.a), extended(self.b)
        return a**2 * np.exp(2 * b**2 * q)

    def _coefficients(self, q: Extended) -> Extended:
        return split_root(abs(self.b) * np.sqrt(q))


def _fill_gaussian_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, half, quarter = real(1), real(0.5), real(0.25)
    x, root_a_minus_one, per_fourth_root = row[0, 0], row[1, 0], row[2, 0]
    xs, root_a_minus_ones, per_fourth_roots = columns[0], columns[1], columns[2]
    for j in range(z.size):
        difference = (root_a_minus_one - root_a_minus_ones[j]) * (
            per_fourth_root * per_fourth_roots[j]
        )
        x_product = x * xs[j]
        ratio_minus_one = fma(x_product, z[j] * w[j], half * (difference * difference))
        ratio = one + ratio_minus_one  # M/√(AA')
        root = np.sqrt(ratio)
        per_sum = one / (root + ratio)
        # (1 − 1/√ratio)/2 without cancellation
        half_one_minus_k = half * (ratio_minus_one * per_sum)
        zk[j], wk[j] = half_one_minus_k, one - half_one_minus_k
        k = per_sum + per_sum * root  # 1/√ratio
        rate[j] = quarter * (x_product * k * k) * (k * (w[j] - z[j]))


_gaussian_loop = DualLoop(_fill_gaussian_row)


@dataclass(frozen=True)
class Gaussian(Activation):
    """σ(x) = a·exp(bx²), b < 0."""

    a: float
    b: float

    def dual(self, q_max: float) -> Dual:
        return Dual(_gaussian_loop, never_obtuse=True, coefficients=self._coefficients, parity=1)

    def __call__(self, x: Any) -> Any:
        return typed(self.a * np.exp(self.b * x * x), x)

    def derivative(self, x: Any) -> Any:
        return typed(2 * self.a * self.b * x * np.exp(self.b * x * x), x)

    def moment(self, q: Extended) -> Extended:
        """Return a²/√A."""
        return extended(self.a) ** 2 / np.sqrt(1 - 4 * self.b * q)

    def _coefficients(self, q: Extended) -> Extended:
        """Return x = 4βq/√A, √A − 1 and A^-¼, (3, N)."""
        a_minus_one = -4 * self.b * q
        root = np.sqrt(1 + a_minus_one)
        return stack([a_minus_one / root, a_minus_one / (1 + root), 1 / np.sqrt(root)])


@named()
def exp(a: float = 1.0, b: float = 1.0) -> Activation:
    """σ(x) = a·exp(b·x)."""
    return Exponential(spelled("exp", a, b), a, b)


@named()
def gaussian(a: float = 1.0, b: float = -1.0) -> Activation:
    """σ(x) = a·exp(b·x²), b < 0."""
    if not b < 0:
        raise InvalidValueError(f"activation gaussian: b must be negative, not {b}")
    return Gaussian(spelled("gaussian", a, b), a, b)
