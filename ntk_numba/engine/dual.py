"""The dual of one activation for given pairs: what a layer of a tile does, without a network."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba import activations
from ntk_numba.activations import Activation, piecewise_linear
from ntk_numba.compiled.policy import kernel
from ntk_numba.duals.base import Dual
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.products import Floats
from ntk_numba.engine.rows import (
    RATE,
    W_K,
    WORKING,
    Z_K,
    Duals,
    W,
    Z,
    as_data,
    dual_of_row,
)
from ntk_numba.engine.samples import Samples
from ntk_numba.errors import InvalidValueError

SMALLEST = 1e-200  # a variance that stands for 0


def dual(
    activation: str | Activation, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """K = E[σ(u)σ(v)] and K̇ = E[σ'(u)σ'(v)], (u, v) ~ N(0, [[q1, s], [s, q2]]), s = ρ√(q1 q2).

    Parameters
    ----------
    activation : a name, or an `Activation`
    q1, q2 : array_like
        Variances, 0 and more.
    rho : array_like
        Correlations, −1 to 1; all three are broadcast.

    Returns
    -------
    k, k_dot : arrays of the broadcast shape
        To the accuracy of `gram`; of an activation by series, to its tolerance.

    Raises
    ------
    ValueError
        What is out of range, or an unknown activation.
    """
    q1, q2, rho = np.broadcast_arrays(*(np.asarray(v, float) for v in (q1, q2, rho)))
    if not (np.isfinite(q1) & np.isfinite(q2) & (q1 >= 0) & (q2 >= 0)).all():
        raise InvalidValueError("q1 and q2 must be variances: finite and not negative")
    if not (abs(rho) <= 1).all():
        raise InvalidValueError("rho must be correlations, from -1 to 1")
    shape = rho.shape
    q1, q2, rho = (v.ravel() for v in (q1, q2, rho))
    function = activations.get(activation)
    fitted = function.dual(float(max(q1.max(), q2.max(), 0)) if q1.size else 0.0)
    halves = (1 - rho) / 2, (1 + rho) / 2
    # where a variance is 0, K̇ is a limit: what the rate is relative to is 0 there
    small = [np.maximum(q, SMALLEST).astype(np.longdouble) for q in (q1, q2)]
    z, _, rate = pair_dual(fitted, small[0], small[1], *halves)
    with np.errstate(over="ignore"):
        roots = [np.sqrt(function.second_moment(q.astype(np.longdouble))) for q in (q1, q2)]
        k = roots[0] * roots[1] * (1 - 2 * z.astype(np.longdouble))
        slopes = [np.sqrt(function.second_moment(q) / q) for q in small]
        k_dot = rate * slopes[0] * slopes[1]
    return k.astype(float).reshape(shape), k_dot.astype(float).reshape(shape)


def pair_dual(
    dual: Dual,
    q1: NDArray[np.floating],
    q2: NDArray[np.floating],
    z: Floats,
    w: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Return (z_K, w_K, rate) of pairs of variances q1, q2 and z = sin²(θ/2), w = cos²(θ/2)."""
    of = [
        Samples(*_NOTHING, dual.of_samples(q.astype(np.longdouble)).astype(float)) for q in (q1, q2)
    ]
    out = np.empty((3, z.size))
    _pairs(z, 1 - z if w is None else w, *of, as_data([dual], np.dtype(float)), out)
    return out[0], out[1], out[2]


_NOTHING = (np.zeros((0, 1, 1)), np.zeros(0), *(np.zeros((0, 0)),) * 3)


@kernel()
def _pairs(
    z: Floats, w: Floats, first: Samples, second: Samples, duals: Duals, out: Floats
) -> None:
    working, bands = np.empty((WORKING, 1)), Bands(first, second)
    for i in range(z.size):
        working[Z, 0], working[W, 0] = z[i], w[i]
        if duals.loops[0] != 0:
            dual_of_row(working, Pairs(bands, i, i, 1), duals, 0)
            out[0, i], out[1, i] = working[Z_K, 0], working[W_K, 0]
            out[2, i] = working[RATE, 0]
        else:
            out[0, i], out[1, i], out[2, i] = piecewise_linear.dual(
                z[i], w[i], duals.parameters[0, 0], duals.parameters[0, 1]
            )
