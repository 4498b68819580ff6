"""The recursion of the note, eq. 10-12 and 24-27: the only place where Σ and Θ advance by a layer.

`tile` calls `all_layers` for each row of pairs. All quantities are normalised, so that none of them
overflows, underflows or cancels on the way. For a pair (x, x') with P = √(Σ(x,x) Σ(x',x')) and
Σ(x,x') = P cosθ:

    z = sin²(θ/2),  w = cos²(θ/2)        the smaller one to full relative accuracy
    τ = Θ(x,x') / P

and for a sample x, with a = σ_w² E[σ(g(x))²] the part of Σ(x,x) = a + β² that the weights
contribute:

    std = √Σ(x,x),  weight = √a/std,  bias = β/std        weight² + bias² = 1

The dual of the activation maps (z, w) to (z_K, w_K) and gives K̇; then the weights and the bias of
the layer mix K with β². The step cosθ' = weight weight' cosθ_K + bias bias' is, without
cancellation,

    D  = [(weight − weight')² + (bias − bias')²]/4
    z' = weight weight' z_K + D
    w' = weight weight' w_K + bias bias' + D
    τ' = weight weight' (K̇/g) τ + cosθ'                    (eq. 26, divided by P')

since (weight, bias) is a unit vector and D = sin² of half the angle between two of them.
At the first layer K is the inner product of x/|x| and x'/|x'|, and τ' = cosθ' (eq. 10 and 18).

The arrays hold half of weight and bias, which saves the division in D. Most rows of a tile have no
obtuse pair, or none after a ReLU (biases add none, since bias bias' ≥ 0). For them w is not
computed: each loop over a row has a second form without w, which gives the same bits in a third
less time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations import one_kink
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.policy import njit, per_dtype
from ntk_numba.duals.base import OBTUSE
from ntk_numba.engine.pairs import MixingWeights, Pairs, mixing_weights
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
from ntk_numba.function import Floats


def _cosine(real: Any) -> Callable[[float, float], float]:
    """Make `cosine` for a dtype."""
    one, two, obtuse_from = real(1), real(2), real(OBTUSE)

    def cosine(z: float, w: float) -> float:
        return fma(two, w, -one) if z > obtuse_from else fma(-two, z, one)

    return cosine


cosine = per_dtype("cosine", _cosine)
"""Return cosθ of (z, w), computed from the smaller of the two; exactly 1 at z = 0."""


def _mix(obtuse_too: bool) -> Callable[..., Any]:
    """Make the factory of `mix` or `acute_mix`, whose w' is neither right nor needed."""

    def factory(real: Any) -> Callable[..., tuple[float, float, float]]:
        one, two, four = real(1), real(2), real(4)

        def mix(
            z: float, w: float, carried: float, half_weight: float, half_bias: float,
            half_weight2: float, half_bias2: float,
        ) -> tuple[float, float, float]:  # fmt: skip
            product = (four * half_weight) * half_weight2
            weight_difference = half_weight - half_weight2
            bias_difference = half_bias - half_bias2
            d = fma(weight_difference, weight_difference, bias_difference * bias_difference)
            z_next = fma(product, z, d)
            w_next = fma(product, w, fma(four * half_bias, half_bias2, d))
            c = cosine(z_next, w_next) if obtuse_too else fma(-two, z_next, one)
            return z_next, w_next, fma(product, carried, c)

        return mix

    return factory


mix = per_dtype("mix", _mix(True))
acute_mix = per_dtype("acute_mix", _mix(False))
"""Map (z_K, w_K, (K̇/g)τ) and half of weight and bias of both samples to (z', w', τ')."""


def _first_layer(obtuse: bool) -> Callable[..., None]:
    """Make the loop of the first layer, for rows with or without obtuse pairs."""
    step = mix if obtuse else acute_mix

    @njit
    def first_layer(z: Floats, w: Floats, tau: Floats, mixing: MixingWeights) -> None:
        none = z.dtype.type(0)
        weight, bias, weights, biases = mixing
        for j in range(z.size):
            z[j], w_next, tau[j] = step(z[j], w[j], none, weight, bias, weights[j], biases[j])
            if obtuse:
                w[j] = w_next

    return first_layer


def _next_layer(obtuse_before: bool, obtuse_after: bool) -> Callable[..., None]:
    """Make the loop of a later layer, for rows that may have obtuse pairs before and after it."""
    dual = one_kink.dual if obtuse_before else one_kink.acute_dual
    step = mix if obtuse_after else acute_mix

    @njit
    def next_layer(
        z: Floats, w: Floats, tau: Floats, mixing: MixingWeights, parameters: Floats
    ) -> None:
        odd, even = parameters[0], parameters[1]
        weight, bias, weights, biases = mixing
        for j in range(z.size):
            zk, wk, rate = dual(z[j], w[j], odd, even)
            z[j], w_next, tau[j] = step(zk, wk, rate * tau[j], weight, bias, weights[j], biases[j])
            if obtuse_after:
                w[j] = w_next

    return next_layer


# These functions compute Σ⁽¹⁾ = Θ⁽¹⁾ (eq. 10, 18), and Σ⁽ˡ⁺¹⁾, Θ⁽ˡ⁺¹⁾ (eq. 12, 26), of a row of
# pairs, in place: of rows with obtuse pairs, of rows without (`acute`), and of rows that have none
# after the layer (`to_acute`).
first_layer, first_layer_acute = _first_layer(True), _first_layer(False)
next_layer, next_layer_acute = _next_layer(True, True), _next_layer(False, False)
next_layer_to_acute = _next_layer(True, False)


class Results(NamedTuple):
    """The arrays that Σ and Θ of rows of pairs are written to.

    nngp, ntk : (kept layers, ·, ·), or (0, ·, ·) if not wanted
    places : the index among the kept layers of each layer up to the last one that is kept; −1 if
        it is not kept
    """

    nngp: Floats
    ntk: Floats
    places: NDArray[np.int64]


@njit
def next_layer_by_loop(
    working: Floats, pairs: Pairs, duals: Duals, layer: int, mixing: MixingWeights
) -> None:
    """Compute a later layer of a row of pairs, for an activation with a `DualLoop`."""
    n = pairs.n
    z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
    dual_of_row(working, pairs, duals, layer)
    zk, wk, rate = working[Z_K, :n], working[W_K, :n], working[RATE, :n]
    weight, bias, weights, biases = mixing
    for j in range(n):
        z[j], w[j], tau[j] = mix(
            zk[j], wk[j], rate[j] * tau[j], weight, bias, weights[j], biases[j]
        )


@njit
def all_layers(
    working: Floats, pairs: Pairs, obtuse: bool, duals: Duals, results: Results, row: int
) -> None:
    """Take a row of pairs through the network, layer after layer, to the last one that is kept.

    working : (WORKING, ·), see `rows`; the first n columns are used, and the rows Z and W hold
        sin²(θ/2) and cos²(θ/2)
    obtuse : whether there is an obtuse pair in the row; if not, w is not read
    row : Σ and Θ are written to results[·, row, :n]
    """
    (rows, columns), i, j0, n = pairs
    z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
    for layer in range(results.places.size):
        mixing = mixing_weights(pairs, layer)
        if layer == 0:
            if obtuse:
                first_layer(z, w, tau, mixing)
            else:
                first_layer_acute(z, w, tau, mixing)
        else:
            parameters = duals.parameters[layer - 1]
            if duals.loops[layer - 1] != 0:
                # The larger of z and w is computed as 1 minus the smaller. Its rounded value
                # differs in rows without obtuse pairs, so an entry would depend on the others of
                # its row.
                one, obtuse_from = z.dtype.type(1), z.dtype.type(OBTUSE)
                for j in range(n):  # both are read and written, so that the loop vectorises
                    zj, wj = z[j], w[j]
                    from_w = obtuse and zj > obtuse_from
                    z[j] = one - wj if from_w else zj
                    w[j] = wj if from_w else one - zj
                next_layer_by_loop(working, pairs, duals, layer - 1, mixing)
                obtuse = not duals.never_obtuse[layer - 1]
            elif not obtuse:
                next_layer_acute(z, w, tau, mixing, parameters)
            elif duals.never_obtuse[layer - 1]:
                next_layer_to_acute(z, w, tau, mixing, parameters)
                obtuse = False
            else:
                next_layer(z, w, tau, mixing, parameters)
        kept = results.places[layer]
        if kept >= 0:
            std, stds = rows.std[layer, i], columns.std[layer, j0 : j0 + n]
            if results.nngp.shape[0] > 0:
                out = results.nngp[kept, row, :n]
                for j in range(n):
                    out[j] = (std * stds[j]) * cosine(z[j], w[j])
            if results.ntk.shape[0] > 0:
                out = results.ntk[kept, row, :n]
                for j in range(n):
                    out[j] = (std * stds[j]) * tau[j]
