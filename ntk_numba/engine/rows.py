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

from ntk_numba.compiled.intrinsics import smaller
from ntk_numba.compiled.loops import Angles, Coefficients, call_loop
from ntk_numba.compiled.policy import njit
from ntk_numba.duals.base import Dual
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

    loops : (L-1,) the addresses of their loops; 0 for the engine's own loop
    parameters : (L-1, k)
    own : (L-1,) the first row of `Samples.coefficients` that the loop takes
    curve : (L-1,) the first row of the curve's two, see `duals.base.Dual`
    near : (L-1,) z_K below which it is computed from the curve, 0 if never
    kinks_move : (L-1,) whether kinks off 0 are what bends the curve
    parity : (L-1,)
    never_obtuse : (L-1,) whether an activation leaves no pair obtuse
    """

    loops: NDArray[np.int64]
    parameters: Floats
    own: NDArray[np.int64]
    curve: NDArray[np.int64]
    near: Floats
    kinks_move: NDArray[np.bool_]
    parity: NDArray[np.int64]
    never_obtuse: NDArray[np.bool_]


def as_data(duals: Sequence[Dual], dtype: np.dtype) -> Duals:
    """Return the duals of a network's hidden layers as data, their loops compiled."""
    width = max([1, *(len(d.parameters) for d in duals)])
    parameters = np.zeros((len(duals), width), dtype)
    for values, d in zip(parameters, duals, strict=True):
        values[: len(d.parameters)] = d.parameters
    counts = [d.count for d in duals]
    first = np.array([sum(counts[:k]) for k in range(len(counts))], np.int64)
    return Duals(
        np.array([d.loop.address(dtype) if d.loop else 0 for d in duals], np.int64),
        parameters,
        first + np.array([2 if d.curve else 0 for d in duals], np.int64),
        first,
        np.array([d.near(dtype) for d in duals], dtype),
        np.array([d.kinks_move for d in duals], np.bool_),
        np.array([d.parity for d in duals], np.int64),
        np.array([d.never_obtuse for d in duals], np.bool_),
    )


@njit
def dual_of_row(working: Floats, pairs: Pairs, duals: Duals, layer: int) -> None:
    """Fill z_K, w_K and the rate of a row of pairs from its z and w.

    working : (WORKING, ·), of which n are used; rows of it, since a part of all would not be
        contiguous for the compiler, and its loops not vectorised
    """
    (rows, columns), i, j0, n = pairs
    z, w, zk, wk = working[Z, :n], working[W, :n], working[Z_K, :n], working[W_K, :n]
    address, own, near = duals.loops[layer], duals.own[layer], duals.near[layer]
    call_loop(
        address,
        Angles(z, w, zk, wk, working[RATE, :n]),
        Coefficients(rows.coefficients, i, columns.coefficients, j0, own),
        duals.parameters[layer],
    )
    if near == 0:
        return
    first = duals.curve[layer]
    length = rows.coefficients[first, i]
    lengths = columns.coefficients[first, j0 : j0 + z.size]
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
    nodes = Angles(node_z, node_w, working[NODE_Z_K, :n], working[NODE_W_K, :n], node_rate)
    own = duals.own[layer]
    coefficients = Coefficients(rows.coefficients, i, columns.coefficients, j0, own)
    first, near, parity = duals.curve[layer], duals.near[layer], duals.parity[layer]
    bent, moving = z.dtype.type(BENT if z.itemsize == 8 else BENT_SINGLE), duals.kinks_move[layer]
    rounding = z.dtype.type(ROUNDING if z.itemsize == 8 else ROUNDING_SINGLE)
    for node in range(len(NODES)):
        square, share = z.dtype.type(NODES[node]), z.dtype.type(SHARES[node])
        for j in range(z.size):
            opposite = z[j] > w[j]
            m = square * (w[j] if opposite else z[j])
            node_z[j], node_w[j] = (one - m, m) if opposite else (m, one - m)
        call_loop(duals.loops[layer], nodes, coefficients, duals.parameters[layer])
        for j in range(z.size):
            total[j] += share * node_rate[j]
    length, bend = rows.coefficients[first, i], rows.coefficients[first + 1, i]
    lengths, bends = columns.coefficients[first], columns.coefficients[first + 1]
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
