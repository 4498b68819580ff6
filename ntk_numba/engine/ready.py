"""A network made ready for data: its activations fitted to the variances, the error that leaves."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations import Activation
from ntk_numba.engine.dual import pair_dual
from ntk_numba.network import MLP

# Norms that stand for all below the largest: spaced by √2 and down to where nothing changes
STEPS = 160
# Between two of them a variance may be larger than at both
MARGIN = 1.02


class Ready(NamedTuple):
    """What the kernels take of a network beside its numbers.

    activations : of the hidden layers
    error : bounds of the errors of Σ and Θ of every layer, relative to √(K(x,x)·K(x',x')), beyond
        rounding; 0 where all is in closed form
    """

    activations: tuple[Activation, ...]
    error: tuple[float, float]

    @property
    def traits(self) -> int:
        """Numbers that a sample has besides those of every network."""
        return sum(a.trait_count for a in self.activations)


def needs_largest_norm(net: MLP) -> bool:
    """Return whether an activation has to be fitted to the variances that the data gives."""
    return any(a.ranged for a in net.activation)


def ready_for(net: MLP, largest_norm: float | None, features: int) -> Ready:
    """Return the network ready for rows of so many features whose norms are at most `largest_norm`.

    Parameters
    ----------
    largest_norm : float or None
        None if `needs_largest_norm` says that no activation depends on it.

    Raises
    ------
    ValueError
        An activation that cannot be had to its tolerance for such data.
    """
    if largest_norm is None:
        assert not needs_largest_norm(net)
        return Ready(net.activation, (0.0, 0.0))
    return _ready(net, largest_norm, features)


@lru_cache(maxsize=16)
def _ready(net: MLP, largest: float, features: int) -> Ready:
    real = np.longdouble
    norms = largest * 2.0 ** (-np.arange(STEPS) / 2)
    moment = np.append(norms, 0.0).astype(real) ** 2 / features
    a, q = _variances(net, 0, moment)
    done: list[Activation] = []
    error = Error(q)
    for layer, activation in enumerate(net.activation, start=1):
        # the first layer's variances grow with the norm, later ones mostly do
        fitted = activation.up_to(float(q.max() * (1 if layer == 1 else MARGIN)))
        done.append(fitted)
        a, after = _variances(net, layer, fitted.second_moment(q))
        error.advance(fitted, q, a, after)
        q = after
    return Ready(tuple(done), error.largest)


def _variances(
    net: MLP, layer: int, moment: NDArray[np.floating]
) -> tuple[NDArray[np.floating], ...]:
    """σ_w² moment and Σ(x,x), eq. 10 and 12."""
    a = np.longdouble(net.w_std[layer]) ** 2 * moment
    return a, a + np.longdouble(net.b_std[layer]) ** 2


class Error:
    """How errors of the duals grow from layer to layer, for a sample with itself.

    For a pair each step is a sum of terms √(t t'), at most √(Σt Σt') by Cauchy and Schwarz: what
    holds of samples, relative to their diagonals, holds of pairs. With the rate r, v = a/Σ and
    τ = Θ/Σ,

        e_K = r e + t,   e' = v e_K
        E' = v (r E + τ (r t₁ + D(e))) + e'

    where t, t₁ are the dual's own bounds (`Activation.bounds`) and D(e) = r(1) − r(1 − e) is the
    most that an error e of the cosine changes a rate: it is a power series of coefficients ≥ 0.
    """

    def __init__(self, q: NDArray[np.floating]) -> None:
        self._cosine = np.zeros(q.size)  # e
        self._tau = np.zeros(q.size)  # E
        self._ratio = np.ones(q.size)  # τ
        self._worst = [0.0, 0.0]

    def advance(
        self,
        activation: Activation,
        q: NDArray[np.floating],
        a: NDArray[np.floating],
        after: NDArray[np.floating],
    ) -> None:
        """A layer further, from variances q by way of a to `after`."""
        e = min(1.0, float(self._cosine.max()))
        _, _, rate = pair_dual(activation, q, q, np.zeros(q.size))
        _, _, changed = pair_dual(activation, q, q, np.full(q.size, e / 2))
        own, own_rate = activation.bounds
        with np.errstate(invalid="ignore"):
            v = np.where(after > 0, a / after, 0).astype(float)
        self._cosine = v * (rate * self._cosine + own)
        lost = np.maximum(rate - changed, 0) if e > 0 else 0.0
        self._tau = v * (rate * self._tau + self._ratio * (rate * own_rate + lost)) + self._cosine
        self._ratio = v * rate * self._ratio + 1
        self._worst[0] = max(self._worst[0], float(self._cosine.max()))
        self._worst[1] = max(self._worst[1], float((self._tau / self._ratio).max()))

    @property
    def largest(self) -> tuple[float, float]:
        """Of Σ and Θ, over all layers and samples so far."""
        return self._worst[0], self._worst[1]
