"""The effect of depth on a signal: fixed points of the variance, the edge of chaos, correlations.

A layer maps the variance q of two samples of equal norm, and their correlation c, to

    q' = V(q) = σ_w² E[σ(√q z)²] + β²,   c' = (σ_w² K(q, q, c) + β²)/q'

At a fixed point q* = V(q*) the slope of the second map at c = 1 is χ = σ_w² E[σ'(√q* z)²]. If
χ < 1, all samples become alike with depth; if χ > 1, nearly equal samples move apart. χ = 1 is the
edge of chaos, where gradients neither vanish nor explode.

Sources: Poole et al. 2016, *Exponential expressivity in deep neural networks through transient
chaos*; Schoenholz et al. 2017, *Deep information propagation*.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from ntk_numba import activations
from ntk_numba.activations import Activation
from ntk_numba.arguments import not_negative, real_number, whole_number
from ntk_numba.duals.quadrature import REACH, nodes
from ntk_numba.engine.dual import dual
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.extended import exponential, extended, logarithm
from ntk_numba.network import Layer


def _grid(lowest: int, highest: int) -> NDArray[np.float64]:
    """Return the powers of √2 from 2^lowest to 2^highest."""
    half = np.arange(2 * lowest, 2 * highest + 1)
    return np.ldexp(np.where(half % 2, math.sqrt(2), 1.0), half // 2)


VARIANCES = _grid(-40, 20)  # on which q* is bracketed
ALL_VARIANCES = _grid(-1000, 20)  # the same down to the smallest variances
TINY = 1e-200  # an x at which a function is at its limit for x → 0
ROUNDING = 1e-15  # the relative error of a second moment
WINDOW = 6  # the variances from which a power series in q is extrapolated to q = 0
FAR = 1e-35  # β²/q that is smaller comes from beyond the reach of the quadrature


class Critical(NamedTuple):
    """An initialisation on the edge of chaos: χ = 1 at the fixed point q."""

    w_std: float
    b_std: float
    q: float


def _moments(activation: Activation, q: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return E[σ(√q z)²] and E[σ'(√q z)²]."""
    return dual(activation, q, q, np.ones(len(q)))


def _slope_at_zero(activation: Activation) -> float:
    """Return lim E[σ'(√q z)²] for q → 0 if σ(0) = 0, and NaN for other functions.

    It is (σ'(0−)² + σ'(0+)²)/2, and E[σ(√q z)²]/q has the same limit.
    """
    x = np.array([-TINY, TINY])
    if not (abs(activation(x)) < 1e-100).all():
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.mean(np.square(activation.derivative(x))))


def _positive_variance(q: float) -> float:
    """Return q, or raise an error if it is no positive number."""
    number = real_number("q", q)
    if not 0 < number < math.inf:
        raise InvalidValueError(f"q must be a positive variance, not {q!r}")
    return number


def _computable_variances(activation: Activation) -> NDArray[np.float64]:
    """Return the VARIANCES up to the largest at which the activation's dual can be computed."""
    good, bad = 0, len(VARIANCES)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                k, k_dot = _moments(activation, VARIANCES[[middle]])
            fine = bool(np.isfinite(k + k_dot).all())
        except ValueError:
            fine = False
        good, bad = (middle, bad) if fine else (good, middle)
    return VARIANCES[: good + 1]


def critical_init(
    activation: str | Activation, *, b_std: float | None = None, q: float | None = None
) -> Critical:
    """Find the w_std and b_std at which a deep network is on the edge of chaos.

    σ_w² = 1/E[σ'(√q z)²] makes χ = 1, and β² = q − σ_w² E[σ(√q z)²] makes q a fixed point.

    Parameters
    ----------
    activation : a name, or an `Activation`
    b_std : float, optional
        The wanted β, by default 0. If it belongs to several q, the smallest q is taken.
    q : float, optional
        The wanted fixed point, instead of β.

    Returns
    -------
    Critical
        (w_std, b_std, q), to 1e-12. With β = 0, q may be 0, the limit of small variances (tanh).
        For homogeneous functions such as ReLU every q is a fixed point, and q is 1.

    Raises
    ------
    ValueError
        If there is no such initialisation, because E[σ'²] is 0 or because the wanted q or b_std is
        not critical; the message says which values are.
    """
    which = activations.get(activation)
    if b_std is not None and q is not None:
        raise InvalidValueError("b_std and q determine each other: give either")
    if q is not None:
        q = _positive_variance(q)
        if 0 < _slope_at_zero(which) < math.inf:
            w2, b2 = (np.array([v]) for v in _Edge(which).squares(q))
        else:
            w2, b2 = _edge(which, np.array([q]))
        if not np.isfinite(w2[0]) or not b2[0] >= -1e-12 * q:
            raise InvalidValueError(
                f"activation {which.name} is nowhere critical with q = {q}: β² would be {b2[0]:.3g}"
            )
        return Critical(math.sqrt(w2[0]), math.sqrt(max(b2[0], 0.0)), q)
    wanted = 0.0 if b_std is None else not_negative("b_std", b_std)
    slope = _slope_at_zero(which)
    if 0 < slope < math.inf:
        # Without β the limit q → 0 is critical if σ(0) = 0, since β²/q → 0 there. For homogeneous
        # functions every q is, and none with β > 0.
        some = np.ldexp(1.0, 2 * np.arange(-20, 10))
        homogeneous = (abs(which.second_moment(some) / some - slope) < 1e-12 * slope).all()
        if wanted == 0:
            return Critical(1 / math.sqrt(slope), 0.0, float(homogeneous))
        if homogeneous:
            raise _nowhere(which, wanted, np.zeros(1))
        return _Edge(which).critical(wanted)
    q_tried = _computable_variances(which)
    if slope == 0 and not which.facts.needs_largest:  # β² is about q, as for x²
        q_tried = np.concatenate([np.ldexp(1.0, np.arange(-300, -40)), q_tried])
    w2, b2 = _edge(which, q_tried)
    defined = w2 < 1e200  # not where σ' is 0 around 0, or near the smallest numbers
    if not defined.any():
        raise InvalidValueError(f"activation {which.name} is nowhere critical: E[σ'(z)²] is 0")
    q_tried, w2, b2 = q_tried[defined], w2[defined], b2[defined]
    over = b2 - wanted**2
    crossing = np.flatnonzero(np.sign(over[1:]) != np.sign(over[:-1]))
    if not len(crossing):
        raise _nowhere(which, wanted, b2)
    low, high = (logarithm(v) for v in q_tried[crossing[0] : crossing[0] + 2])
    root = brentq(
        lambda log_q: float(_edge(which, np.array([exponential(log_q)]))[1][0] - wanted**2),
        low, high, xtol=1e-14,
    )  # fmt: skip
    found_q = exponential(root)
    return Critical(math.sqrt(_edge(which, np.array([found_q]))[0][0]), wanted, found_q)


def _nowhere(activation: Activation, b_std: float, b2: NDArray[Any]) -> InvalidValueError:
    """Return the error that b_std is outside the range of β², which some values show."""
    return InvalidValueError(
        f"activation {activation.name} is nowhere critical with b_std = {b_std}; β may be from "
        f"{math.sqrt(max(b2.min(), 0)):.3g} to {math.sqrt(max(b2.max(), 0)):.3g}"
    )


class _Edge:
    """The edge of chaos of a function with σ(0) = 0 that has a slope there.

    On the edge β² = F/S, with F = qE[σ'(√q t)²] − E[σ(√q t)²] and S = E[σ'(√q t)²], which is much
    smaller than q if q is small. With r(x) = σ(x) − σ'(0±)x it is F = qE[r'²] − E[r²], by Stein's
    lemma E[x g(x)] = qE[g'(x)], and these two terms hardly cancel. As q → 0, F/q^p is a power
    series in q, or in √q if 0 is a kink. Below the variances at which r keeps its digits it is
    extrapolated.
    """

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        x = np.array([-TINY, TINY])
        self._slopes = activation.slopes_at(x)  # at 0 from either side
        self._step = 2 if 0.0 in activation.kinks else 4  # the ratio of variances of a window
        q = np.ldexp(1.0, -np.arange(40)[::-1] * (self._step // 2))
        f = np.array([self.terms(v)[0] for v in q])
        # the window whose extrapolated value differs least from that of the next one
        best: tuple[float, int, int, NDArray[Any]] = (math.inf, 0, 0, f)
        before = None
        for k in range(len(q) - WINDOW):
            u, part = q[k : k + WINDOW], f[k : k + WINDOW]
            ratio = part[1] / part[0] if (part > 0).all() else 0.0
            power = int(np.rint(2 * logarithm(max(ratio, 1e-9)) / logarithm(self._step)))
            if not 3 <= power <= 24:  # rounding errors
                before = None
                continue
            series = part / _power(u, power)
            at_zero = float(_interpolate(self._variable(u), series, 0.0))
            if before and before[0] == power and at_zero > 0:
                change = abs(before[1] / at_zero - 1)
                if change < best[0]:
                    best = (change, k, power, series)
            before = (power, at_zero)
        change, k, self._power, self._series = best
        # without a power law, F is 0 as far as the quadrature reaches
        self.window = q[k : k + WINDOW] if change < 1e-6 else None
        if self.window is not None:  # ln β²/q^p at q = 0, to which the series is near below q
            first = self.window[0] * 1e-20
            self._leading = logarithm(self.squares(first)[1]) - self._power / 2 * logarithm(first)

    def _variable(self, q: Any) -> Any:
        """Return what the power series is one of."""
        return np.sqrt(q) if self._step == 2 else q

    def terms(self, q: float) -> tuple[float, float]:
        """Return F and S by quadrature, or NaN if they come from beyond its reach."""
        a = self._activation
        t, weights = nodes(q, a.kinks, a.smooth_beyond)
        x = np.sqrt(extended(q)) * t
        with np.errstate(all="ignore"):
            values, slopes = extended(a(x)), extended(a.derivative(x))
        at_zero = np.where(t < 0, self._slopes[0], self._slopes[1])
        rest, rest_slope = values - at_zero * x, slopes - at_zero
        density = weights * (q * rest_slope**2 - rest**2)
        squares = weights * (values**2 + q * slopes**2)
        far = abs(t) > 0.8 * REACH
        if not float(squares[far].sum()) <= 1e-13 * float(squares.sum()):
            return math.nan, math.nan
        return float(density.sum()), float((weights * slopes**2).sum())

    def squares(self, q: float) -> tuple[float, float]:
        """Return the σ_w² and β² with which q is a fixed point and χ = 1."""
        f, slope = self.terms(q)
        if self.window is not None and q < self.window[0]:
            u = self._variable(q)
            series = float(_interpolate(self._variable(self.window), self._series, u))
            f = float(_power(np.array(q), self._power)) * series
        return 1 / slope, f / slope

    def log_bias(self, log_q: float) -> float:
        """Return ln β², which is finite where β² itself is below the range of floats."""
        q = exponential(log_q)
        if self.window is not None and q < self.window[0] * 1e-20:
            return self._power / 2 * log_q + self._leading
        b2 = self.squares(q)[1]
        if math.isnan(b2):
            return math.nan
        least = 0.0 if self.window is not None and q < self.window[0] else FAR * q
        return logarithm(b2) if b2 > least else -math.inf

    def critical(self, b_std: float) -> Critical:
        """Return the smallest critical q for β > 0."""
        target = 2 * logarithm(b_std)
        path = [logarithm(v) for v in VARIANCES]
        if self.window is not None:
            path.insert(0, min(target, path[0]) - 50)
        values = [self.log_bias(path[0])]
        for low, high in pairwise(path):
            values.append(self.log_bias(high))
            if values[-2] < target <= values[-1]:
                if values[-2] == -math.inf:
                    raise InvalidValueError(
                        f"activation {self._activation.name}: b_std = {b_std} is too small for its "
                        "critical variance to be computed; give 0 or at least "
                        f"{math.exp(values[-1] / 2):.1g}"
                    )
                root = brentq(lambda v: self.log_bias(v) - target, low, high, xtol=1e-14)
                q = exponential(root)
                return Critical(1 / math.sqrt(self.terms(q)[1]), b_std, q)
        raise _nowhere(self._activation, b_std, np.exp([v for v in values if v == v]))


def _power(q: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """Return q^(exponent/2)."""
    return (np.sqrt(extended(q)) ** exponent).astype(float)


def _interpolate(at: NDArray[Any], values: NDArray[Any], x: float) -> float:
    """Return the polynomial through the values, at x (Lagrange)."""
    weights = [np.prod((x - np.delete(at, k)) / (u - np.delete(at, k))) for k, u in enumerate(at)]
    return float(np.sum(np.array(weights) * values))


def _edge(activation: Activation, q: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the σ_w² and β² with which each q is a fixed point and χ = 1."""
    moment, slope = _moments(activation, q)
    with np.errstate(divide="ignore", invalid="ignore"):
        w2 = np.where(slope > 0, 1 / slope, np.inf)
        return w2, q - w2 * moment


def fixed_point(activation: str | Activation, *, w_std: float = 1.0, b_std: float = 0.0) -> float:
    """Find the variance q* = σ_w² E[σ(√q* z)²] + β² that depth leads to, from a variance of 1.

    Parameters
    ----------
    activation : a name, or an `Activation`
    w_std, b_std : float
        σ_w and β of all layers, not negative.

    Returns
    -------
    float
        q*, to 1e-12. It is 0 if the signal dies out, infinity if it grows without bound, and 1 if
        every q is a fixed point.

    Raises
    ------
    ValueError
        If w_std or b_std is negative or not finite, or if the activation is a Python function that
        is not registered.
    """
    which = activations.get(activation)
    w_std, b_std = not_negative("w_std", w_std), not_negative("b_std", b_std)
    layer = Layer(which, w_std, b_std)

    def growth(q: Any) -> NDArray[np.float64]:
        """Return V(q)/q − 1."""
        exact = extended(q)
        return (layer.variance(which.moment(exact)).total / exact - 1).astype(float)

    at_one = float(growth(np.ones(1))[0])
    if abs(at_one) < 1e-14:
        return 1.0
    # V is continuous: the first crossing is above 1 if V(1) > 1, and below 1 otherwise
    above, below = ALL_VARIANCES >= 1, ALL_VARIANCES <= 1
    path = ALL_VARIANCES[above] if at_one > 0 else ALL_VARIANCES[below][::-1]
    # a growth within rounding is that of a limit q → 0, where V(q)/q tends to 1
    crossed = np.flatnonzero(growth(path) * np.sign(at_one) < -ROUNDING)
    if not len(crossed):
        return math.inf if at_one > 0 else 0.0
    low, high = (logarithm(v) for v in path[crossed[0] - 1 : crossed[0] + 1])

    def at(log_q: float) -> float:
        return float(growth(np.exp(extended(np.array([log_q]))))[0])

    if at(low) * at_one <= 0:  # the crossing is within rounding of this point
        return exponential(low)
    return exponential(brentq(at, low, high, xtol=1e-14))


def correlation_map(
    activation: str | Activation,
    rho: ArrayLike,
    depth: int,
    *,
    w_std: float = 1.0,
    b_std: float = 0.0,
    q: float = 1.0,
) -> NDArray[np.float64]:
    """Compute the correlation of two samples of variance q in each layer.

    A layer maps the correlation c to (σ_w² K(q, q, c) + β²)/q', where q' = σ_w² K(q, q, 1) + β².

    Parameters
    ----------
    activation : a name, or an `Activation`
    rho : array_like
        The correlations of Σ⁽¹⁾, from −1 to 1.
    depth : int
        The number L ≥ 1 of layers.
    w_std, b_std : float
        σ_w and β of all layers.
    q : float
        The variance Σ⁽¹⁾(x, x) of both samples.

    Returns
    -------
    (L, …) array
        Σ⁽ˡ⁾(x, x')/√(Σ⁽ˡ⁾(x,x) Σ⁽ˡ⁾(x',x')) for l = 1 … L and each rho; NaN where Σ⁽ˡ⁾(x,x) is 0.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range, or if the activation's dual cannot be computed.
    """
    which = activations.get(activation)
    try:
        current = np.asarray(rho, float)
    except (TypeError, ValueError):
        raise InvalidTypeError(f"rho must be numbers, from -1 to 1, not {rho!r:.60}") from None
    if not (abs(current) <= 1).all():
        raise InvalidValueError("rho must be correlations, from -1 to 1")
    depth, variance = whole_number("depth", depth), _positive_variance(q)
    layer = Layer(which, not_negative("w_std", w_std), not_negative("b_std", b_std))
    out = [current]
    for _ in range(depth - 1):
        k, _ = dual(which, variance, variance, np.clip(np.append(current.ravel(), 1.0), -1, 1))
        s = layer.variance(extended(k)).total.astype(float)
        variance = float(s[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            current = (s[:-1] / variance).reshape(current.shape)
        out.append(current)
        if variance == 0:
            out += [np.full(current.shape, np.nan)] * (depth - len(out))
            break
    return np.array(out)
