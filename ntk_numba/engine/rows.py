"""The dual of a layer for a row of pairs, by a `DualLoop`, with small angles recomputed.

Most loops give cosθ_K, whose rounding error ε is an error ε/sinθ_K of the angle: where θ_K is
small, no digit is left. There the angle is computed from two parts, neither of which cancels. The
first comes from the difference of the norms and is a chord of the activation's curve (see
`duals.curve`), the second comes from the angle of the samples:

    z_K = |f_q − f_q'|²/4 + ∫_0^z rate dz = |f_q − f_q'|²/4 + z Σ_g w_g rate(z s_g²)

by a Gauss rule in √z, which is as good for the odd powers of the angle that a kink causes. For odd
functions the same holds for w_K and w; even functions do not distinguish opposite samples from
equal ones.
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
from ntk_numba.function import Floats

# s_g² and w_g: ∫_0^1 2s f(s) ds = Σ w_g f(s_g), exact for f of degree 5
NODES = (0.0450885041796932, 0.34872938419345767, 0.8306719075452166)
GAUSS_WEIGHTS = (0.1396539598029083, 0.4584822127191727, 0.401863827477919)

# The limit of the next term of a chord's series, relative to z_K, in float64 and float32. If the
# term is larger, z_K of the loop is more accurate and is kept. This happens for functions that
# approach one with a kink as q grows: their curves become short and bent.
CHORD_ERROR, CHORD_ERROR_SINGLE = 1e-10, 1e-4
# Below this, z_K of the loop has no correct digit, and the chord is used in any case.
ROUNDING, ROUNDING_SINGLE = 1e-16, 6e-8

# The rows of the working memory of a thread, and their number. TOTAL is the sum of the Gauss rule.
Z, W, TAU, Z_K, W_K, RATE = range(6)
NODE_Z, NODE_W, NODE_Z_K, NODE_W_K, NODE_RATE, TOTAL = range(6, 12)
WORKING = 12


class Duals(NamedTuple):
    """The duals of the hidden layers, as data, so that nothing is compiled for another network.

    loops : (L-1,) the addresses of the loops; 0 for the loops of `recursion`
    parameters : (L-1, k) the constants of the loops
    own : (L-1,) the first row of `Samples.coefficients` that the loop takes
    curve : (L-1,) the first of the two rows of the curve, see `duals.base.Dual`
    curve_limit : (L-1,) the limit below which z_K is computed from the curve, 0 if it never is
    kinks_move : (L-1,) whether the function has kinks off 0, which bend the curve
    parity : (L-1,) 1 for even functions, −1 for odd ones, else 0
    never_obtuse : (L-1,) whether an activation leaves no pair obtuse
    """

    loops: NDArray[np.int64]
    parameters: Floats
    own: NDArray[np.int64]
    curve: NDArray[np.int64]
    curve_limit: Floats
    kinks_move: NDArray[np.bool_]
    parity: NDArray[np.int64]
    never_obtuse: NDArray[np.bool_]


def as_data(duals: Sequence[Dual], dtype: np.dtype) -> Duals:
    """Compile the loops of a network's duals, and return the duals as data."""
    width = max([1, *(len(d.parameters) for d in duals)])
    parameters = np.zeros((len(duals), width), dtype)
    for values, d in zip(parameters, duals, strict=True):
        values[: len(d.parameters)] = d.parameters
    counts = [d.count for d in duals]
    first = np.array([sum(counts[:k]) for k in range(len(counts))], np.int64)
    return Duals(
        loops=np.array([d.loop.address(dtype) if d.loop else 0 for d in duals], np.int64),
        parameters=parameters,
        own=first + np.array([2 if d.curve else 0 for d in duals], np.int64),
        curve=first,
        curve_limit=np.array([d.curve_limit(dtype) for d in duals], dtype),
        kinks_move=np.array([d.kinks_move for d in duals], np.bool_),
        parity=np.array([d.parity for d in duals], np.int64),
        never_obtuse=np.array([d.never_obtuse for d in duals], np.bool_),
    )


@njit
def dual_of_row(working: Floats, pairs: Pairs, duals: Duals, layer: int) -> None:
    """Fill z_K, w_K and the rate of a row of pairs from its z and w.

    working : (WORKING, ·), of which the first n columns are used. The function takes its rows one
        by one: a two-dimensional slice is not contiguous for the compiler, which would then not
        vectorise the loops.
    """
    (rows, columns), i, j0, n = pairs
    z, w, zk, wk = working[Z, :n], working[W, :n], working[Z_K, :n], working[W_K, :n]
    address, own, limit = duals.loops[layer], duals.own[layer], duals.curve_limit[layer]
    call_loop(
        address,
        Angles(z, w, zk, wk, working[RATE, :n]),
        Coefficients(rows.coefficients, i, columns.coefficients, j0, own),
        duals.parameters[layer],
    )
    if limit == 0:
        return
    first = duals.curve[layer]
    length = rows.coefficients[first, i]
    lengths = columns.coefficients[first, j0 : j0 + z.size]
    odd = duals.parity[layer] < 0
    one, none = z.dtype.type(1), z.dtype.type(0)
    nearest = one
    for j in range(n):
        nearest = smaller(nearest, smaller(zk[j], wk[j]) if odd else zk[j])
    if nearest >= limit:
        return
    nearest = one
    for j in range(n):
        same = z[j] == 0 and lengths[j] == length  # as on the diagonal: z_K is exactly 0
        zk[j] = none if same else zk[j]
        wk[j] = one if same else wk[j]
        nearest = smaller(nearest, one if same else (smaller(zk[j], wk[j]) if odd else zk[j]))
    if nearest < limit:
        _recompute_small_angles(working, pairs, duals, layer)


@njit
def _recompute_small_angles(working: Floats, pairs: Pairs, duals: Duals, layer: int) -> None:
    """Recompute z_K and w_K where the angle, or its distance from π, is small."""
    (rows, columns), i, j0, n = pairs
    z, w, zk, wk = working[Z, :n], working[W, :n], working[Z_K, :n], working[W_K, :n]
    node_z, node_w, total = working[NODE_Z, :n], working[NODE_W, :n], working[TOTAL, :n]
    node_rate = working[NODE_RATE, :n]
    one, half, quarter = z.dtype.type(1), z.dtype.type(0.5), z.dtype.type(0.25)
    total[:] = z.dtype.type(0)
    nodes = Angles(node_z, node_w, working[NODE_Z_K, :n], working[NODE_W_K, :n], node_rate)
    own = duals.own[layer]
    coefficients = Coefficients(rows.coefficients, i, columns.coefficients, j0, own)
    first, limit, parity = duals.curve[layer], duals.curve_limit[layer], duals.parity[layer]
    chord_error = z.dtype.type(CHORD_ERROR if z.itemsize == 8 else CHORD_ERROR_SINGLE)
    kinks_move = duals.kinks_move[layer]
    rounding = z.dtype.type(ROUNDING if z.itemsize == 8 else ROUNDING_SINGLE)
    for node in range(len(NODES)):
        node_square, gauss_weight = z.dtype.type(NODES[node]), z.dtype.type(GAUSS_WEIGHTS[node])
        for j in range(z.size):
            opposite = z[j] > w[j]
            m = node_square * (w[j] if opposite else z[j])
            node_z[j], node_w[j] = (one - m, m) if opposite else (m, one - m)
        call_loop(duals.loops[layer], nodes, coefficients, duals.parameters[layer])
        for j in range(z.size):
            total[j] += gauss_weight * node_rate[j]
    length, bend = rows.coefficients[first, i], rows.coefficients[first + 1, i]
    lengths, bends = columns.coefficients[first], columns.coefficients[first + 1]
    for j in range(z.size):
        difference = length - lengths[j0 + j]
        square = difference * difference
        if kinks_move:
            bending = half * (bend + bends[j0 + j]) * abs(difference)
        else:
            bending = bend * bends[j0 + j] * square
        arc = quarter * square
        chord = arc / (one + bending)
        angle_part = smaller(z[j], w[j]) * total[j]
        if arc > rounding and arc * bending * bending > chord_error * (arc + abs(angle_part)):
            continue
        if z[j] <= w[j]:
            if zk[j] < limit:
                zk[j] = chord + angle_part
                wk[j] = one - zk[j]
        elif parity < 0 and wk[j] < limit:
            wk[j] = chord + angle_part
            zk[j] = one - wk[j]
        elif parity > 0 and zk[j] < limit:
            zk[j] = chord - angle_part
            wk[j] = one - zk[j]
