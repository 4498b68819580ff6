"""A network fitted to its data: the dual of every layer, and the error that they leave."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals.base import Dual
from ntk_numba.engine.dual import pair_dual
from ntk_numba.network import MLP, Variance

# Norms that stand for all below the largest: spaced by √2 and down to where nothing changes
STEPS = 160
# Between two of them a variance may be larger than at both
MARGIN = 1.02


class FittedNetwork(NamedTuple):
    """A network with the duals of its hidden layers, fitted to the variances in the data.

    net : MLP
    duals : (L-1,) those of the hidden layers
    error : bounds of the errors of Σ and Θ of every layer, relative to √(K(x,x)·K(x',x')), beyond
        rounding; 0 where all duals are exact
    """

    net: MLP
    duals: tuple[Dual, ...]
    error: tuple[float, float]

    @property
    def coefficients(self) -> int:
        """How many numbers a sample has besides those of every network."""
        return sum(d.count for d in self.duals)


def needs_largest_norm(net: MLP) -> bool:
    """Return whether an activation has to be fitted to the variances in the data."""
    return any(a.facts.needs_largest for a in net.activation)


def fit_network(net: MLP, largest_norm: float | None, features: int) -> FittedNetwork:
    """Fit a network to rows of `features` numbers whose norms are at most `largest_norm`.

    Parameters
    ----------
    largest_norm : float or None
        None if `needs_largest_norm` says that no activation depends on it.

    Raises
    ------
    InvalidValueError
        An activation whose tolerance cannot be reached for such data.
    """
    if largest_norm is None:
        assert not needs_largest_norm(net)
        return FittedNetwork(net, tuple(a.dual(np.inf) for a in net.activation), (0.0, 0.0))
    return _fit(net, largest_norm, features)


@lru_cache(maxsize=16)
def _fit(net: MLP, largest: float, features: int) -> FittedNetwork:
    norms = largest * 2.0 ** (-np.arange(STEPS) / 2)
    moment = np.append(norms, 0.0).astype(np.longdouble) ** 2 / features
    before = net.layers[0].variance(moment)
    duals: list[Dual] = []
    error = ErrorBound(before.total.size)
    for number, layer in enumerate(net.layers[1:], start=1):
        assert layer.activation
        # the first layer's variances grow with the norm, later ones mostly do
        margin = 1 if number == 1 else MARGIN
        dual = layer.activation.dual(float(before.total.max() * margin))
        duals.append(dual)
        after = layer.variance(layer.activation.second_moment(before.total))
        error.advance(dual, before.total, after)
        before = after
    return FittedNetwork(net, tuple(duals), error.largest)


class ErrorBound:
    """A bound of how errors of the duals grow from layer to layer, for a sample with itself.

    For a pair each step is a sum of terms √(t t'), at most √(Σt Σt') by Cauchy and Schwarz: what
    holds of samples, relative to their diagonals, holds of pairs. With the rate r, v = a/Σ and
    τ = Θ/Σ,

        e_K = r e + t,   e' = v e_K
        E' = v (r E + τ (r t₁ + D(e))) + e'

    where t, t₁ are the dual's own bounds (`Dual.bounds`) and D(e) = r(1) − r(1 − e) is the
    most that an error e of the cosine changes a rate: it is a power series of coefficients ≥ 0.
    """

    def __init__(self, samples: int) -> None:
        self._cosine = np.zeros(samples)  # e
        self._tau = np.zeros(samples)  # E
        self._ratio = np.ones(samples)  # τ
        self._worst = [0.0, 0.0]

    def advance(self, dual: Dual, q: NDArray[np.floating], after: Variance) -> None:
        """Propagate the bounds through one layer: Σ(x,x) is q before it."""
        e = min(1.0, float(self._cosine.max()))
        _, _, rate = pair_dual(dual, q, q, np.zeros(q.size))
        _, _, changed = pair_dual(dual, q, q, np.full(q.size, e / 2))
        own, own_rate = dual.bounds
        with np.errstate(invalid="ignore"):
            v = np.where(after.total > 0, after.weights / after.total, 0).astype(float)
        self._cosine = v * (rate * self._cosine + own)
        lost = np.maximum(rate - changed, 0) if e > 0 else 0.0
        self._tau = v * (rate * self._tau + self._ratio * (rate * own_rate + lost)) + self._cosine
        self._ratio = v * rate * self._ratio + 1
        self._worst[0] = max(self._worst[0], float(self._cosine.max()))
        self._worst[1] = max(self._worst[1], float((self._tau / self._ratio).max()))

    @property
    def largest(self) -> tuple[float, float]:
        """The bounds of Σ and Θ over all layers and samples so far."""
        return self._worst[0], self._worst[1]
