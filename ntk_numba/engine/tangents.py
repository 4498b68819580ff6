"""Derivatives of Σ and Θ by w_std and b_std, carried along with the kernels of a row of pairs.

They are exact to rounding, for networks whose activations are all linear but for one kink at 0. A
direction p is a combination of the parameters log σ_w and log β of all layers, and d is the
derivative along it. In the terms of `recursion`, (weight, bias) = (cosφ, sinφ) of a sample, so its
derivative is that of one angle:

    dφ = weight bias (dlogβ − ½ dlog a),   ½ dlog q = weight² ½ dlog a + bias² dlogβ

with a the variance that the weights contribute and q = a + β², both of this layer. At the next one
½ dlog a = ½ dlog q + dlogσ_w, since these activations are homogeneous. The derivatives of a pair
follow from those of z' and τ', with κ = K̇/g and s = √(zw):

    d(weight weight') = −(weight' bias dφ + weight bias' dφ')
    d(bias bias')     =   bias' weight dφ + bias weight' dφ'
    dD  = ½ sin(φ − φ') (dφ − dφ')
    dz' = d(weight weight') z_K + weight weight' κ dz + dD
    dw' = d(weight weight') w_K − weight weight' κ dz + d(bias bias') + dD
    dτ' = d(weight weight') κτ + weight weight' (κ dτ − (2 even/π)(τ/s) dz) − 2 dz'

As in `recursion`, D is sin² of half of φ − φ', and z, w, D have no cancellation. dz = −dw is
computed from the formula of the smaller one. Both have full relative accuracy where θ is near 0 or
π, so that dθ = dz/s is exact there too, and is 0 where s is. Finally, with P = √(qq'),

    dΣ = P (−2 dz + ½(dlog q + dlog q') cosθ),   dΘ = P (dτ + ½(dlog q + dlog q') τ)
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations import one_kink
from ntk_numba.compiled.intrinsics import fma
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import OBTUSE
from ntk_numba.engine.pairs import MixingWeights, Pairs, mixing_weights
from ntk_numba.engine.recursion import acute_mix, mix
from ntk_numba.engine.rows import TAU, Duals, W, Z
from ntk_numba.engine.samples import blocks_of
from ntk_numba.extended import extended, where
from ntk_numba.network import Layer

Doubles = NDArray[np.float64]

BLOCK = 128  # pairs that are taken through all layers at a time, which stay in the first cache

# The rows of the memory that the directions of a block of pairs share: z_K, w_K, weight weight' κ,
# κτ, weight weight' (2 even/π) τ/s and sin(φ − φ')/2. Behind them are dz and dτ of all directions.
ZK, WK, PASSED, CARRIED, BEND, CROSS = range(6)
SHARED = 6


class Turns(NamedTuple):
    """The derivatives of a band of R samples in P directions.

    turn : (P, L, R) dφ of every layer
    log_root : (P, R) ½ dlog q of the last layer
    """

    turn: Doubles
    log_root: Doubles


def turns_of_samples(layers: Sequence[Layer], norm: Doubles, n0: int, directions: Doubles) -> Turns:
    """Return the derivatives of samples, computed in extended precision.

    layers : those of a network whose activations are homogeneous, of degree 1
    norm : (R,) |x|
    directions : (P, 2, L) the coefficients of the derivatives by log σ_w and by log β
    """
    turn = np.empty((len(directions), len(layers), norm.size))
    log_root = np.empty((len(directions), norm.size))
    steps = directions[..., None]
    for block in blocks_of(norm.size, len(directions)):
        q = moment = extended(norm[block]) ** 2 / n0
        change = extended(np.zeros((len(directions), moment.size)))  # ½ dlog q
        for k, layer in enumerate(layers):
            if layer.activation:
                moment = layer.activation.moment(q)
            weights, q = layer.variance(moment)
            positive = where(q > 0, q, 1)
            share, rest = weights / positive, extended(layer.b_std) ** 2 / positive
            of_weights, of_bias = change + steps[:, 0, k], steps[:, 1, k]
            turns = np.sqrt(share * rest) * (of_bias - of_weights)
            turn[:, k, block] = turns.astype(float)
            change = share * of_weights + rest * of_bias
        log_root[:, block] = change.astype(float)
    return Turns(turn, log_root)


def first_layers(directions: Doubles) -> NDArray[np.int64]:
    """Return, for each direction, the first layer with a parameter in it, counted from 0."""
    return np.argmax(np.any(directions != 0, axis=1), axis=1).astype(np.int64)


@njit
def _cross(weight: float, bias: float, weight2: float, bias2: float) -> float:
    """Return sin(φ − φ')/2 from half of weight and bias; it changes sign if they are exchanged."""
    return (bias - bias2) * (weight + weight2) - (weight - weight2) * (bias + bias2)


@njit
def _first_values(
    z: Doubles, w: Doubles, tau: Doubles, mixing: MixingWeights, memory: Doubles
) -> None:
    """Advance a block by the first layer, and fill the numbers that all directions share."""
    weight, bias, weights, biases = mixing
    n = z.size
    zk, wk, passed, carried, bend, cross = (
        memory[ZK, :n], memory[WK, :n], memory[PASSED, :n], memory[CARRIED, :n],
        memory[BEND, :n], memory[CROSS, :n],
    )  # fmt: skip
    for j in range(n):
        zk[j], wk[j] = z[j], w[j]
        passed[j] = carried[j] = bend[j] = 0.0
        cross[j] = _cross(weight, bias, weights[j], biases[j])
        z[j], w[j], tau[j] = mix(z[j], w[j], 0.0, weight, bias, weights[j], biases[j])


def _values(obtuse_before: bool, obtuse_after: bool) -> Callable[..., None]:
    """Make the loop of a later layer that does what `_first_values` does."""
    dual = one_kink.dual if obtuse_before else one_kink.acute_dual
    step = mix if obtuse_after else acute_mix

    @njit
    def values(
        z: Doubles, w: Doubles, tau: Doubles, mixing: MixingWeights, parameters: Doubles,
        memory: Doubles,
    ) -> None:  # fmt: skip
        odd, even = parameters[0], parameters[1]
        weight, bias, weights, biases = mixing
        bending, n = 2 / math.pi * even, z.size
        zks, wks, passed, carried, bend, cross = (
            memory[ZK, :n], memory[WK, :n], memory[PASSED, :n], memory[CARRIED, :n],
            memory[BEND, :n], memory[CROSS, :n],
        )  # fmt: skip
        for j in range(n):
            zj, wj = z[j], w[j]  # both are read, so that the loop vectorises
            m = wj if obtuse_before and zj > OBTUSE else zj
            s = math.sqrt(fma(-m, m, m))  # which is in the dual too
            zk, wk, rate = dual(zj, wj, odd, even)
            product = (4 * weight) * weights[j]
            zks[j] = zk
            if obtuse_after:
                wks[j] = wk
            passed[j] = product * rate
            carried[j] = rate * tau[j]
            bend[j] = (product * bending) * tau[j] / s if s > 0 else 0.0
            cross[j] = _cross(weight, bias, weights[j], biases[j])
            z[j], w_next, tau[j] = step(zk, wk, rate * tau[j], weight, bias, weights[j], biases[j])
            if obtuse_after:
                w[j] = w_next

    return values


_next_values, _next_values_acute = _values(True, True), _values(False, False)
_next_values_to_acute = _values(True, False)


def _direction(obtuse: bool) -> Callable[..., None]:
    """Make the loop that advances one direction by a layer, for rows with obtuse pairs or not."""

    @njit
    def direction(
        dz: Doubles, dtau: Doubles, z: Doubles, mixing: MixingWeights, memory: Doubles,
        turn: float, turns: Doubles,
    ) -> None:  # fmt: skip
        weight, bias, weights, biases = mixing
        weight_turn, bias_turn, n = weight * turn, bias * turn, dz.size
        zk, wk, passed, carried, bend, cross = (
            memory[ZK, :n], memory[WK, :n], memory[PASSED, :n], memory[CARRIED, :n],
            memory[BEND, :n], memory[CROSS, :n],
        )  # fmt: skip
        for j in range(n):
            own = turns[j]
            product = -4 * (weights[j] * bias_turn + weight * (biases[j] * own))
            spread, before = cross[j] * (turn - own), dz[j]
            after = fma(passed[j], before, fma(product, zk[j], spread))
            if obtuse:
                biases_product = biases[j] * weight_turn + bias * (weights[j] * own)
                opposite = fma(4.0, biases_product, spread)
                opposite = fma(-passed[j], before, fma(product, wk[j], opposite))
                after = -opposite if z[j] > OBTUSE else after
            dz[j] = after
            dtau[j] = fma(
                product, carried[j], fma(passed[j], dtau[j], fma(-bend[j], before, -2 * after))
            )

    return direction


_next_direction, _next_direction_acute = _direction(True), _direction(False)


@njit
def all_tangents(
    working: Doubles,
    memory: Doubles,
    pairs: Pairs,
    obtuse: bool,
    duals: Duals,
    turns: tuple[Turns, Turns],
    first: NDArray[np.int64],
) -> None:
    """Take a block of pairs and its derivatives through the network, layer after layer.

    working : (WORKING, ·), see `rows`; the first n columns of Z and W hold the angles of the
        samples, and at the end those of the last layer, and those of TAU hold τ
    memory : (SHARED + 2P, ·); from row SHARED on dz, and from row SHARED + P on dτ, of all
        directions at the end
    obtuse : whether there may be an obtuse pair in the block
    turns : those of the samples of the rows and of the columns
    first : see `first_layers`
    """
    (rows, _), i, j0, n = pairs
    z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
    depth, count = rows.std.shape[0], first.size
    for layer in range(depth):
        mixing = mixing_weights(pairs, layer)
        if layer == 0:
            _first_values(z, w, tau, mixing, memory)
        else:
            parameters = duals.parameters[layer - 1]
            if not obtuse:
                _next_values_acute(z, w, tau, mixing, parameters, memory)
            elif duals.never_obtuse[layer - 1]:
                _next_values_to_acute(z, w, tau, mixing, parameters, memory)
                obtuse = False
            else:
                _next_values(z, w, tau, mixing, parameters, memory)
        for p in range(count):
            if layer < first[p]:
                continue
            dz, dtau = memory[SHARED + p, :n], memory[SHARED + count + p, :n]
            if layer == first[p]:
                dz[:] = 0.0
                dtau[:] = 0.0
            turn, own = turns[0].turn[p, layer, i], turns[1].turn[p, layer, j0 : j0 + n]
            if obtuse:
                _next_direction(dz, dtau, z, mixing, memory, turn, own)
            else:
                _next_direction_acute(dz, dtau, z, mixing, memory, turn, own)
