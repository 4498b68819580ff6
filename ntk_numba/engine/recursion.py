"""The note's recursion, eq. 10-12 and 24-27: the only place where Σ and Θ advance by a layer.

Everything is carried normalised, so that nothing overflows, underflows or cancels on the way.
For a pair (x, x') with P = √(Σ(x,x) Σ(x',x')) and Σ(x,x') = P cosθ:

    z = sin²(θ/2),  w = cos²(θ/2)        the smaller one to full relative accuracy
    τ = Θ(x,x') / P

and for a sample x, with a = σ_w² E[σ(g(x))²] what the weights add to Σ(x,x) = a + β²:

    std = √Σ(x,x),  weight = √a/std,  bias = β/std        weight² + bias² = 1

The dual of the activation takes (z, w) to (z_K, w_K) and gives K̇; then the layer's weights and bias
mix K with β². A step in cosθ' = weight weight' cosθ_K + bias bias' becomes, without cancellation,

    D  = [(weight − weight')² + (bias − bias')²]/4
    z' = weight weight' z_K + D
    w' = weight weight' w_K + bias bias' + D
    τ' = weight weight' (K̇/g) τ + cosθ'                    (eq. 26, divided by P')

since (weight, bias) is a unit vector and D = sin² of half the angle between two of them.
At the first layer K is the inner product of x/|x| and x'/|x'|, and τ' = cosθ' (eq. 10 and 18).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations import Activation, piecewise_linear
from ntk_numba.engine.samples import Floats, Samples
from ntk_numba.jit import fma, njit, per_dtype


class Layers(NamedTuple):
    """A network as data for the kernels: nothing is compiled anew for another one.

    families : (L-1,) codes of the hidden layers' activations
    parameters : (L-1, k) what their duals take
    every : whether all layers are wanted, or the last only
    """

    families: NDArray[np.int64]
    parameters: Floats
    every: bool


def make_layers(activations: Sequence[Activation], every: bool, dtype: np.dtype) -> Layers:
    """The table of a network."""
    families = np.array([a.family for a in activations], np.int64)
    width = max((len(a.dual_parameters) for a in activations), default=2)
    parameters = np.zeros((len(activations), width), dtype)
    for row, a in zip(parameters, activations, strict=True):
        row[: len(a.dual_parameters)] = a.dual_parameters
    return Layers(families, parameters, every)


@per_dtype
def cosine(real: Any) -> Callable[[float, float], float]:
    """cosθ of (z, w), from the one that is small; exactly 1 at z = 0."""
    one, two = real(1), real(2)

    def cosine(z: float, w: float) -> float:
        return one - two * z if z < w else two * w - one

    return cosine


@per_dtype
def mix(real: Any) -> Callable[..., tuple[float, float, float]]:
    """(z_K, w_K, (K̇/g)τ) and the samples' (weight, bias) → (z', w', τ'), see above."""
    quarter = real(0.25)

    def mix(
        z: float, w: float, carried: float, weight: float, bias: float, weight2: float, bias2: float
    ) -> tuple[float, float, float]:
        both = weight * weight2
        apart_w, apart_b = weight - weight2, bias - bias2
        d = quarter * fma(apart_w, apart_w, apart_b * apart_b)
        z_next = fma(both, z, d)
        w_next = fma(both, w, fma(bias, bias2, d))
        return z_next, w_next, fma(both, carried, cosine(z_next, w_next))

    return mix


@njit
def first_layer(
    z: Floats, w: Floats, tau: Floats, weight: float, bias: float, weights: Floats, biases: Floats
) -> None:
    """Σ⁽¹⁾ = Θ⁽¹⁾ (eq. 10, 18) of one sample with those of a row, in place."""
    none = z.dtype.type(0)
    for j in range(z.size):
        z[j], w[j], tau[j] = mix(z[j], w[j], none, weight, bias, weights[j], biases[j])


@njit
def next_layer(
    z: Floats,
    w: Floats,
    tau: Floats,
    weight: float,
    bias: float,
    weights: Floats,
    biases: Floats,
    family: int,
    parameters: Floats,
) -> None:
    """Σ⁽ˡ⁺¹⁾ and Θ⁽ˡ⁺¹⁾ (eq. 12, 26) of one sample with those of a row, in place."""
    if family == piecewise_linear.PIECEWISE_LINEAR:
        odd, even = parameters[0], parameters[1]
        for j in range(z.size):
            zk, wk, rate = piecewise_linear.dual(z[j], w[j], odd, even)
            z[j], w[j], tau[j] = mix(zk, wk, rate * tau[j], weight, bias, weights[j], biases[j])


@njit
def all_layers(
    z: Floats,
    w: Floats,
    tau: Floats,
    i: int,
    j0: int,
    rows: Samples,
    columns: Samples,
    layers: Layers,
    row: int,
    nngp: Floats,
    ntk: Floats,
    col: int,
) -> None:
    """Layer after layer for sample i of `rows` with samples j0, j0 + 1, … of `columns`.

    z, w, tau : (n,) working rows; z and w hold sin² and cos² of half the angle of x and x'
    nngp, ntk : (kept, ·, ·) or (0, ·, ·) if not wanted. Σ and Θ go to [·, row, col:col + n]: of
        every layer if `layers.every`, else of the last.
    """
    n = z.size
    depth = rows.std.shape[0]
    for layer in range(depth):
        weight, bias = rows.weight[layer, i], rows.bias[layer, i]
        weights, biases = columns.weight[layer, j0 : j0 + n], columns.bias[layer, j0 : j0 + n]
        if layer == 0:
            first_layer(z, w, tau, weight, bias, weights, biases)
        else:
            next_layer(
                z,
                w,
                tau,
                weight,
                bias,
                weights,
                biases,
                layers.families[layer - 1],
                layers.parameters[layer - 1],
            )
        if layers.every or layer == depth - 1:
            kept = layer if layers.every else 0
            std, stds = rows.std[layer, i], columns.std[layer, j0 : j0 + n]
            if nngp.shape[0] > 0:
                out = nngp[kept, row, col : col + n]
                for j in range(n):
                    out[j] = (std * stds[j]) * cosine(z[j], w[j])
            if ntk.shape[0] > 0:
                out = ntk[kept, row, col : col + n]
                for j in range(n):
                    out[j] = (std * stds[j]) * tau[j]
