"""A network fitted to its data: the dual of every layer, and bounds of the errors of these duals.

`compute.plan` and `compute.memory` call `fit_network` before any kernel is made.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals.base import Activation, Dual
from ntk_numba.duals.series import ToleranceError, wider_tolerance
from ntk_numba.engine.dual import rates_of_equals
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import Extended, extended, where
from ntk_numba.network import MLP, Layer, Variance

# The number of norms at which variances and error bounds are evaluated. They fall from the largest
# by factors of √2, down to norms so small that the bounds no longer change.
NORM_STEPS = 160
# A factor on the largest variance found, since between two of these norms it may be larger.
VARIANCE_MARGIN = 1.02
# The k-th series is fitted so that the bounds up to it are at most the share k/(k + RESERVE) of the
# tolerance, which leaves something for any number of further layers. With 3, the first layer takes
# ¼ of it, so that the errors of one may become four times as large in all layers behind it.
RESERVE = 3
# The factor between the tolerances that are tried for a series
STEP = math.sqrt(0.1)
# The number of times that all series are fitted by one factor, and what a finer tolerance leaves
# for the bounds to fall less than in proportion
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
    bounds of Σ and Θ are at most the largest tolerance of all activations. If an activation with a
    kink, such as relu, is behind a series, this holds for Σ, and the bound of Θ may be larger.

    So the duals are fitted from the first layer on. The k-th series gets the largest of the
    tolerances a, a/√10, a/10, …, where a is that of its activation, with which the bounds of all
    layers up to it are at most k/(k + 3) of the largest tolerance of these layers; or the finest
    that can be reached, if the bounds are at most that tolerance. This depends on the layers up to
    it only, so the first l layers of a network are those of the network of depth l. It fails if
    layers amplify the errors of those before them by more than what is left, as 10 to 20 layers of
    tanh with a w_std of 2 do. Then the tolerances of all activations are reduced by one factor,
    until the bounds are small enough, and the first layers may differ from those of a network of
    less depth.
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
    hidden = tuple(_hidden_layers(net.layers, largest_norm, features, others))
    duals = tuple(layer.dual for layer in hidden)
    if not any(bound for dual in duals for bound in dual.bounds):
        return duals, (0.0, 0.0)  # without the coefficients of all norms
    wanted = max(a.tolerance for a in net.activation)
    if wanted == 0:
        return duals, _bounds(hidden, duals)
    return _fit_from_the_first(hidden) or _fit_by_one_factor(net, hidden, wanted)


class _Hidden(NamedTuple):
    """What the fit of a hidden layer needs of it.

    activation : Activation
    largest : the largest variance in front of the activation
    variances : (NORM_STEPS + 1,) the variances there of samples of all norms
    after : the variances behind it
    dual : the dual with the tolerance of the activation
    """

    activation: Activation
    largest: float
    variances: Extended
    after: Variance
    dual: Dual

    def finer(self, factor: float) -> Dual:
        """Return the dual with the tolerance times a factor."""
        a = self.activation
        if a.tolerance == 0 or factor == 1:
            return self.dual
        return a.finer(max(TIGHTEST, a.tolerance * factor)).dual(self.largest)


def _hidden_layers(
    layers: tuple[Layer, ...], largest_norm: float, features: int, others: tuple[MLP, ...]
) -> Iterator[_Hidden]:
    """Yield the hidden layers from the first to the last."""
    norms = np.ldexp(largest_norm, -np.arange(NORM_STEPS // 2))
    norms = np.stack([norms, norms * math.sqrt(0.5)], axis=1).ravel()
    moment = extended(np.append(norms, 0.0)) ** 2 / features
    before = layers[0].variance(moment)
    moved = [other.layers[0].variance(moment).total for other in others]
    for number, layer in enumerate(layers[1:], start=1):
        assert layer.activation
        # The variances of the first layer grow with the norm, so their largest one is exact.
        margin = 1 if number == 1 else VARIANCE_MARGIN
        largest = max(float(q.astype(float).max()) for q in (before.total, *moved)) * margin
        dual = layer.activation.dual(largest)
        moved = [
            other.layers[number].variance(layer.activation.moment(q)).total
            for other, q in zip(others, moved, strict=True)
        ]
        after = layer.variance(layer.activation.moment(before.total))
        yield _Hidden(layer.activation, largest, before.total, after, dual)
        before = after


def _bounds(hidden: tuple[_Hidden, ...], duals: tuple[Dual, ...]) -> tuple[float, float]:
    """Return the bounds of Σ and Θ of all layers with these duals."""
    error = ErrorBound(hidden[0].variances.size)
    for layer, dual in zip(hidden, duals, strict=True):
        error = error.behind(dual, layer.variances, layer.after)
    return error.largest


def _fit_from_the_first(
    hidden: tuple[_Hidden, ...],
) -> tuple[tuple[Dual, ...], tuple[float, float]] | None:
    """Return duals each of which depends on the layers up to its own only, or None.

    The bounds of the first layers alone must be within the tolerance, with Θ up to a kink behind a
    series.
    """
    error = ErrorBound(hidden[0].variances.size)
    duals: list[Dual] = []
    wanted, series, held = 0.0, 0, 2
    for layer in hidden:
        tolerance = layer.activation.tolerance
        wanted = max(wanted, tolerance)
        series += tolerance > 0
        if series and tolerance == 0 and layer.activation.kinks:
            held = 1
        dual, behind = layer.dual, error.behind(layer.dual, layer.variances, layer.after)
        factor = 1.0
        while (
            max(behind.largest[:held]) > wanted * series / (series + RESERVE)
            and tolerance * factor > TIGHTEST
        ):
            factor *= STEP
            try:
                dual = layer.finer(factor)
            except ToleranceError:
                break
            behind = error.behind(dual, layer.variances, layer.after)
        if series and max(behind.largest[:held]) > wanted:
            return None
        error = behind
        duals.append(dual)
    return tuple(duals), error.largest


def _fit_by_one_factor(
    net: MLP, hidden: tuple[_Hidden, ...], wanted: float
) -> tuple[tuple[Dual, ...], tuple[float, float]]:
    """Return duals whose tolerances are those of the activations times a factor for all of them."""
    held = 1 if _kink_behind_series(net) else 2  # Σ alone, or Θ too
    scale = 1.0
    for attempt in range(1, ATTEMPTS + 1):
        if attempt == ATTEMPTS:  # a part of the errors does not depend on the tolerances
            scale = min(scale, TIGHTEST / wanted)
        try:
            duals = tuple(layer.finer(scale) for layer in hidden)
        except ToleranceError as refused:
            # errors of a result are proportional to those of the duals
            reached = wanted * refused.reached / (MARGIN * refused.asked)
            raise _unreachable(net, reached) from None
        error = _bounds(hidden, duals)
        largest = max(error[:held])
        if largest <= wanted:
            return duals, error
        if scale < 1 and wanted * scale <= TIGHTEST:
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


def _unreachable(net: MLP, reached: float) -> InvalidValueError:
    """Return the error that the bounds of a result are above the tolerance."""
    series = max(net.activation, key=lambda a: a.tolerance)
    wider = wider_tolerance(series, reached)
    return InvalidValueError(
        f"activation {series.name}: the errors of its series grow from layer to layer, and those "
        f"of the result would be up to {reached:.1e}, not {series.tolerance:g}; take fewer layers "
        f"or a smaller w_std{f', or ask for {wider}' if wider else ''}"
    )


def _no_curve(q: Extended) -> NDArray[np.float64]:
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
        self._worst = 0.0, 0.0

    def behind(self, dual: Dual, q: Extended, after: Variance) -> "ErrorBound":
        """Return the bounds behind one more layer, from variances q to the variances `after`."""
        if dual.curve is not None:  # no arc lies between equal variances, and curves take time
            dual = replace(dual, curve=_no_curve)
        e = min(1.0, float(self._cosine.max()))
        rate, changed = rates_of_equals(dual, q, (0.0, e / 2))
        t, t1 = dual.bounds
        v = where(after.total > 0, after.weights / after.total, 0).astype(float)
        rate_error = np.maximum(rate - changed, 0) if e > 0 else 0.0
        new = ErrorBound(q.size)
        new._cosine = v * (rate * self._cosine + t)
        new._tau = v * (rate * self._tau + self._ratio * (rate * t1 + rate_error)) + new._cosine
        new._ratio = v * rate * self._ratio + 1
        new._worst = (
            max(self._worst[0], float(new._cosine.max())),
            max(self._worst[1], float((new._tau / new._ratio).max())),
        )
        return new

    @property
    def largest(self) -> tuple[float, float]:
        """The largest bounds of Σ and Θ over the samples and the layers so far."""
        return self._worst
