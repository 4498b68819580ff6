"""σ(x) = xΦ(x), Φ the normal distribution function: GELU without approximation.

With e = 1/(1+q), α = q/(1+q), the same of q', P = √(qq'), m = √(αα'), x = m cosθ and

    C² = 1 − x² = e + e' − ee' + 4m²zw

    K  = P·[cosθ/4 + (m cos²θ ee'/C + mC + cosθ asin x)/2π]
    K̇ = ¼ + [asin x + (x/C)(ee'/C² + e + e')]/2π

Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021, *Avoiding kernel fixed points:
computing with ELU and GELU infinite networks*, in other variables. No term cancels near θ = 0.
Condition: 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import special

from ntk_numba.activations.base import Activation, Floats
from ntk_numba.activations.special import angle_per_sine
from ntk_numba.jit import fma
from ntk_numba.row import Row


def _row(
    z: Floats, w: Floats, zk: Floats, wk: Floats, rate: Floats,
    mine: Floats, theirs: Floats, parameters: Floats,
) -> None:  # fmt: skip
    real = z.dtype.type
    four, half, one, quarter, turn = real(4), real(0.5), real(1), real(0.25), real(0.5 / np.pi)
    root, rest, share = mine[2, 0], mine[3, 0], mine[4, 0]
    roots, rests, shares = theirs[2], theirs[3], theirs[4]
    for j in range(z.size):
        cosine = w[j] - z[j]
        m, g = root * roots[j], share * shares[j]
        both, either = rest * rests[j], rest + rests[j]
        c = np.sqrt(fma(four * (m * m), z[j] * w[j], either - both))
        per_c = one / c
        x = m * cosine
        angle = x * angle_per_sine(x, c)
        k = fma(m, fma(cosine * cosine, both * per_c, c), cosine * angle)
        k = g * fma(turn, k, quarter * cosine)
        zk[j], wk[j] = fma(-half, k, half), fma(half, k, half)
        slope = fma(x * per_c, fma(both * per_c, per_c, either), angle)
        rate[j] = g * fma(turn, slope, quarter)


@dataclass(frozen=True)
class Gelu(Activation):
    """σ(x) = xΦ(x)."""

    row: ClassVar[Row] = Row(_row)

    @property
    def never_obtuse(self) -> bool:
        """For small q, σ(x) is x/2."""
        return False

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(x * special.ndtr(x), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
        return np.asarray(special.ndtr(x) + x * density, x.dtype)

    def _share(self, q: Floats) -> Floats:
        """K(q)/q."""
        pi = 4 * np.arctan(q.dtype.type(1))
        rest, alpha = 1 / (1 + q), q / (1 + q)
        c = np.sqrt(rest * (1 + alpha))
        angle = np.arctan2(alpha, c)  # asin α would lose what α has lost of 1
        return np.asarray(0.25 + (alpha * (rest * rest / c + c) + angle) / (2 * pi))

    def second_moment(self, q: Floats) -> Floats:
        return q * self._share(q)

    def traits(self, q: Floats) -> Floats:
        """√α, e and √(q/K)."""
        return np.stack([np.sqrt(q / (1 + q)), 1 / (1 + q), 1 / np.sqrt(self._share(q))])


def gelu() -> Activation:
    """σ(x) = xΦ(x), Φ the normal distribution function."""
    return Gelu("gelu")
