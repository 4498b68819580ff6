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

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals import octaves
from ntk_numba.duals.base import Dual
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.hermite import NOISE
from ntk_numba.duals.octaves import EXPLICIT, NODES, octave_loop, rule
from ntk_numba.duals.panels import LOWEST, Panels, interpolated, panel_of
from ntk_numba.duals.quadrature import gauss_legendre, nodes
from ntk_numba.duals.series import (
    CHECKS,
    FEW,
    MANY,
    PEAK,
    ROUNDING,
    Series,
    ToleranceError,
    refusal,
    rounded,
)

Array = NDArray[np.float64]

MORE = 4  # octaves beyond those of a dual, from which the sums that are left out are computed
LEFT_OUT = 0.2  # the share of a tolerance that the sums that are left out may take
SETTLED = 1e-6  # a change of the coefficients between two panels, below which errors are small too
CHUNK = 16  # degrees at a time
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
    density: Callable[[Array], Array], low: float, high: float, step: float
) -> Mixture:
    """Return the trapezoidal rule in ln y of ∫ exp(−y x²) density(y) dy, from e^low to e^high."""
    y = np.exp(np.arange(low, high, step))
    return Mixture(y, np.asarray(step * y * density(y)))


@cache
def of_arctan() -> Mixture:
    """Return 1/(1 + x²)."""
    return _by_logarithm(lambda y: np.exp(-y), -36.0, 3.8, 0.28)


@cache
def of_tanh() -> Mixture:
    """Return 1/cosh²x, by the two series of Kolmogorov's distribution."""
    j = np.arange(1, 13)[:, None]

    def density(y: Array) -> Array:
        odd = ((j - 0.5) * np.pi) ** 2
        of_large = np.sum((4 * odd * y - 2) * np.exp(-odd * y), axis=0)
        signs = np.where(j % 2, 1.0, -1.0)
        of_small = np.sum(signs * j**2 * np.exp(-(j**2) / y), axis=0) * 4 / np.sqrt(np.pi) / y**1.5
        return np.asarray(np.where(y < 0.6, of_small, of_large))

    return _by_logarithm(density, -3.8, 3.0, 0.08)


@cache
def of_sigmoid() -> Mixture:
    """Return the derivative of the logistic function, 1/(4 cosh²(x/2)), whose mean is ½."""
    return of_tanh().scaled(0.25, 0.5, 0.5)


@cache
def of_softsign() -> Mixture:
    """Return 1/(1 + |x|)²."""
    x, w = (v.astype(float) for v in gauss_legendre(40))
    ends = np.concatenate([[0], np.geomspace(1e-8, 60, 60)])
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    t, weights = (middle + half * x).ravel(), (half * w).ravel()

    def density(y: Array) -> Array:
        # t = 2√y s where the other factor is the narrower one
        scale = np.minimum(1, 2 * np.sqrt(y))[:, None]
        s = t * scale
        of_t = (weights * scale * s**2 * np.exp(-s - s**2 / (4 * y[:, None]))).sum(axis=1)
        return np.asarray(of_t / (2 * np.sqrt(np.pi) * y**1.5))

    return _by_logarithm(density, -36.0, 66.0, 0.28)


def _log_b(degree: Array) -> Array:
    """Return ln b_k, for odd integers below `octaves.FIRST` and for any k above it."""
    n = (degree - 1) / 2
    exact = np.cumprod([1.0, *(1 - 0.5 / np.arange(1, EXPLICIT))])
    large = np.maximum(n, EXPLICIT)  # the error of the expansion is below 1e-18 from there on
    expansion = -np.log(np.pi * large) / 2
    for power, factor in ((1, -1 / 8), (3, 1 / 192), (5, -1 / 640), (7, 17 / 14336)):
        expansion += factor / large**power
    single = np.log(exact[np.minimum(n, EXPLICIT - 1).astype(int)])
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


def _coefficients(mixture: Mixture, q: float, terms: _Terms) -> Array:
    """Return √w_k |a_k(q)| of the terms of odd degrees."""
    degree, weights = terms.of_rule()
    odds = 2 * mixture.y * q  # α/(1 − α), ascending
    log_alpha = -np.log1p(1 / odds)
    amplitudes = mixture.weights / np.sqrt(1 + odds)
    means = np.empty(degree.size)
    for first in range(0, degree.size, CHUNK):
        n = (degree[first : first + CHUNK, None] - 1) / 2
        # αⁿ is at most exp(−n/(1 + odds))
        begin = int(np.searchsorted(odds, n[0, 0] / NEGLIGIBLE - 1))
        powers = np.exp(n * log_alpha[begin:])
        means[first : first + CHUNK] = (powers * amplitudes[begin:]).sum(axis=1)
    return np.asarray(np.sqrt(weights * q / degree) * np.exp(_log_b(degree) / 2) * means)


class _Found(NamedTuple):
    """A dual's coefficients and errors at one variance.

    q : the variance
    squares : of the coefficients of odd degrees
    degree : the degrees
    moment, slope_moment : E[σ²] and qE[σ'²]
    errors : the relative errors of the mixture, of σ and of σ'
    """

    q: float
    squares: Array
    degree: Array
    moment: float
    slope_moment: float
    errors: tuple[float, float]

    def tails(self) -> tuple[Array, Array]:
        """Return the sums over higher degrees, relative to E[σ²] and to qE[σ'²], at each term."""
        sums = [np.cumsum(v[::-1])[::-1] for v in (self.squares, self.degree * self.squares)]
        after = [np.append(v[1:], 0) for v in sums]
        return after[0] / self.moment, after[1] / self.slope_moment


def _unit(mixture: Mixture, q: float, terms: _Terms) -> Array:
    """Return the coefficients of a sample: the lone one and those of the terms, of norm 1."""
    out = np.concatenate([[mixture.constant], _coefficients(mixture, q, terms)])
    return np.asarray(out / np.linalg.norm(out))


def _find(activation: Series, mixture: Mixture, q: float, terms: _Terms) -> _Found:
    """Return coefficients and errors at a variance."""
    degree, _ = terms.of_rule()
    squares = _coefficients(mixture, q, terms) ** 2
    t, weights = nodes(q, activation.kinks, 4 * activation.smooth_beyond)
    x = np.sqrt(q) * t
    slope = np.asarray(activation.derivative(x), float)
    by_mixture = np.zeros_like(x)
    for y, weight in zip(mixture.y, mixture.weights, strict=True):
        by_mixture += weight * np.exp(-y * x * x)
    moment = mixture.constant**2 + float(squares.sum())
    slope_moment = q * float(weights @ slope**2)
    # by the inequality of Poincaré, that of σ is at most q times that of σ'
    difference = q * float(weights @ (by_mixture - slope) ** 2)
    errors = float(np.sqrt(difference / moment)), float(np.sqrt(difference / slope_moment))
    return _Found(q, squares, degree, moment, slope_moment, errors)


@lru_cache(maxsize=64)
def _table(mixture_of: Callable[[], Mixture], terms: _Terms, count: int) -> Panels:
    """Return the table of the coefficients of samples."""
    return interpolated(lambda q: np.array([_unit(mixture_of(), v, terms) for v in q]), count)


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
    terms = _terms_for(activation, mixture_of(), limit)
    found = _at_checks(activation, mixture_of(), limit, terms)
    for count in (FEW, MANY):
        bounds = _bounds(found, mixture_of, terms, count)
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
        ),
        coefficients=lambda q: _without_noise(table(np.asarray(q))).astype(q.dtype),
        curve=curve_of(activation),
        parity=activation.parity,
        bounds=bounds,
    )


def _terms_for(activation: Series, mixture: Mixture, limit: float) -> _Terms:
    """Return the terms without which errors are above a share of the tolerance."""
    highest = float(np.log2(60 * (1 + 2 * mixture.y.max() * limit) / octaves.FIRST))
    every = _Terms(EXPLICIT, max(0, int(np.ceil(highest))))
    tails = np.max(_find(activation, mixture, limit, every).tails(), axis=0)
    last = int(np.argmax(tails <= LEFT_OUT * activation.tolerance))
    if last < EXPLICIT:
        return _Terms(last + 1, 0)
    return _Terms(EXPLICIT, 1 + (last - EXPLICIT) // NODES)


def _at_checks(activation: Series, mixture: Mixture, limit: float, terms: _Terms) -> list[_Found]:
    """Return what is found between the nodes, with more terms than those of the dual.

    The variances go down to where the coefficients hardly change, and to the lowest of all.
    """
    beyond = _Terms(EXPLICIT, terms.octaves + MORE)
    out: list[_Found] = []
    highest = int(panel_of(np.array([limit * (1 - 1e-12)]))[0])
    for panel in range(highest, LOWEST - 1, -1):
        at = 4.0 ** (panel + (1 + np.array(CHECKS)) / 2)
        checked = [v for v in at if v < limit] + ([limit] if limit < 4.0 ** (panel + 1) else [])
        before = out[-1] if out else None
        out += [_find(activation, mixture, q, beyond) for q in checked]
        if before is not None:
            roots = [np.sqrt(found.squares / found.moment) for found in (before, out[-1])]
            if abs(roots[1] - roots[0]).max() < SETTLED:
                break
    return [*out, _find(activation, mixture, 4.0**LOWEST, beyond)]


def _bounds(
    found: list[_Found], mixture_of: Callable[[], Mixture], terms: _Terms, count: int
) -> tuple[float, float]:
    """Return the bounds of a fit."""
    table = _table(mixture_of, terms, count)(np.array([at.q for at in found]))
    root = np.sqrt(np.concatenate([[0.0], terms.of_rule()[0]]))
    kept = np.r_[: terms.single, EXPLICIT : EXPLICIT + NODES * terms.octaves]
    constant = mixture_of().constant
    tails, errors = np.zeros(2), np.zeros(2)
    for values, at in zip(table.T, found, strict=True):
        unit = np.sqrt(np.concatenate([[constant**2], at.squares[kept]]) / at.moment)
        difference = values - unit
        by_slope = root * difference * np.sqrt(at.moment / at.slope_moment)
        of_table = np.array([np.linalg.norm(difference), np.linalg.norm(by_slope)])
        errors = np.maximum(errors, of_table + at.errors)
        tails = np.maximum(tails, [t[kept[-1]] for t in at.tails()])
    of_rule = np.array([octaves.RULE_ERROR, octaves.RULE_ERROR_RATE]) * (terms.octaves > 0)
    bounds = PEAK * (tails + 2 * errors * (1 + errors)) + of_rule + ROUNDING
    return float(bounds[0]), float(bounds[1])
