"""The dual of one activation for given pairs, computed with the loops that a tile uses.

`dual` is public; `engine.fitted` and the tests call `pair_dual`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba import activations
from ntk_numba.activations import Activation, one_kink
from ntk_numba.compiled.policy import kernel
from ntk_numba.duals.base import Dual
from ntk_numba.engine.pairs import Bands, Pairs
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
from ntk_numba.extended import Extended, extended
from ntk_numba.function import Floats

SMALLEST_VARIANCE = 1e-200  # used in place of a variance of 0


def dual(
    activation: str | Activation, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the dual of an activation and of its derivative for pairs of Gaussian variables.

    For (u, v) ~ N(0, [[q1, s], [s, q2]]) with s = ρ√(q1 q2), these are the two expectations of the
    recursion (eq. 12 and 26):

        K = E[σ(u)σ(v)],    K̇ = E[σ'(u)σ'(v)]

    Parameters
    ----------
    activation : str or Activation
        A name such as ``"relu"`` or ``"leaky_relu:0.2"``, or an activation.
    q1, q2 : array_like
        The variances of u and v, which must be finite and not negative.
    rho : array_like
        The correlations, from −1 to 1. q1, q2 and rho are broadcast against each other.

    Returns
    -------
    k, k_dot : arrays of float64 of the broadcast shape
        K and K̇. Where a variance is 0, K̇ is the limit as it goes to 0.

    Raises
    ------
    ValueError, TypeError
        If a variance or a correlation is out of range, shapes do not match, or the activation is
        unknown.

    Notes
    -----
    The accuracy is that of `gram`, which `ntk_numba.accuracy` states. For an activation whose dual
    is a series, its tolerance is added.

    Examples
    --------
    >>> k, k_dot = ntk_numba.dual("relu", 1.0, 1.0, [-1.0, 0.0, 1.0])
    >>> k.round(4)
    array([0.    , 0.1592, 0.5   ])
    >>> k_dot
    array([0.  , 0.25, 0.5 ])
    """
    try:
        q1, q2, rho = np.broadcast_arrays(*(np.asarray(v, float) for v in (q1, q2, rho)))
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"q1, q2 and rho must be numbers, or arrays that broadcast: {error}"
        ) from None
    if not (np.isfinite(q1) & np.isfinite(q2) & (q1 >= 0) & (q2 >= 0)).all():
        raise InvalidValueError("q1 and q2 must be variances: finite and not negative")
    if not (abs(rho) <= 1).all():
        raise InvalidValueError("rho must be correlations, from -1 to 1")
    shape = rho.shape
    if not rho.size:
        activations.get(activation)  # raises for a wrong name here too
        return np.empty(shape), np.empty(shape)
    q1, q2, rho = (v.ravel() for v in (q1, q2, rho))
    function = activations.get(activation)
    fitted = function.dual(float(np.max([q1, q2], initial=0)))
    halves = (1 - rho) / 2, (1 + rho) / 2
    # K̇ is the rate times √(K(q)K(q')/qq'), which is 0/0 where a variance is 0, and there a limit.
    positive = [np.maximum(q, SMALLEST_VARIANCE) for q in (q1, q2)]
    z, _, rate = pair_dual(fitted, positive[0], positive[1], *halves)
    roots = [np.sqrt(function.moment(extended(q))) for q in (q1, q2)]
    k = roots[0] * roots[1] * (1 - 2 * extended(z))
    slopes = [np.sqrt(function.moment(extended(q)) / q) for q in positive]
    k_dot = rate * slopes[0] * slopes[1]
    return k.astype(float).reshape(shape), k_dot.astype(float).reshape(shape)


def pair_dual(
    dual: Dual,
    q1: NDArray[np.float64],
    q2: NDArray[np.float64],
    z: Floats,
    w: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Return (z_K, w_K, rate) of pairs of variances q1, q2 and z = sin²(θ/2), w = cos²(θ/2).

    q1, q2, z, w : (n,); w is 1 − z by default, and is given where it is small
    """
    first, second = _samples(dual, q1), _samples(dual, q2)
    out = np.empty((3, z.size))
    _pairs(z, 1 - z if w is None else w, first, second, as_data([dual], np.dtype(float)), out)
    return out[0], out[1], out[2]


def rates_of_equals(dual: Dual, q: Extended, angles: Sequence[float]) -> list[NDArray[np.float64]]:
    """Return the rates of pairs of equal variances q at each z = sin²(θ/2), as `pair_dual` does."""
    # variances behind a layer with a bias are all equal where those of the data are small
    distinct, place = np.unique(q.astype(float), return_inverse=True)
    samples, data = _samples(dual, distinct), as_data([dual], np.dtype(float))
    out = np.empty((3, distinct.size))
    rates = []
    for angle in angles:
        z = np.full(distinct.size, angle)
        _pairs(z, 1 - z, samples, samples, data, out)
        rates.append(out[2][place])
    return rates


def _samples(dual: Dual, q: NDArray[np.float64]) -> Samples:
    """Return samples of the given variances."""
    return Samples(*_NOTHING, dual.of_samples(extended(q)))


# The fields of `Samples` that `_pairs` does not read
_NOTHING = (np.zeros((0, 1, 1)), np.zeros(0), *(np.zeros((0, 0)),) * 3)


@kernel()
def _pairs(
    z: Floats, w: Floats, first: Samples, second: Samples, duals: Duals, out: Floats
) -> None:
    """Fill out, (3, n), with z_K, w_K and the rate of sample i of `first` and of `second`."""
    working, bands = np.empty((WORKING, 1)), Bands(first, second)
    for i in range(z.size):
        working[Z, 0], working[W, 0] = z[i], w[i]
        if duals.loops[0] != 0:
            dual_of_row(working, Pairs(bands, i, i, 1), duals, 0)
            out[0, i], out[1, i] = working[Z_K, 0], working[W_K, 0]
            out[2, i] = working[RATE, 0]
        else:
            out[0, i], out[1, i], out[2, i] = one_kink.dual(
                z[i], w[i], duals.parameters[0, 0], duals.parameters[0, 1]
            )
