"""σ with a jump at 0 and constant elsewhere: sign, heaviside; σ(0) = 0.

    sign       K = 1 − 2θ/π
    heaviside  K = (π − θ)/2π

With odd = 1 and ½, the share of the odd part of σ in E[σ²],

    z_K = odd·θ/π,   w_K = (1 − odd) + odd·(π − θ)/π

Source: Sheppard 1899 (the orthant probability); Cho & Saul 2009, degree 0. Condition: 1 for
Σ and Θ of the layer itself. A jump makes a small angle θ one of θ_K ~ 2√(θ/π): an error ε of θ,
which unit vectors of nearly equal samples have, is some ε/√θ in the Θ of a kink behind it.

σ' is 0 but at the jump, where a gradient never sees it: K̇ = 0 and Θ⁽ˡ⁺¹⁾ = Σ⁽ˡ⁺¹⁾, what the last
layer's weights and bias alone contribute; that is the limit of the empirical kernel of networks
trained by σ'. It is not ∂K/∂s, the K̇ of functions that are integrals of their derivative:
odd·2/(π·P·sinθ) of cosθ_K, which diverges at ρ = ±1, so that the Θ of smooth functions that
approach a step has no limit on the diagonal.
"""

import math
from dataclasses import dataclass

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import fma, smaller
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.special import angle_excess
from ntk_numba.function import Floats


def _row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    zero, one, two = z.dtype.type(0), z.dtype.type(1), z.dtype.type(2)
    odd = parameters[0]
    scale = odd * z.dtype.type(2 / math.pi)
    for j in range(z.size):
        m = smaller(z[j], w[j])
        # odd/π of the angle, or of what it lacks of π
        small = scale * np.sqrt(fma(-m, m, m)) * fma(m, angle_excess(m, fma(-two, m, one)), one)
        opposite = z[j] > w[j]
        zk[j] = odd - small if opposite else small
        wk[j] = (one - odd) + small if opposite else one - small
        rate[j] = zero


_loop = DualLoop(_row)


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
            parameters=(1.0 if odd else 0.5,),  # the odd part's share of E[σ²]
            parity=-1 if odd else 0,
        )

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.where(x > 0, 1, np.where(x < 0, self.low, 0)), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        return np.zeros_like(x)

    def second_moment(self, q: Floats) -> Floats:
        """(1 + low²)/2, and 0 at q = 0."""
        return np.asarray(np.where(q > 0, (1 + self.low**2) / 2, 0), q.dtype)


@named()
def sign() -> Activation:
    """σ(x) = −1 for x < 0, 0 at 0, 1 for x > 0."""
    return Step("sign", -1.0)


@named()
def heaviside() -> Activation:
    """σ(x) = 0 for x ≤ 0, 1 for x > 0."""
    return Step("heaviside", 0.0)
