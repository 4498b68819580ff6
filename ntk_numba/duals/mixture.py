"""Duals of functions whose derivative is a mixture of Gaussians, for any variance.

For σ with σ'(x) = ∫ exp(−y x²) g(y) dy, g ≥ 0, the Hermite coefficients of odd degree k = 2n + 1
are, with α = 2yq/(1 + 2yq) and b_k = binom(2n, n)/4^n,

    |a_k(q)| = √(q b_k/k) ∫ √(1 − α) αⁿ g(y) dy

and a_k a_k' ≥ 0. They are smooth functions of the degree, and known for degrees of any size, so the
sum over all of them is one over octaves (`octaves`): at a variance q, degrees up to a multiple of q
count, of which a Hermite series would have to sum each. The integral over y is a trapezoidal rule
in ln y, which converges exponentially.

The bounds of a dual (see `duals.base.Dual.bounds`) add the sums that are left out, at most √(t t')
as in `series`; the errors of the octaves; twice that of the mixture, relative to E[σ²] and E[σ'²];
and twice that of the interpolation of the coefficients in ln q. All but the second are found at
variances between the nodes of the interpolation.

Source: derived here. Arctan: 1/(1 + x²) = ∫ exp(−y(1 + x²)) dy. Softsign:
1/(1 + |x|)² = ∫ t exp(−t(1 + |x|)) dt, and exp(−t|x|) is a mixture of Gaussians (Andrews & Mallows
1974, *Scale mixtures of normal distributions*), which also has the density of the logistic
function, with Kolmogorov's distribution.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.chains import scalar_product
from ntk_numba.compiled.policy import kernel
from ntk_numba.duals import octaves
from ntk_numba.duals.base import Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.hermite import NOISE, thresholds
from ntk_numba.duals.octaves import EXPLICIT, NODES, octave_loop, rule
from ntk_numba.duals.panels import LOWEST, Panels, interpolated, panel_of, within
from ntk_numba.duals.quadrature import gauss_legendre, nodes
from ntk_numba.duals.series import (
    CHECKS,
    FEW,
    MANY,
    PEAK,
    ROUNDING,
    TOLERANCE,
    Series,
    ToleranceError,
    refusal,
    rounded,
)
from ntk_numba.duals.special import exponentials
from ntk_numba.extended import PI, Extended, dot, extended, length, where

Array = NDArray[np.float64]

MORE = 4  # octaves beyond those of a dual, from which the sums that are left out are computed
LEFT_OUT = 0.2  # the share of a tolerance that the sums that are left out may take
FAR = 0.001  # the share that pairs with a small |ρ| may lack, see `hermite.thresholds`
SETTLED = 1e-6  # a change of the coefficients between two panels, below which errors are small too
NEGLIGIBLE = 75.0  # powers below exp(−NEGLIGIBLE) are left out


class Mixture(NamedTuple):
    """A mixture of Gaussians, Σ weights exp(−y x²).

    constant : E[σ], which does not depend on the variance
    """

    y: Array
    weights: Array
    constant: float = 0.0

    def scaled(self, height: float, rate: float, constant: float) -> "Mixture":
        """Return the mixture of height·f(rate·x)."""
        return Mixture(self.y * rate**2, height * self.weights, constant)


def _by_logarithm(
    density: Callable[[Extended], Extended], low: float, high: float, step: float
) -> Mixture:
    """Return the trapezoidal rule in ln y of ∫ exp(−y x²) density(y) dy, from e^low to e^high."""
    y = np.exp(extended(np.arange(low, high, step)))
    return Mixture(y.astype(float), (step * y * density(y)).astype(float))


@cache
def of_arctan() -> Mixture:
    """Return 1/(1 + x²)."""
    return _by_logarithm(lambda y: np.exp(-y), -36.0, 3.8, 0.28)


@cache
def of_tanh() -> Mixture:
    """Return 1/cosh²x, by the two series of Kolmogorov's distribution."""
    j = np.arange(1, 13)[:, None]

    def density(y: Extended) -> Extended:
        odd = ((j - 0.5) * PI) ** 2
        of_large = ((4 * odd * y - 2) * np.exp(-odd * y)).sum(axis=0)
        signs = np.where(j % 2, 1.0, -1.0)
        of_small = (signs * j**2 * np.exp(-(j**2) / y)).sum(axis=0)
        of_small = of_small * 4 / np.sqrt(PI) / (y * np.sqrt(y))
        return where(y < 0.6, of_small, of_large)

    return _by_logarithm(density, -3.8, 3.0, 0.08)


@cache
def of_sigmoid() -> Mixture:
    """Return the derivative of the logistic function, 1/(4 cosh²(x/2)), whose mean is ½."""
    return of_tanh().scaled(0.25, 0.5, 0.5)


@cache
def of_softsign() -> Mixture:
    """Return 1/(1 + |x|)²."""
    x, w = gauss_legendre(40)
    ends = np.concatenate([[0], 60 * np.cumprod(np.full(60, 0.68))[::-1], [60]])
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    t, weights = half * x + middle, half * w

    def density(y: Extended) -> Extended:
        # t = 2√y s where the other factor is the narrower one
        scale = np.minimum(1, 2 * np.sqrt(y))
        of_t = 0 * y
        for node, weight in zip(t.reshape(t.size), weights.reshape(t.size), strict=True):
            s = node * scale
            of_t = of_t + weight * scale * s * s * np.exp(-s - s * s / (4 * y))
        return of_t / (2 * np.sqrt(PI) * y * np.sqrt(y))

    return _by_logarithm(density, -36.0, 66.0, 0.28)


def _log_b(degree: Array) -> Array:
    """Return ln b_k, for odd integers below `octaves.FIRST` and for any k above it."""
    n = (degree - 1) / 2
    exact = np.cumprod([1.0, *(1 - 0.5 / np.arange(1, EXPLICIT))])
    large = np.maximum(n, EXPLICIT)  # the error of the expansion is below 1e-18 from there on
    expansion = -np.log(PI * large).astype(float) / 2
    for power, factor in ((1, -1 / 8), (3, 1 / 192), (5, -1 / 640), (7, 17 / 14336)):
        expansion += factor / large**power
    single = np.log(extended(exact[np.minimum(n, EXPLICIT - 1).astype(int)])).astype(float)
    return np.where(n < EXPLICIT, single, expansion)


class _Terms(NamedTuple):
    """The terms of a dual: of odd degrees below `octaves.FIRST`, and of octaves.

    single, octaves : their numbers
    """

    single: int
    octaves: int

    def of_rule(self) -> tuple[Array, Array]:
        """Return the degrees and weights of the terms."""
        kept = np.r_[: self.single, EXPLICIT : EXPLICIT + NODES * self.octaves]
        return tuple(v[kept] for v in rule(self.octaves))  # type: ignore[return-value]


@lru_cache(maxsize=4096)
def _all_coefficients(mixture_of: Callable[[], Mixture], q: float, octaves: int) -> Array:
    """Return √w_k |a_k(q)| of all single odd degrees and of octaves; the last ones are cached."""
    mixture = mixture_of()
    degree, weights = _Terms(EXPLICIT, octaves).of_rule()
    odds = 2 * mixture.y * q  # α/(1 − α), ascending
    log_alpha = -np.log1p(1 / extended(odds)).astype(float)
    amplitudes = mixture.weights / np.sqrt(1 + odds)
    n, means = (degree - 1) / 2, np.empty(degree.size)
    # αⁿ is at most exp(−n/(1 + odds))
    begin = np.searchsorted(odds, n / NEGLIGIBLE - 1)
    _sum_powers(n, begin, log_alpha, amplitudes, means)
    return np.asarray(np.sqrt(weights * q / degree) * _roots_of_b(octaves) * means)


@cache
def _roots_of_b(octaves: int) -> Array:
    """Return √b_k of all single odd degrees and of octaves."""
    degree, _ = _Terms(EXPLICIT, octaves).of_rule()
    return np.exp(extended(_log_b(degree)) / 2).astype(float)


@kernel()
def _sum_powers(
    n: Array, begin: NDArray[np.int64], log_alpha: Array, amplitudes: Array, out: Array
) -> None:
    """Fill out with the sums over y of α^n times amplitudes, of which the first are left out."""
    powers = np.empty(log_alpha.size)
    for i in range(n.size):
        count = log_alpha.size - begin[i]
        kept, logs = powers[:count], log_alpha[begin[i] :]
        for j in range(count):
            kept[j], _ = exponentials(n[i] * logs[j])
        out[i] = scalar_product(kept, amplitudes[begin[i] :])


@kernel()
def _sum_gaussians(y: Array, weights: Array, x: Array, out: Array) -> None:
    """Add Σ weights exp(−y x²) to out."""
    for m in range(y.size):
        for j in range(x.size):
            value, _ = exponentials(-y[m] * (x[j] * x[j]))
            out[j] += weights[m] * value


class _Found(NamedTuple):
    """The coefficients and errors at one variance, whatever the limit and the tolerance of a dual.

    squares : of the coefficients of odd degrees
    moment, slope_moment : E[σ²] and qE[σ'²]
    errors : (2,) the relative errors of the mixture, of σ and of σ'
    tails : (2, terms) the sums over higher degrees, relative to E[σ²] and to qE[σ'²], at each term
    """

    squares: Array
    moment: float
    slope_moment: float
    errors: Array
    tails: Array


def _unit(mixture_of: Callable[[], Mixture], q: float, terms: _Terms) -> Array:
    """Return the coefficients of a sample: the lone one and those of the terms, of norm 1."""
    of_terms = _all_coefficients(mixture_of, q, terms.octaves)
    kept = of_terms if terms.octaves else of_terms[: terms.single]
    out = np.concatenate([[mixture_of().constant], kept])
    return np.asarray(out / length(out))


@lru_cache(maxsize=1024)
def _find(activation: Series, mixture_of: Callable[[], Mixture], q: float, octaves: int) -> _Found:
    """Return coefficients and errors at a variance; the last ones are cached."""
    mixture = mixture_of()
    degree, _ = _Terms(EXPLICIT, octaves).of_rule()
    squares = _all_coefficients(mixture_of, q, octaves) ** 2
    t, weights = nodes(q, activation.kinks, 4 * activation.smooth_beyond)
    x = np.sqrt(q) * t
    slope, by_mixture = activation.slopes_at(x), np.zeros_like(x)
    _sum_gaussians(mixture.y, mixture.weights, x, by_mixture)
    moment = mixture.constant**2 + float(squares.sum())
    slope_moment = q * dot(weights, slope**2)
    # by the inequality of Poincaré, that of σ is at most q times that of σ'
    difference = q * dot(weights, (by_mixture - slope) ** 2)
    moments = np.array([moment, slope_moment])
    higher = [np.append(np.cumsum(v[::-1])[-2::-1], 0) for v in (squares, degree * squares)]
    tails = np.array(higher) / moments[:, None]
    return _Found(squares, moment, slope_moment, np.sqrt(difference / moments), tails)


@lru_cache(maxsize=64)
def _table(mixture_of: Callable[[], Mixture], terms: _Terms, count: int) -> Panels:
    """Return the table of the coefficients of samples."""
    return interpolated(lambda q: np.array([_unit(mixture_of, float(v), terms) for v in q]), count)


def _without_noise(unit: Array) -> Array:
    """Return coefficients with 0 for those whose products would leave the range of float32."""
    return np.where(unit < NOISE, 0, unit)


@lru_cache(maxsize=128)
def fitted(activation: Series, mixture_of: Callable[[], Mixture], q_max: float) -> Dual:
    """Return the dual for variances up to q_max; the last ones are cached.

    Raises
    ------
    ToleranceError
        If the activation's tolerance is not reached.
    """
    limit, tolerance = rounded(q_max), activation.tolerance
    far = FAR * tolerance
    # what does not depend on the tolerance is computed, and cached, for one tolerance
    function = activation.finer(TOLERANCE)
    terms = _terms_for(function, mixture_of, limit, tolerance)
    for count in (FEW, MANY):
        bounds = _bounds(function, mixture_of, limit, terms, count, far)
        if max(bounds) <= tolerance:
            break
    else:
        reached = max(bounds)
        raise ToleranceError(refusal(activation, limit, reached), reached, tolerance)
    table = _table(mixture_of, terms, count)
    return Dual(
        octave_loop,
        never_obtuse=activation.never_negative,
        parameters=(
            float(terms.single),
            float(terms.octaves),
            0.0 if activation.never_negative else -1.0,
            *_thresholds(function, mixture_of, limit, terms, far),
        ),
        coefficients=lambda q: _without_noise(table(q)),
        curve=curve_of(function),
        parity=activation.parity,
        bounds=bounds,
    )


def _terms_for(
    activation: Series, mixture_of: Callable[[], Mixture], limit: float, tolerance: float
) -> _Terms:
    """Return the terms without which errors are above a share of the tolerance."""
    reach = 60 * (1 + 2 * mixture_of().y.max() * limit) / octaves.FIRST
    every = max(0, math.frexp(reach)[1])
    tails = np.max(_find(activation, mixture_of, limit, every).tails, axis=0)
    last = int(np.argmax(tails <= LEFT_OUT * tolerance))
    if last < EXPLICIT:
        return _Terms(last + 1, 0)
    return _Terms(EXPLICIT, 1 + (last - EXPLICIT) // NODES)


@lru_cache(maxsize=128)
def _checks(
    activation: Series, mixture_of: Callable[[], Mixture], limit: float, beyond: int
) -> list[float]:
    """Return the variances between the nodes at which a dual is checked.

    They go down to where the coefficients hardly change, and to the lowest of all.

    beyond : the number of octaves, which are more than those of the dual
    """
    out: list[float] = []
    before = None
    highest = int(panel_of(np.array([limit * (1 - 1e-12)]))[0])
    for panel in range(highest, LOWEST - 1, -1):
        out += [float(v) for v in within(panel, CHECKS) if v < limit]
        out += [limit] if limit < 4.0 ** (panel + 1) else []
        found = _find(activation, mixture_of, out[-1], beyond)
        root = np.sqrt(found.squares / found.moment)
        if before is not None and abs(root - before).max() < SETTLED:
            break
        before = root
    return [*out, 4.0**LOWEST]


@lru_cache(maxsize=8192)
def _errors(
    activation: Series, mixture_of: Callable[[], Mixture], q: float, beyond: int, terms: _Terms,
    count: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the errors of the terms and the tails behind them at a variance, both (2,)."""
    values = _table(mixture_of, terms, count)(np.array([q]))[:, 0]
    found = _find(activation, mixture_of, q, beyond)
    kept = np.r_[: terms.single, EXPLICIT : EXPLICIT + NODES * terms.octaves]
    squares = np.concatenate([[mixture_of().constant ** 2], found.squares[kept]])
    difference = values - np.sqrt(squares / found.moment)
    root = np.sqrt(np.concatenate([[0.0], terms.of_rule()[0]]))
    by_slope = root * difference * np.sqrt(found.moment / found.slope_moment)
    of_table = np.array([length(difference), length(by_slope)])
    return of_table + found.errors, found.tails[:, kept[-1]]


def _thresholds(
    activation: Series, mixture_of: Callable[[], Mixture], limit: float, terms: _Terms, far: float
) -> tuple[float, ...]:
    """Return the thresholds of the single terms, and that of the octaves, if any.

    See `hermite.thresholds`.

    far : what K and the rate of a pair may lack
    """
    beyond = terms.octaves + MORE
    checks = _checks(activation, mixture_of, limit, beyond)
    behind = np.max([_find(activation, mixture_of, q, beyond).tails for q in checks], axis=0)
    return thresholds(behind[:, : terms.single], np.full(2, far), 1, 2)


@lru_cache(maxsize=512)
def _bounds(
    activation: Series, mixture_of: Callable[[], Mixture], limit: float, terms: _Terms, count: int,
    far: float,
) -> tuple[float, float]:  # fmt: skip
    """Return the bounds of a fit.

    far : see `_thresholds`
    """
    beyond = terms.octaves + MORE
    checks = _checks(activation, mixture_of, limit, beyond)
    found = [_errors(activation, mixture_of, q, beyond, terms, count) for q in checks]
    errors, tails = np.max(found, axis=0)
    of_rule = np.array([octaves.RULE_ERROR, octaves.RULE_ERROR_RATE]) * (terms.octaves > 0)
    bounds = PEAK * (np.maximum(tails, far) + 2 * errors * (1 + errors)) + of_rule + ROUNDING
    return float(bounds[0]), float(bounds[1])
