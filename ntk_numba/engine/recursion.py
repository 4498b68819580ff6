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

The arrays hold half of weight and bias, which saves the division of D. Most rows of a tile have no
obtuse pair, or none any more after a ReLU (β β' ≥ 0 makes none): for them w is left alone, and each
loop over a row comes in a form for that, of the same bits in a third less time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ntk_numba.activations import piecewise_linear
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.policy import njit, per_dtype
from ntk_numba.duals.base import OBTUSE
from ntk_numba.engine.pairs import Pairs, Shares
from ntk_numba.engine.products import Floats
from ntk_numba.engine.rows import (
    RATE,
    TAU,
    W_K,
    Z_K,
    Duals,
    W,
    Z,
    dual_of_row,
)


def _cosine(real: Any) -> Callable[[float, float], float]:
    one, two, obtuse_from = real(1), real(2), real(OBTUSE)

    def cosine(z: float, w: float) -> float:
        return fma(two, w, -one) if z > obtuse_from else fma(-two, z, one)

    return cosine


cosine = per_dtype("cosine", _cosine)
"""cosθ of (z, w), from the one that is small; exactly 1 at z = 0."""


def _mix(obtuse_too: bool) -> Callable[..., Any]:
    def factory(real: Any) -> Callable[..., tuple[float, float, float]]:
        one, two, four = real(1), real(2), real(4)

        def mix(
            z: float, w: float, carried: float, half_weight: float, half_bias: float,
            half_weight2: float, half_bias2: float,
        ) -> tuple[float, float, float]:  # fmt: skip
            both = (four * half_weight) * half_weight2
            apart_w, apart_b = half_weight - half_weight2, half_bias - half_bias2
            d = fma(apart_w, apart_w, apart_b * apart_b)
            z_next = fma(both, z, d)
            w_next = fma(both, w, fma(four * half_bias, half_bias2, d))
            c = cosine(z_next, w_next) if obtuse_too else fma(-two, z_next, one)
            return z_next, w_next, fma(both, carried, c)

        return mix

    return factory


mix = per_dtype("mix", _mix(True))
acute_mix = per_dtype("acute_mix", _mix(False))
"""(z_K, w_K, (K̇/g)τ) and halves of the samples' (weight, bias) → (z', w', τ'), see above."""


def _first_layer(obtuse: bool) -> Callable[..., None]:
    step = mix if obtuse else acute_mix

    @njit
    def first_layer(z: Floats, w: Floats, tau: Floats, shares: Shares) -> None:
        none = z.dtype.type(0)
        weight, bias, weights, biases = shares
        for j in range(z.size):
            z[j], w_next, tau[j] = step(z[j], w[j], none, weight, bias, weights[j], biases[j])
            if obtuse:
                w[j] = w_next

    return first_layer


def _next_layer(before: bool, after: bool) -> Callable[..., None]:
    dual = piecewise_linear.dual if before else piecewise_linear.acute_dual
    step = mix if after else acute_mix

    @njit
    def next_layer(z: Floats, w: Floats, tau: Floats, shares: Shares, parameters: Floats) -> None:
        odd, even = parameters[0], parameters[1]
        weight, bias, weights, biases = shares
        for j in range(z.size):
            zk, wk, rate = dual(z[j], w[j], odd, even)
            z[j], w_next, tau[j] = step(zk, wk, rate * tau[j], weight, bias, weights[j], biases[j])
            if after:
                w[j] = w_next

    return next_layer


# Σ⁽¹⁾ = Θ⁽¹⁾ (eq. 10, 18), and Σ⁽ˡ⁺¹⁾, Θ⁽ˡ⁺¹⁾ (eq. 12, 26), of one sample with those of a row, in
# place; for rows with obtuse pairs, with none, and with none any more after the layer.
first_layer, first_layer_acute = _first_layer(True), _first_layer(False)
next_layer, next_layer_acute = _next_layer(True, True), _next_layer(False, False)
next_layer_to_acute = _next_layer(True, False)


class Results(NamedTuple):
    """Where Σ and Θ of rows of pairs go: (kept, ·, ·), or (0, ·, ·) if not wanted.

    every : whether all layers are kept, or the last one only
    """

    nngp: Floats
    ntk: Floats
    every: bool


@njit
def next_layer_by_row(
    working: Floats, pairs: Pairs, duals: Duals, layer: int, shares: Shares
) -> None:
    """`next_layer` for an activation with a loop of its own."""
    n = pairs.n
    z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
    dual_of_row(working, pairs, duals, layer)
    zk, wk, rate = working[Z_K, :n], working[W_K, :n], working[RATE, :n]
    weight, bias, weights, biases = shares
    for j in range(n):
        z[j], w[j], tau[j] = mix(
            zk[j], wk[j], rate[j] * tau[j], weight, bias, weights[j], biases[j]
        )


@njit
def all_layers(
    working: Floats, pairs: Pairs, obtuse: bool, duals: Duals, results: Results, row: int
) -> None:
    """Take a row of pairs through the network, layer after layer.

    working : (WORKING, ·), see `rows`, n of them used; Z and W hold sin² and cos² of θ/2
    obtuse : whether there is an obtuse pair in the row; if not, w is not looked at
    row : Σ and Θ go to results[·, row, :n]
    """
    (rows, columns), i, j0, n = pairs
    z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
    depth = rows.std.shape[0]
    for layer in range(depth):
        shares = Shares(
            rows.half_weight[layer, i],
            rows.half_bias[layer, i],
            columns.half_weight[layer, j0 : j0 + n],
            columns.half_bias[layer, j0 : j0 + n],
        )
        if layer == 0:
            if obtuse:
                first_layer(z, w, tau, shares)
            else:
                first_layer_acute(z, w, tau, shares)
        else:
            parameters = duals.parameters[layer - 1]
            if duals.loops[layer - 1] != 0:
                # The larger one is what the smaller lacks of 1, not what it was rounded to: else an
                # entry would depend on whether another one of its row is obtuse.
                for j in range(n):
                    if obtuse and z[j] > w[j]:
                        z[j] = z.dtype.type(1) - w[j]
                    else:
                        w[j] = z.dtype.type(1) - z[j]
                next_layer_by_row(working, pairs, duals, layer - 1, shares)
                obtuse = not duals.never_obtuse[layer - 1]
            elif not obtuse:
                next_layer_acute(z, w, tau, shares, parameters)
            elif duals.never_obtuse[layer - 1]:
                next_layer_to_acute(z, w, tau, shares, parameters)
                obtuse = False
            else:
                next_layer(z, w, tau, shares, parameters)
        if results.every or layer == depth - 1:
            kept = layer if results.every else 0
            std, stds = rows.std[layer, i], columns.std[layer, j0 : j0 + n]
            if results.nngp.shape[0] > 0:
                out = results.nngp[kept, row, :n]
                for j in range(n):
                    out[j] = (std * stds[j]) * cosine(z[j], w[j])
            if results.ntk.shape[0] > 0:
                out = results.ntk[kept, row, :n]
                for j in range(n):
                    out[j] = (std * stds[j]) * tau[j]
