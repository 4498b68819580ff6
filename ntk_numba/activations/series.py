"""Activations without a closed form: the Hermite series of σ, cut where its bound allows.

With h_k the orthonormal Hermite polynomials and a_k(q) = E[σ(√q t) h_k(t)], t ~ N(0, 1),

    K = Σ_k a_k(q) a_k(q') ρ^k,   √(qq') K̇ = Σ_k k a_k(q) a_k(q') ρ^(k−1)     (Mehler)

The coefficients belong to a sample. Cut after degree D, by Cauchy and Schwarz, |ρ| ≤ 1:

    |ΔK|/√(K(q)K(q')) ≤ √(t(q) t(q')),    t = 1 − Σ_{k≤D} a_k²/E[σ²]            (Parseval)
    |ΔK̇|/√(K̇(q)K̇(q')) ≤ √(t₁(q) t₁(q')),  t₁ = 1 − Σ_{k≤D} k a_k²/(q E[σ'²])

D is the smallest with t and t₁ at most the tolerance for all variances up to the largest that there
is. To the bounds is added what quadrature, interpolation and rounding may do to them.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.activations.base import Activation, Floats
from ntk_numba.activations.curve import curve_of
from ntk_numba.activations.hermite_row import row
from ntk_numba.activations.panels import Panels, interpolated
from ntk_numba.activations.quadrature import WIDEST, nodes
from ntk_numba.row import Row

TOLERANCE = 1e-10
TIGHTEST, LOOSEST = 1e-13, 1e-2  # tolerances
MOST = 1024  # terms
ROUNDING = 1e-14  # of sums of squares of coefficients
OCTAVES = 24  # below the largest variance for which the bounds are looked at
# Between two variances that are looked at, and below all, a bound may be larger by
MARGIN = 1.25
POINTS = 16, 12  # of the two rules that say what a rule is worth


class Fit(NamedTuple):
    """A series up to some variance.

    terms : that a parity has
    bounds : of cosθ_K and of the rate
    coefficients : q → (terms, N), those of unit length
    """

    terms: int
    bounds: tuple[float, float]
    coefficients: Panels


@dataclass(frozen=True)
class Series(Activation):
    """A function σ of one variable by its Hermite series.

    Attributes
    ----------
    tolerance : float
        Of K and K̇, relative to √(K(q)K(q')) and √(K̇(q)K̇(q')).
    top : float
        The largest variance that it is ready for; 0 if for none yet.
    """

    tolerance: float
    top: float

    row: ClassVar[Row] = row
    ranged: ClassVar[bool] = True
    method: ClassVar[str] = "series"
    domain: ClassVar[str] = "as far as the series reaches"

    def __post_init__(self) -> None:
        if not TIGHTEST <= self.tolerance <= LOOSEST:
            raise ValueError(
                f"activation {self.name}: the tolerance must be from {TIGHTEST:g} to "
                f"{LOOSEST:g}, not {self.tolerance!r}"
            )

    @abstractmethod
    def with_tolerance(self, tolerance: float) -> str:
        """How to ask for another tolerance."""

    @property
    def parity(self) -> int:
        return _parity(self._plain)

    @property
    def never_obtuse(self) -> bool:
        return False

    @property
    def _plain(self) -> "Series":
        """The same for no variance: what the tables of all ranges are known by."""
        return replace(self, top=0.0) if self.top else self

    @property
    def fit(self) -> Fit:
        """The series up to `top`."""
        return _fit(self._plain, self.top)

    @property
    def parameters(self) -> tuple[float, ...]:
        return float(self.fit.terms), float(self.parity)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.fit.bounds

    def up_to(self, q: float) -> Activation:
        """Ready for variances up to q, or up to 9 % more, so that nearly equal data share a fit.

        Raises
        ------
        ValueError
            The tolerance cannot be had there; the text says which can.
        """
        top = 2.0 ** (np.ceil(8 * np.log2(q) - 1e-9) / 8) if q > 0 else 1.0
        ready = replace(self, top=float(top))
        _ = ready.fit
        return ready

    def traits(self, q: Floats) -> Floats:
        """The coefficients, of unit length but for what is cut off."""
        return self.fit.coefficients(q)

    def all_traits(self, q: Floats) -> Floats:
        return np.concatenate([curve_of(self._plain)(q), self.traits(q)])

    def second_moment(self, q: Floats) -> Floats:
        """By quadrature, tabulated, to some 1e-15 of itself."""
        relative = _moments(self._plain)(q)[0].astype(q.dtype)
        return np.asarray(relative * (q + _at_zero(self._plain) ** 2))


@lru_cache(maxsize=256)
def _parity(activation: Series) -> int:
    x = np.concatenate([np.linspace(0.01, 12, 600), np.logspace(-6, 3, 200)])
    there, opposite = (np.asarray(activation(v), float) for v in (x, -x))
    scale = 4e-16 * np.abs(there)
    if (np.abs(there - opposite) <= scale).all():
        return 1
    odd = (np.abs(there + opposite) <= scale).all() and _at_zero(activation) == 0
    return -1 if odd else 0


@lru_cache(maxsize=256)
def _at_zero(activation: Series) -> float:
    return float(activation(np.zeros(1))[0])


@lru_cache(maxsize=256)
def _moments(activation: Series) -> Panels:
    """E[σ(√q t)²]/(q + σ(0)²)."""
    zero = _at_zero(activation) ** 2

    def at(q: float) -> float:
        t, weights = nodes(q, activation.kinks, activation.settled)
        return float(weights @ np.asarray(activation(np.sqrt(q) * t), float) ** 2) / (q + zero)

    return interpolated(lambda q: np.array([[at(v)] for v in q]))


def coefficients(
    activation: Series, q: float, count: int, points: int = POINTS[0]
) -> tuple[NDArray[np.float64], float, float, float]:
    """a_0 … a_{count−1}, E[σ²], q E[σ'²] and the share of E[σ²] at the edge of the quadrature."""
    # h_k goes up and down within about 3/√k of t
    t, weights = nodes(
        q, activation.kinks, activation.settled, points, min(WIDEST, 10 / np.sqrt(count))
    )
    x = np.sqrt(q) * t
    values = np.asarray(activation(x), float)
    slopes = np.sqrt(q) * np.asarray(activation.derivative(x), float)
    squares = weights * values**2
    moment, slope = float(squares.sum()), float(weights @ slopes**2)
    edge = float(np.abs(squares[:points]).sum() + np.abs(squares[-points:]).sum())
    weighted = weights * values
    found = np.empty(count)
    before, h = np.zeros_like(t), np.ones_like(t)
    for k in range(count):
        found[k] = weighted @ h
        before, h = h, (t * h - np.sqrt(k) * before) / np.sqrt(k + 1)
    return found, moment, slope, edge / moment if moment > 0 else 0.0


@lru_cache(maxsize=64)
def _fit(activation: Series, top: float) -> Fit:
    if top == 0:
        raise ValueError(f"activation {activation.name} has to be made ready, see up_to")
    name, tolerance = activation.name, activation.tolerance
    looked_at = top * 2.0 ** -np.arange(OCTAVES)
    tails = np.empty((2, MOST))
    tails[:] = 0
    doubt = np.zeros(2)
    ks = np.arange(MOST)
    for q in looked_at:
        with np.errstate(over="ignore", invalid="ignore"):
            a, moment, slope, edge = coefficients(activation, float(q), MOST)
            b, moment_2, slope_2, _ = coefficients(activation, float(q), MOST, POINTS[1])
        if not np.isfinite(moment + slope) or edge > 1e-15:
            raise ValueError(
                f"activation {name} grows too fast for a variance of {q:.3g}: E[σ(z)²] does not "
                f"converge; scale the data or w_std down"
            )
        if moment == 0:
            continue
        shares = np.cumsum(a**2) / moment, np.cumsum(ks * a**2) / (slope or 1.0)
        for tail, share in zip(tails, shares, strict=True):
            np.maximum(tail, np.abs(1 - share) if slope else 0.0, out=tail)
        apart = abs(moment - moment_2) / moment, abs(slope - slope_2) / (slope or 1.0)
        worst = np.abs(a - b).max() / np.sqrt(moment)
        doubt = np.maximum(doubt, [max(apart[0], worst), max(apart[1], worst)])
    doubt += ROUNDING
    whole = MARGIN * tails.max(axis=0)
    enough = np.flatnonzero(whole + doubt.max() <= tolerance)
    if not len(enough):
        best = 1.1 * float(whole[-1] + doubt.max())
        advice = f" or ask for {activation.with_tolerance(best)}" if best <= LOOSEST else ""
        raise ValueError(
            f"activation {name}: at variances up to {top:.3g} the series reaches {best:.1e} with "
            f"{MOST} terms, not {tolerance:g}; scale the data or w_std down{advice}"
        )
    degree = int(enough[0])
    parity = activation.parity
    start, step = (0, 1) if parity == 0 else (int(parity < 0), 2)
    kept = np.arange(start, degree + 1, step)

    def unit(q: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.zeros((len(q), len(kept)))
        for values, v in zip(out, q, strict=True):
            a, moment, *_ = coefficients(activation, float(v), degree + 1)
            values[:] = a[kept] / np.sqrt(moment) if moment > 0 else 0.0
        return out

    bounds = tuple(float(MARGIN * tail[degree] + d) for tail, d in zip(tails, doubt, strict=True))
    return Fit(len(kept), (bounds[0], bounds[1]), interpolated(unit))
