"""Functions that jump at 0 and are constant elsewhere: sign and heaviside. σ(0) = 0.

    sign       K = 1 − 2θ/π
    heaviside  K = (π − θ)/2π

With odd, the fraction of E[σ²] of the odd part of σ, which is 1 for sign and ½ for heaviside,

    z_K = odd·θ/π,   w_K = (1 − odd) + odd·(π − θ)/π

Source: Sheppard 1899 (the orthant probability); Cho & Saul 2009, degree 0. Condition: 1 for Σ and Θ
of the layer itself. A jump maps a small angle θ to θ_K ~ 2√(θ/π): an error ε of θ, which the unit
vectors of nearly equal samples have, becomes an error of about ε/√θ in the Θ of a later layer with
a kink.

σ' is 0 except at the jump, which no gradient meets. So K̇ = 0 and Θ⁽ˡ⁺¹⁾ = Σ⁽ˡ⁺¹⁾, the contribution
of the last layer's weights and bias alone; this is the limit of the empirical kernel of networks
that are trained with σ'. It differs from ∂K/∂s, which is K̇ for functions that are integrals of
their derivative: ∂cosθ_K/∂s = odd·2/(π·P·sinθ) diverges at ρ = ±1, so that the Θ of smooth
functions that approach a step has no limit on the diagonal.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.special import angle_excess
from ntk_numba.extended import Extended, extended
from ntk_numba.function import Floats, typed


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    zero, one, two = z.dtype.type(0), z.dtype.type(1), z.dtype.type(2)
    odd = parameters[0]
    scale = odd * z.dtype.type(2 / math.pi)
    for j in range(z.size):
        m = smaller(z[j], w[j])
        # odd·θ/π or odd·(π − θ)/π, whichever is smaller
        small = scale * np.sqrt(fma(-m, m, m)) * fma(m, angle_excess(m, fma(-two, m, one)), one)
        opposite = z[j] > w[j]
        zk[j] = odd - small if opposite else small
        wk[j] = (one - odd) + small if opposite else one - small
        rate[j] = zero


_loop = DualLoop(_fill_row)


@dataclass(frozen=True)
class Step(Activation):
    """σ(x) = low for x < 0, 0 at 0, 1 for x > 0."""

    low: float

    @property
    def facts(self) -> Facts:
        return Facts(
            ntk="Σ of the same layer: σ' = 0 almost everywhere, so K̇ = 0; ∂K/∂s diverges at ρ = ±1"
        )

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,)

    def dual(self, q_max: float) -> Dual:
        odd = self.low == -1
        return Dual(
            _loop,
            never_obtuse=self.low >= 0,  # σ ≥ 0
            parameters=(1.0 if odd else 0.5,),  # the odd part's fraction of E[σ²]
            parity=-1 if odd else 0,
        )

    def __call__(self, x: Any) -> Any:
        return typed(np.where(x > 0, 1, np.where(x < 0, self.low, 0)), x)

    def derivative(self, x: Any) -> Any:
        return np.zeros_like(x)

    def moment(self, q: Extended) -> Extended:
        """Return (1 + low²)/2, and 0 at q = 0."""
        return extended(np.where(q > 0, (1 + self.low**2) / 2, 0))


@named()
def sign() -> Activation:
    """σ(x) = −1 for x < 0, 0 at 0, 1 for x > 0."""
    return Step("sign", -1.0)


@named()
def heaviside() -> Activation:
    """σ(x) = 0 for x ≤ 0, 1 for x > 0."""
    return Step("heaviside", 0.0)
