"""A network fitted to its data: the dual of every layer, and bounds of the errors of these duals.

`compute.plan` and `compute.memory` call `fit_network` before any kernel is made.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals.base import Dual
from ntk_numba.duals.series import ToleranceError, wider_tolerance
from ntk_numba.engine.dual import rates_of_equals
from ntk_numba.errors import InvalidValueError
from ntk_numba.network import MLP, Layer, Variance

# The number of norms at which variances and error bounds are evaluated. They fall from the largest
# by factors of √2, down to norms so small that the bounds no longer change.
NORM_STEPS = 160
# A factor on the largest variance found, since between two of these norms it may be larger.
VARIANCE_MARGIN = 1.02
# The number of times that a network is fitted, and what a finer tolerance leaves for the bounds to
# fall less than in proportion
ATTEMPTS, MARGIN = 5, 0.7
# The smallest tolerance of a dual that is fitted again; the rounding errors in a bound are near it.
TIGHTEST = 1e-13


class FittedNetwork(NamedTuple):
    """A network with the duals of its hidden layers, fitted to the variances in the data.

    net : MLP
    duals : (L-1,) the duals of the hidden layers
    error : bounds of the errors of Σ and Θ of every layer, relative to √(K(x,x)·K(x',x')), in
        addition to rounding; (0, 0) if all duals are exact
    """

    net: MLP
    duals: tuple[Dual, ...]
    error: tuple[float, float]

    @property
    def coefficients(self) -> int:
        """The number of coefficients of a sample that the duals of all layers take."""
        return sum(d.count for d in self.duals)


def needs_largest_norm(net: MLP) -> bool:
    """Return whether the dual of an activation depends on the largest variance in the data."""
    return any(a.facts.needs_largest for a in net.activation)


def fit_network(
    net: MLP, largest_norm: float | None, features: int, others: tuple[MLP, ...] = ()
) -> FittedNetwork:
    """Fit a network to rows of `features` numbers whose norms are at most `largest_norm`.

    Parameters
    ----------
    net : MLP
    largest_norm : float or None
        None if `needs_largest_norm` is false.
    features : int
        n0.
    others : tuple of MLP, optional
        Networks with other w_std and b_std, whose variances the duals cover too.

    Raises
    ------
    ValueError
        If the tolerance of an activation cannot be reached for such data.

    Notes
    -----
    The errors of a layer grow in the layers behind it. The tolerance is that of the result: the
    bounds of Σ and Θ are at most the largest tolerance of all activations. So each dual is first
    fitted to the tolerance of its own activation, and again to smaller ones, all by the same
    factor, until the bounds are small enough. If an activation with a kink, such as relu, is behind
    a series, this holds for Σ, and the bound of Θ may be larger.
    """
    return FittedNetwork(net, *_fit(net, largest_norm, features, others))


@lru_cache(maxsize=16)
def _fit(
    net: MLP, largest_norm: float | None, features: int, others: tuple[MLP, ...]
) -> tuple[tuple[Dual, ...], tuple[float, float]]:
    """Return the duals and the bounds of `fit_network`; the last ones are cached."""
    if largest_norm is None:
        assert not needs_largest_norm(net)
        return tuple(a.dual(np.inf) for a in net.activation), (0.0, 0.0)
    wanted, scale = max((a.tolerance for a in net.activation), default=0.0), 1.0
    if wanted == 0:
        return _fit_once(net.layers, largest_norm, features, others)
    held = 1 if _kink_behind_series(net) else 2  # Σ alone, or Θ too
    for _ in range(ATTEMPTS):
        layers = tuple(_finer(layer, scale) for layer in net.layers)
        try:
            duals, error = _fit_once(layers, largest_norm, features, others)
        except ToleranceError as refused:
            if scale == 1:
                raise
            # errors of a result are proportional to those of the duals
            reached = wanted * refused.reached / (MARGIN * refused.asked)
            raise _unreachable(net, reached) from None
        largest = max(error[:held])
        if largest <= wanted:
            return duals, error
        tolerances = (a.tolerance for a in (layer.activation for layer in layers) if a)
        if scale < 1 and max(tolerances) <= TIGHTEST:
            break
        scale *= MARGIN * wanted / largest
    raise _unreachable(net, largest)


def _kink_behind_series(net: MLP) -> bool:
    """Return whether an activation with a kink and a closed form is behind one with a series.

    An error e of an angle's cosine changes the rate at such a kink by √e, so that no series is
    exact enough for Θ.
    """
    series = [k for k, a in enumerate(net.activation) if a.tolerance > 0]
    return any(a.kinks and a.tolerance == 0 for a in net.activation[series[0] :])


def _finer(layer: Layer, factor: float) -> Layer:
    """Return a layer whose activation has its tolerance times a factor."""
    a = layer.activation
    if a is None or a.tolerance == 0 or factor == 1:
        return layer
    return replace(layer, activation=a.finer(max(TIGHTEST, a.tolerance * factor)))


def _unreachable(net: MLP, reached: float) -> InvalidValueError:
    """Return the error that the bounds of a result are above the tolerance."""
    series = max(net.activation, key=lambda a: a.tolerance)
    wider = wider_tolerance(series, reached)
    return InvalidValueError(
        f"activation {series.name}: the errors of its series grow from layer to layer, and those "
        f"of the result would be up to {reached:.1e}, not {series.tolerance:g}; take fewer layers "
        f"or a smaller w_std{f', or ask for {wider}' if wider else ''}"
    )


def _fit_once(
    layers: tuple[Layer, ...], largest_norm: float, features: int, others: tuple[MLP, ...]
) -> tuple[tuple[Dual, ...], tuple[float, float]]:
    """Return the duals of layers, each with the tolerance of its own, and the bounds."""
    norms = largest_norm * 2.0 ** (-np.arange(NORM_STEPS) / 2)
    moment = np.append(norms, 0.0).astype(np.longdouble) ** 2 / features
    before = layers[0].variance(moment)
    moved = [other.layers[0].variance(moment).total for other in others]
    duals: list[Dual] = []
    steps = []
    for number, layer in enumerate(layers[1:], start=1):
        assert layer.activation
        # The variances of the first layer grow with the norm, so their largest one is exact.
        margin = 1 if number == 1 else VARIANCE_MARGIN
        largest = max(float(q.max()) for q in (before.total, *moved))
        dual = layer.activation.dual(largest * margin)
        moved = [
            other.layers[number].variance(layer.activation.second_moment(q)).total
            for other, q in zip(others, moved, strict=True)
        ]
        duals.append(dual)
        after = layer.variance(layer.activation.second_moment(before.total))
        steps.append((dual, before.total, after))
        before = after
    if not any(bound for dual in duals for bound in dual.bounds):
        return tuple(duals), (0.0, 0.0)  # without the coefficients of all these norms
    error = ErrorBound(before.total.size)
    for step in steps:
        error.advance(*step)
    return tuple(duals), error.largest


def _no_curve(q: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a curve of length 0, (2, N)."""
    return np.zeros((2, q.size))


class ErrorBound:
    """Bounds of the errors of Σ and Θ that errors of the duals cause, layer after layer.

    They are computed for samples with themselves. For a pair each step is a sum of terms √(t t'),
    at most √(Σt Σt') by Cauchy and Schwarz, so a bound that holds for all samples, relative to the
    diagonal, holds for all pairs. With the rate r, v = a/Σ, τ = Θ/Σ and the bounds e of cosθ and E
    of τ,

        e_K = r e + t,   e' = v e_K
        E' = v (r E + τ (r t₁ + D(e))) + e'

    where t, t₁ are the bounds of the dual itself (`Dual.bounds`) and D(e) = r(1) − r(1 − e) is the
    largest change of a rate by an error e of the cosine, since the rate is a power series in the
    cosine with coefficients ≥ 0.

    samples : the number of samples, each with a variance of its own
    """

    def __init__(self, samples: int) -> None:
        self._cosine = np.zeros(samples)  # e
        self._tau = np.zeros(samples)  # E
        self._ratio = np.ones(samples)  # τ
        self._worst = [0.0, 0.0]

    def advance(self, dual: Dual, q: NDArray[np.floating], after: Variance) -> None:
        """Propagate the bounds through one layer, from variances q to the variances `after`."""
        if dual.curve is not None:  # no arc lies between equal variances, and curves take time
            dual = replace(dual, curve=_no_curve)
        e = min(1.0, float(self._cosine.max()))
        rate, changed = rates_of_equals(dual, q, (0.0, e / 2))
        t, t1 = dual.bounds
        with np.errstate(invalid="ignore"):
            v = np.where(after.total > 0, after.weights / after.total, 0).astype(float)
        self._cosine = v * (rate * self._cosine + t)
        rate_error = np.maximum(rate - changed, 0) if e > 0 else 0.0
        self._tau = v * (rate * self._tau + self._ratio * (rate * t1 + rate_error)) + self._cosine
        self._ratio = v * rate * self._ratio + 1
        self._worst[0] = max(self._worst[0], float(self._cosine.max()))
        self._worst[1] = max(self._worst[1], float((self._tau / self._ratio).max()))

    @property
    def largest(self) -> tuple[float, float]:
        """The largest bounds of Σ and Θ over the samples and the layers so far."""
        return self._worst[0], self._worst[1]
