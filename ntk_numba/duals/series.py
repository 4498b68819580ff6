"""Activations by a certified Hermite series: what has no closed form.

With orthonormal Hermite polynomials h_k of t ~ N(0, 1) and a_k(q) = E[σ(√q t) h_k(t)],

    K = Σ_k a_k(q) a_k(q') ρ^k,   √(qq') K̇ = Σ_k k a_k(q) a_k(q') ρ^(k−1)      (Mehler 1866)

Cut after degree D, with M = E[σ²], S = E[σ'²] and, by Parseval, the tails

    t(q) = 1 − Σ_{k≤D} a_k²/M,   t₁(q) = 1 − Σ_{k≤D} k a_k²/(qS) ≥ (D + 1) t M/(qS),

the errors are |Δcosθ_K| ≤ √(t t') and |Δrate|/√(rate(x,x) rate(x',x')) ≤ √(t₁ t₁') (Cauchy and
Schwarz). D is the least for which both stay below the tolerance at every variance up to a limit.

The coefficients of σ' give those of σ, a_k = √(q/k) E[σ'(√q t) h_{k−1}(t)], which stays relatively
accurate as q → 0. They are interpolated in ln q; at other variances than the nodes, and by
quadrature with panels half as wide, they are found again, and what differs goes into the bounds.
"""

from abc import abstractmethod
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.hermite import Chain, series_loop
from ntk_numba.duals.panels import (
    LOWEST,
    Panels,
    interpolated,
    panel_of,
)
from ntk_numba.duals.quadrature import nodes
from ntk_numba.errors import InvalidValueError
from ntk_numba.function import Floats

Array = NDArray[np.float64]

DEGREES = (32, 64, 128, 256, 512, 1024)  # tried one after another; the last is the most there is
FEW, MANY = 18, 40  # nodes of a panel, in ln q: of coefficients, or where they do not do
CHECKS = (-0.985, -0.5, 0.03, 0.52, 0.99)  # where in a panel the tails are found
ROUNDING = 2e-15  # of sums of squares of unit vectors, and what a row's Horner rule adds
CONSTANT = 1e-26  # qE[σ'²]/E[σ²], below which Θ has nothing of σ'
PEAK = 1.1  # a tail may be larger between two checks than at both
TOLERANCE, FINEST, COARSEST = 1e-10, 1e-13, 1e-2


class Series(Activation):
    """A function of which σ and σ' are known, whose dual is a certified series."""

    @property
    @abstractmethod
    def tolerance(self) -> float:
        """What the bounds of the dual may be at most."""

    @property
    def parity(self) -> int:
        """1 if σ is even, −1 if it is odd, else 0."""
        return 0

    @property
    @abstractmethod
    def never_negative(self) -> bool:
        """Whether σ ≥ 0 is known."""

    @property
    def cheaper(self) -> str:
        """A format that tells how another tolerance is asked for."""
        return self.name.partition(":")[0] + ":{:.0e}"

    @property
    def facts(self) -> Facts:
        return Facts(method="Hermite series", needs_largest=True)

    def second_moment(self, q: Floats) -> Floats:
        """Return E[σ(z)²] to about 1e-15 of itself."""
        order = 0 if _at_zero(self) != 0 else 1
        moment = _moment(self)(q)[0].astype(q.dtype) * q**order
        # a panel's function keeps its value beyond the last one
        return np.asarray(np.where(q == 0, q.dtype.type(_at_zero(self)) ** 2, moment))

    def dual(self, q_max: float) -> Dual:
        """Return the series of least degree that keeps the tolerance up to q_max.

        Raises
        ------
        InvalidValueError
            No series does.
        """
        return _fitted(self, rounded(q_max))


def rounded(q: float) -> float:
    """At most 9 % more, so that slightly different data are treated the same."""
    step = float(np.ceil(8 * np.log2(q) - 1e-9)) if q > 0 else -np.inf
    return float(2.0 ** (max(step, 8.0 * LOWEST) / 8))


def _at_zero(activation: Activation) -> float:
    return float(np.asarray(activation(np.zeros(1)))[0])


@lru_cache(maxsize=64)
def _moment(activation: Series) -> Panels:
    """E[σ²], divided by q if σ(0) = 0."""
    order = 0 if _at_zero(activation) != 0 else 1

    def values(q: Array) -> Array:
        out = []
        for v in q:
            t, weights = nodes(v, activation.kinks, activation.smooth_beyond)
            squares = np.asarray(activation(np.sqrt(v) * t), np.longdouble) ** 2
            out.append([float((weights * squares).sum() / v**order)])
        return np.array(out)

    return interpolated(values, FEW)


def chain_of(activation: Activation) -> Chain:
    """Return the chain that a function needs: even functions have (0, 2) and odd ones (1, 2), but
    for a linear or constant term; others have (0, 1).
    """
    x = np.concatenate([np.geomspace(1e-6, 60, 400), np.linspace(0.01, 30, 301)])
    right, left = activation.derivative(x), activation.derivative(-x)
    limit = 4e-16 * np.maximum(1e-300, np.max(abs(right) + abs(left)))
    kinks = activation.kinks
    if set(kinks) == {-k for k in kinks}:
        if np.ptp(right + left) <= 2 * limit:  # σ' odd but for a constant
            return Chain(0, 2)
        if np.ptp(right - left) <= limit:
            return Chain(1, 2)
    return Chain(0, 1)


def unit_coefficients(
    activation: Activation, q: float, degree: int, fine: bool = False
) -> tuple[Array, float, float]:
    """a_k/√M for k = 0 … degree, M, and t₁'s qS/M, by quadrature.

    The two are the same function of the nodes; `fine` ones are in panels half as wide.
    """
    t, weights = nodes(q, activation.kinks, activation.smooth_beyond)
    if fine:
        t, weights = nodes(q, _halved(q, activation), 4 * activation.smooth_beyond)
    x = np.sqrt(q) * t
    sigma, slope = np.asarray(activation(x), float), np.asarray(activation.derivative(x), float)
    moment = float(weights @ sigma**2)
    if moment == 0:
        return np.eye(1, degree + 1)[0], 0.0, 0.0
    out = np.empty(degree + 1)
    out[0] = weights @ sigma
    weighted = weights * slope
    before, h = np.zeros_like(t), np.ones_like(t)
    for k in range(degree):
        out[k + 1] = np.sqrt(q / (k + 1)) * (weighted @ h)
        before, h = h, (t * h - np.sqrt(k) * before) / np.sqrt(k + 1)
    return out / np.sqrt(moment), moment, float(q * (weights @ slope**2) / moment)


def _halved(q: float, activation: Activation) -> tuple[float, ...]:
    """The kinks, and the middles of the panels of the other rule, where panels are to end too."""
    t, _ = nodes(q, activation.kinks, activation.smooth_beyond)
    middles = t.reshape(-1, 16)
    return (*activation.kinks, *(np.sqrt(q) * (middles[:, 0] + middles[:, -1]) / 2))


class _Scan:
    """Tails of all degrees up to one at variances from a limit down to where they do not matter."""

    def __init__(self, activation: Series, limit: float, degree: int, chain: Chain):
        self.found: list[tuple[float, Array, float]] = []
        self.tails = np.zeros((2, degree + 1))
        before = None
        for panel in range(int(panel_of(np.array([limit * (1 - 1e-12)]))[0]), LOWEST - 1, -1):
            # up to the limit, of the highest panel
            at = 4.0 ** (panel + (1 + np.array(CHECKS)) / 2)
            some = [v for v in at if v < limit] + ([limit] if limit < 4.0 ** (panel + 1) else [])
            here = np.zeros_like(self.tails)
            for q in some:
                unit, _, ratio = unit_coefficients(activation, q, degree, fine=True)
                self.found.append((q, unit, ratio))
                here = np.maximum(here, _tails(unit, ratio, chain))
            self.tails = np.maximum(self.tails, here)
            change = np.inf if before is None else abs(unit - before).max()
            before = unit
            if change < 1e-9 or (here[:, -1].max() < 1e-3 * FINEST and change < 1e-4):
                break

    def least(self, tolerance: float) -> int | None:
        """D for which both tails are below."""
        good = np.flatnonzero((PEAK * self.tails).max(axis=0) + 2 * ROUNDING <= tolerance)
        return int(good[0]) if good.size else None


def _tails(unit: Array, ratio: float, chain: Chain) -> Array:
    """(2, degrees) t and t₁ after each degree, of the terms that the chain has."""
    kept = chain.mask(len(unit))
    k = np.arange(len(unit))
    squares = np.where(kept, unit**2, 0)
    t = np.maximum(1 - np.cumsum(squares), 0)
    if ratio < CONSTANT:
        return np.stack([t, np.zeros_like(t)])
    t1 = np.maximum(1 - np.cumsum(k * squares) / ratio, 0)
    # what is left out of σ by parity is rounding error; the rest is bounded by σ''s tail
    t = np.minimum(t, (t1 + ROUNDING) * ratio / (k + 1) + ROUNDING)
    return np.stack([t, t1])


@lru_cache(maxsize=64)
def _table(activation: Series, degree: int, count: int) -> Panels:
    """The unit coefficients of degree 0 to D."""
    return interpolated(
        lambda q: np.array([unit_coefficients(activation, v, degree)[0] for v in q]), count
    )


@lru_cache(maxsize=128)
def _fitted(activation: Series, limit: float) -> Dual:
    """The dual of `Series.dual`, kept for the next job with such variances."""
    chain, tolerance = chain_of(activation), activation.tolerance
    least, best = None, 1.0
    for most in DEGREES:
        scan = _Scan(activation, limit, most, chain)
        best = float((PEAK * scan.tails[:, -1]).max()) + 2 * ROUNDING
        least = scan.least(tolerance)
        if least is not None:
            break
    if least is not None:
        errors = _errors(activation, scan, least, FEW, chain)
        count = FEW
        if max(errors) > tolerance:
            count, errors = MANY, _errors(activation, scan, least, MANY, chain)
        while max(errors) > tolerance and least + 2 < scan.tails.shape[1]:
            least += 2  # room for what interpolation adds
            errors = _errors(activation, scan, least, MANY, chain)
            if errors[1] - scan.tails[1, least] > tolerance:
                break
        if max(errors) <= tolerance:
            table = _table(activation, least, count)
            return Dual(
                series_loop,
                never_obtuse=activation.never_negative,
                parameters=chain.parameters(least + 1),
                coefficients=lambda q: chain.coefficients(table(np.asarray(q)).astype(q.dtype)),
                curve=curve_of(activation),
                parity=activation.parity,
                bounds=errors,
            )
        best = max(errors)
    raise InvalidValueError(_refusal(activation, limit, best))


def _refusal(activation: Series, limit: float, best: float) -> str:
    start = (
        f"activation {activation.name}: at variances up to {limit:.3g} the series reaches "
        f"{best:.1e} with {DEGREES[-1]} terms, not {activation.tolerance:g}; "
        "scale the data or w_std down"
    )
    exponent = np.floor(np.log10(best))
    reached = np.ceil(best / 10**exponent) * 10**exponent
    return start + (f", or ask for {activation.cheaper.format(reached)}" if reached <= 1e-2 else "")


def _errors(
    activation: Series, scan: _Scan, degree: int, count: int, chain: Chain
) -> tuple[float, float]:
    """Bounds of a fit: tails, and twice what its coefficients are off by, relative to norms."""
    table = _table(activation, degree, count)
    got = table(np.array([q for q, _, _ in scan.found]))
    k = np.arange(degree + 1)
    off = off_rate = 0.0
    kept = chain.mask(degree + 1)
    for values, (_, unit, ratio) in zip(got.T, scan.found, strict=True):
        difference = np.where(kept, values - unit[: degree + 1], 0)
        off = max(off, float(np.linalg.norm(difference)))
        if ratio >= CONSTANT:
            off_rate = max(off_rate, float(np.linalg.norm(np.sqrt(k) * difference)) / ratio**0.5)
    t, t1 = (float(PEAK * v[degree]) for v in scan.tails)
    # the true coefficients kept have a norm of at most 1, those of the fit of at most 1 + off
    return (
        t + 2 * PEAK * off * (1 + off) + ROUNDING,
        t1 + 2 * PEAK * off_rate * (1 + off_rate) + ROUNDING,
    )


def checked_tolerance(name: str, tolerance: Any) -> float:
    """A tolerance that can be asked for."""
    value = float(tolerance)
    if not FINEST <= value <= COARSEST:
        raise InvalidValueError(
            f"activation {name}: the tolerance must be {FINEST:g} to {COARSEST:g}, not {value:g}"
        )
    return value
