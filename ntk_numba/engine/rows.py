"""A layer's dual over a row of pairs, by an activation's own `Row`, and what it forgets made anew.

A `Row` mostly gives cosθ_K, whose rounding error ε is one of ε/sinθ_K in the angle: where θ_K is
small, no digit is left. There the angle is put together from its two parts, neither of which
cancels: what the norms make of it, a chord of the activation's curve (see `activations.curve`), and
what the angle of the samples makes,

    z_K = |f_q − f_q'|²/4 + ∫_0^z rate dz = |f_q − f_q'|²/4 + z Σ_g w_g rate(z s_g²)

by a Gauss rule in √z, which the powers of the angle that a kink brings in do not disturb. For odd
functions the same holds of w_K and w, and even ones take opposite samples for equal ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations import Activation
from ntk_numba.compiled.intrinsics import smaller
from ntk_numba.compiled.loops import call_row
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import NEAR, NEAR_KINKS
from ntk_numba.engine.pairs import Pairs
from ntk_numba.engine.products import Floats

# s_g² and w_g: ∫_0^1 2s f(s) ds = Σ w_g f(s_g), exact for f of degree 5
NODES = (0.0450885041796932, 0.34872938419345767, 0.8306719075452166)
SHARES = (0.1396539598029083, 0.4584822127191727, 0.401863827477919)

# Share of z_K that the next term of a chord's series may have, in float64 and float32; if it has
# more, z_K is better as it is. Curves of functions that near one with a kink as q grows become
# short and bent.
BENT, BENT_SINGLE = 1e-10, 1e-4
# Below this z_K has no digit of its own, and the arc is better in any case
ROUNDING, ROUNDING_SINGLE = 1e-16, 6e-8

# The rows of a thread's working memory
Z, W, TAU, Z_K, W_K, RATE = range(6)
NODE_Z, NODE_W, NODE_Z_K, NODE_W_K, NODE_RATE, TOTAL = range(6, 12)
WORKING = 12


class Duals(NamedTuple):
    """The activations of the hidden layers, as data: nothing is compiled anew for another network.

    rows : (L-1,) the addresses of their `Row`s; 0 for the engine's own loop
    parameters : (L-1, k)
    first : (L-1,) the first of their traits in `Samples.traits`
    near : (L-1,) z_K below which it is made anew, 0 if never
    moving : (L-1,) whether kinks off 0 are what bends the curve
    parity : (L-1,)
    never_obtuse : (L-1,) whether an activation leaves no pair obtuse
    """

    rows: NDArray[np.int64]
    parameters: Floats
    first: NDArray[np.int64]
    near: Floats
    moving: NDArray[np.bool_]
    parity: NDArray[np.int64]
    never_obtuse: NDArray[np.bool_]


def make_duals(activations: Sequence[Activation], dtype: np.dtype) -> Duals:
    """The activations of a network as data, their `Row`s compiled."""
    width = max([1, *(len(a.parameters) for a in activations)])
    parameters = np.zeros((len(activations), width), dtype)
    for values, a in zip(parameters, activations, strict=True):
        values[: len(a.parameters)] = a.parameters
    counts = [a.trait_count for a in activations]
    return Duals(
        np.array([a.row.address(dtype) if a.row else 0 for a in activations], np.int64),
        parameters,
        np.array([sum(counts[:k]) for k in range(len(counts))], np.int64),
        np.array(
            [
                (NEAR_KINKS if a.moving else NEAR)[dtype] if a.row and a.near else 0
                for a in activations
            ],
            dtype,
        ),
        np.array([a.moving for a in activations], np.bool_),
        np.array([a.parity for a in activations], np.int64),
        np.array([a.never_obtuse for a in activations], np.bool_),
    )


@njit
def dual_of_row(working: Floats, pairs: Pairs, duals: Duals, layer: int) -> None:
    """Fill z_K, w_K and the rate of a row of pairs from its z and w.

    working : (WORKING, ·), of which n are used; rows of it, since a part of all would not be
        contiguous for the compiler, and its loops not vectorised
    """
    (rows, columns), i, j0, n = pairs
    z, w, zk, wk = working[Z, :n], working[W, :n], working[Z_K, :n], working[W_K, :n]
    address, first, near = duals.rows[layer], duals.first[layer], duals.near[layer]
    parameters = duals.parameters[layer]
    call_row(
        address, z, w, zk, wk, working[RATE, :n],
        rows.traits, i, columns.traits, j0, first, parameters,
    )  # fmt: skip
    if near == 0:
        return
    length = rows.traits[first, i]
    lengths = columns.traits[first, j0 : j0 + z.size]
    odd = duals.parity[layer] < 0
    one, none = z.dtype.type(1), z.dtype.type(0)
    nearest = one
    for j in range(n):
        nearest = smaller(nearest, smaller(zk[j], wk[j]) if odd else zk[j])
    if nearest >= near:
        return
    nearest = one
    for j in range(n):
        same = z[j] == 0 and lengths[j] == length  # as on the diagonal; exactly so afterwards
        zk[j] = none if same else zk[j]
        wk[j] = one if same else wk[j]
        nearest = smaller(nearest, one if same else (smaller(zk[j], wk[j]) if odd else zk[j]))
    if nearest < near:
        _angles_anew(working, pairs, duals, layer)


@njit
def _angles_anew(working: Floats, pairs: Pairs, duals: Duals, layer: int) -> None:
    """Compute z_K and w_K again where the angle, or its distance from π, is small."""
    (rows, columns), i, j0, n = pairs
    z, w, zk, wk = working[Z, :n], working[W, :n], working[Z_K, :n], working[W_K, :n]
    node_z, node_w, total = working[NODE_Z, :n], working[NODE_W, :n], working[TOTAL, :n]
    node_rate = working[NODE_RATE, :n]
    one, half, quarter = z.dtype.type(1), z.dtype.type(0.5), z.dtype.type(0.25)
    total[:] = z.dtype.type(0)
    first, near, parity = duals.first[layer], duals.near[layer], duals.parity[layer]
    bent, moving = z.dtype.type(BENT if z.itemsize == 8 else BENT_SINGLE), duals.moving[layer]
    rounding = z.dtype.type(ROUNDING if z.itemsize == 8 else ROUNDING_SINGLE)
    for node in range(len(NODES)):
        square, share = z.dtype.type(NODES[node]), z.dtype.type(SHARES[node])
        for j in range(z.size):
            opposite = z[j] > w[j]
            m = square * (w[j] if opposite else z[j])
            node_z[j], node_w[j] = (one - m, m) if opposite else (m, one - m)
        call_row(
            duals.rows[layer], node_z, node_w, working[NODE_Z_K, :n], working[NODE_W_K, :n],
            node_rate, rows.traits, i, columns.traits, j0, first,
            duals.parameters[layer],
        )  # fmt: skip
        for j in range(z.size):
            total[j] += share * node_rate[j]
    length, bend = rows.traits[first, i], rows.traits[first + 1, i]
    lengths, bends = columns.traits[first], columns.traits[first + 1]
    for j in range(z.size):
        apart = length - lengths[j0 + j]
        square = apart * apart
        if moving:
            turned = half * (bend + bends[j0 + j]) * abs(apart)
        else:
            turned = bend * bends[j0 + j] * square
        arc = quarter * square
        chord = arc / (one + turned)
        rest = smaller(z[j], w[j]) * total[j]
        if arc > rounding and arc * turned * turned > bent * (arc + abs(rest)):
            continue
        if z[j] <= w[j]:
            if zk[j] < near:
                zk[j] = chord + rest
                wk[j] = one - zk[j]
        elif parity < 0 and wk[j] < near:
            wk[j] = chord + rest
            zk[j] = one - wk[j]
        elif parity > 0 and zk[j] < near:
            zk[j] = chord - rest
            wk[j] = one - zk[j]
