"""Activations without a closed form, by a Hermite series with certified error bounds.

With orthonormal Hermite polynomials h_k of t ~ N(0, 1) and a_k(q) = E[σ(√q t) h_k(t)],

    K = Σ_k a_k(q) a_k(q') ρ^k,   √(qq') K̇ = Σ_k k a_k(q) a_k(q') ρ^(k−1)      (Mehler 1866)

If the series ends with degree D, then, with M = E[σ²], S = E[σ'²] and, by Parseval, the tails

    t(q) = 1 − Σ_{k≤D} a_k²/M,   t₁(q) = 1 − Σ_{k≤D} k a_k²/(qS) ≥ (D + 1) t M/(qS),

the errors are |Δcosθ_K| ≤ √(t t') and |Δrate|/√(rate(x,x) rate(x',x')) ≤ √(t₁ t₁') (Cauchy and
Schwarz). D is the least for which both are below the tolerance at all variances up to a limit.

The coefficients of σ' give those of σ, a_k = √(q/k) E[σ'(√q t) h_{k−1}(t)], which stays relatively
accurate as q → 0. They are interpolated in ln q. At variances between the nodes they are computed
once more, by quadrature with panels half as wide, and the differences are included in the bounds.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import real_number
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.hermite import Chain, series_loop
from ntk_numba.duals.panels import (
    LOWEST,
    Panels,
    interpolated,
    panel_of,
    within,
)
from ntk_numba.duals.quadrature import nodes
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import Extended, dot, dots, extended, length, where

Array = NDArray[np.float64]

DEGREES = (32, 64, 128, 256, 512, 1024)  # the largest degrees that are tried, in this order
FEW, MANY = 18, 40  # nodes of a panel in ln q: first FEW, and MANY if these are not enough
CHECKS = (-0.985, -0.5, 0.03, 0.52, 0.99)  # the positions in a panel at which tails are computed
ROUNDING = 2e-15  # the error of sums of squares of unit vectors and of a row's Horner rule
CONSTANT = 1e-26  # if qE[σ'²]/E[σ²] is smaller, σ' contributes nothing to Θ
PEAK = 1.1  # bounds the ratio of a tail between two checks to the larger of the two
TOLERANCE, FINEST, COARSEST = 1e-10, 1e-13, 1e-2  # the default, and the range of tolerances


class Series(Activation):
    """An activation given by σ and σ', whose dual is a certified series."""

    @property
    @abstractmethod
    def tolerance(self) -> float:
        """The largest bound of a result's errors that is accepted, see `engine.fitted`.

        It is also that of the dual itself.
        """

    @abstractmethod
    def finer(self, tolerance: float) -> "Series":
        """Return the same function with another tolerance."""

    @property
    def parity(self) -> int:
        """1 if σ is even, −1 if it is odd, else 0."""
        return 0

    @property
    @abstractmethod
    def never_negative(self) -> bool:
        """Whether σ is known to be ≥ 0 everywhere."""

    @property
    def finest(self) -> float:
        """An |x| below which σ has no features: the series is checked down to such variances."""
        return np.inf

    def ends(self, q: float) -> tuple[float, ...]:
        """Return more ends of panels for the quadrature that checks the series at q."""
        return ()

    def unseen(self, q: float, degree: int) -> tuple[float, float]:
        """Return relative errors of σ and σ' themselves at q, which add to those of the series."""
        return 0.0, 0.0

    @property
    def tolerance_format(self) -> str:
        """The format of a request for another tolerance, with {} for the tolerance."""
        return self.name.partition(":")[0] + ":{:.0e}"

    @property
    def facts(self) -> Facts:
        return Facts(
            method="Hermite series",
            domain="any q up to which the series reaches the tolerance",
            needs_largest=True,
        )

    def moment(self, q: Extended) -> Extended:
        """Return E[σ(z)²] with a relative error of about 1e-15."""
        order = 0 if _at_zero(self) != 0 else 1
        moment = _moment(self.finer(TOLERANCE))(q)[0] * q**order
        # the table has no q = 0: beyond the lowest panel it keeps its last value
        return where(q == 0, _at_zero(self) ** 2, moment)

    def dual(self, q_max: float) -> Dual:
        """Return the series of least degree that is within the tolerance for variances up to q_max.

        Raises
        ------
        ValueError
            If no series of degree up to 1024 is.
        """
        return _fitted(self, rounded(q_max))


def rounded(q: float) -> float:
    """Return q rounded up by at most 9 %, so that slightly different data have the same series."""
    if not q > 0:
        return 2.0**LOWEST
    per_step = np.log(extended(2.0)) / 8
    step = max(math.ceil(float(np.log(extended(q)) / per_step) - 1e-9), 8 * LOWEST)
    return math.ldexp(float(np.exp(per_step * (step % 8))), step // 8)


def _at_zero(activation: Activation) -> float:
    """Return σ(0)."""
    return float(activation.values_at(np.zeros(1))[0])


@lru_cache(maxsize=64)
def _moment(activation: Series) -> Panels:
    """Return the table of E[σ²], divided by q if σ(0) = 0."""
    order = 0 if _at_zero(activation) != 0 else 1

    def values(q: Array) -> Array:
        out = []
        for v in q:
            t, weights = nodes(v, activation.kinks, activation.smooth_beyond)
            values = activation.values_at(np.sqrt(v) * t)
            out.append([dot(weights * values, values) / v**order])
        return np.array(out)

    return interpolated(values, FEW)


def chain_of(activation: Activation) -> Chain:
    """Return the chain that sums the series of a function.

    It is (0, 2) for functions that are even except for a linear term, (1, 2) for those that are odd
    except for a constant, and (0, 1) for all others.
    """
    x = np.concatenate([60 * np.cumprod(np.full(400, 0.956)), np.linspace(0.01, 30, 301)])
    right, left = activation.slopes_at(x), activation.slopes_at(-x)
    limit = 4e-16 * np.maximum(1e-300, np.max(abs(right) + abs(left)))
    kinks = activation.kinks
    if set(kinks) == {-k for k in kinks}:
        if np.ptp(right + left) <= 2 * limit:  # σ' is odd except for a constant
            return Chain(0, 2)
        if np.ptp(right - left) <= limit:
            return Chain(1, 2)
    return Chain(0, 1)


def unit_coefficients(
    activation: Activation, q: float, degree: int, fine: bool = False
) -> tuple[Array, float, float]:
    """Return a_k/√M for k = 0 … degree, M, and qS/M, by quadrature.

    fine : whether panels are half as wide
    """
    ends, beyond = activation.kinks, activation.smooth_beyond
    if fine:
        ends, beyond = halved(q, activation), 4 * beyond
    t, weights = nodes(q, ends, beyond)
    x = np.sqrt(q) * t
    sigma, slope = activation.values_at(x), activation.slopes_at(x)
    moment = dot(weights * sigma, sigma)
    if moment == 0:
        return np.eye(1, degree + 1)[0], 0.0, 0.0
    out = np.empty(degree + 1)
    out[0] = dot(weights, sigma)
    weighted = weights * slope
    if q <= 1 and not activation.kinks and not fine:  # the nodes are the same for all such q
        means = dots(_hermite_at_small(degree), weighted)
        out[1:] = np.sqrt(q / np.arange(1, degree + 1)) * means
    else:
        for k, h in enumerate(_hermite(t, degree)):
            out[k + 1] = np.sqrt(q / (k + 1)) * dot(weighted, h)
    return out / np.sqrt(moment), moment, float(q * dot(weighted, slope) / moment)


def halved(q: float, activation: Activation) -> tuple[float, ...]:
    """Return the kinks and the midpoints of the coarse rule's panels: the ends of finer panels."""
    t, _ = nodes(q, activation.kinks, activation.smooth_beyond)
    middles = np.sqrt(q) * t.reshape(-1, 16)[:, [0, -1]].mean(axis=1)
    ends = activation.ends(q) if isinstance(activation, Series) else ()
    return (*activation.kinks, *ends, *middles)


def _hermite(t: Array, count: int) -> Iterator[Array]:
    """Yield the first orthonormal Hermite polynomials at t."""
    before, h = np.zeros_like(t), np.ones_like(t)
    for k in range(count):
        yield h
        before, h = h, (t * h - np.sqrt(k) * before) / np.sqrt(k + 1)


@lru_cache(maxsize=2)
def _hermite_at_small(count: int) -> Array:
    """Return the first orthonormal Hermite polynomials at the nodes of variances up to 1."""
    return np.stack(list(_hermite(nodes(1.0)[0], count)))


@lru_cache(maxsize=2048)
def _check(activation: Series, q: float, degree: int, chain: Chain) -> "_Check":
    """Return what is found at a variance; all limits and tolerances share it."""
    return _Check(activation, q, degree, chain)


class _Check:
    """The series at a variance between the nodes of the tables, with all terms up to a degree.

    Attributes
    ----------
    unit : (degree + 1,)
        The unit coefficients, see `unit_coefficients`.
    tails : (2, degree + 1)
        t and t₁ after each degree.
    unseen : (float, float)
        See `Series.unseen`.
    """

    def __init__(self, activation: Series, q: float, degree: int, chain: Chain):
        self._activation, self._q, self._chain = activation, q, chain
        self.unit, _, self._ratio = unit_coefficients(activation, q, degree, fine=True)
        self.tails = _tails(self.unit, self._ratio, chain)
        self.unseen = activation.unseen(q, degree)
        self._fitted: dict[tuple[int, int], Array] = {}
        self._errors: dict[tuple[int, int], tuple[float, float]] = {}

    def errors(self, degree: int, count: int) -> tuple[float, float]:
        """Return the relative errors of σ and σ' that a table leaves in the terms up to a degree.

        count : the nodes of the table
        """
        if (degree, count) not in self._errors:
            self._errors[degree, count] = self._find_errors(degree, count)
        return self._errors[degree, count]

    def _find_errors(self, degree: int, count: int) -> tuple[float, float]:
        """Return what `errors` returns and keeps."""
        table = _table_degree(degree), count
        if table not in self._fitted:
            values = _whole_table(self._activation, *table)(np.array([self._q]))
            self._fitted[table] = values[:, 0]
        kept = self._chain.mask(degree + 1)
        fitted, unit = self._fitted[table][: degree + 1], self.unit[: degree + 1]
        difference = np.where(kept, fitted - unit, 0)
        error, error_of_rate = length(difference), 0.0
        if self._ratio >= CONSTANT:
            by_degree = np.sqrt(np.arange(degree + 1)) * difference
            error_of_rate = length(by_degree) / math.sqrt(self._ratio)
        return error, error_of_rate


@lru_cache(maxsize=128)
def _tails_of(activation: Series, limit: float, degree: int, chain: Chain) -> "_Tails":
    """Return the tails; the last ones are cached."""
    return _Tails(activation, limit, degree, chain)


class _Tails:
    """The tails after each degree up to a largest one, at variances from a limit down.

    The variances end where the coefficients and the tails hardly change any more.

    Attributes
    ----------
    checks : list of _Check
        What is found at these variances.
    unseen : (2,)
        The largest errors of `Series.unseen` there.
    largest : (2, degree + 1)
        The largest t and t₁ after each degree.
    """

    def __init__(self, activation: Series, limit: float, degree: int, chain: Chain):
        self.checks: list[_Check] = []
        self.largest = np.zeros((2, degree + 1))
        before = None
        for panel in range(int(panel_of(np.array([limit * (1 - 1e-12)]))[0]), LOWEST - 1, -1):
            # in the highest panel, only up to the limit
            at = within(panel, CHECKS)
            checked = [v for v in at if v < limit] + ([limit] if limit < 4.0 ** (panel + 1) else [])
            found = [_check(activation, float(q), degree, chain) for q in checked]
            self.checks += found
            here = np.max([check.tails for check in found], axis=0)
            self.largest = np.maximum(self.largest, here)
            unit = found[-1].unit
            change = np.inf if before is None else abs(unit - before).max()
            before = unit
            if 4.0**panel > activation.finest**2:
                continue
            if change < 1e-9 or (here[:, -1].max() < 1e-3 * FINEST and change < 1e-4):
                break
        self.unseen = np.max([check.unseen for check in self.checks], axis=0)

    def allowed(self, degree: int) -> Array:
        """Return what K and the rate of a pair may lack: no more than those at ρ = 1, (2,)."""
        return np.maximum(self.largest[:, degree], ROUNDING / 100)

    def lowest_degree(self, tolerance: float) -> int | None:
        """Return the lowest degree after which both tails are below the tolerance, or None."""
        enough = np.flatnonzero((PEAK * self.largest).max(axis=0) + 2 * ROUNDING <= tolerance)
        return int(enough[0]) if enough.size else None


def _tails(unit: Array, ratio: float, chain: Chain) -> Array:
    """Return t and t₁ after each degree, of a series with the terms of the chain, (2, degrees)."""
    kept = chain.mask(len(unit))
    k = np.arange(len(unit))
    squares = np.where(kept, unit**2, 0)
    t = np.maximum(1 - np.cumsum(squares), 0)
    if ratio < CONSTANT:
        return np.stack([t, np.zeros_like(t)])
    t1 = np.maximum(1 - np.cumsum(k * squares) / ratio, 0)
    # terms that the chain leaves out are rounding errors; the others are bounded by the tail of σ'
    t = np.minimum(t, (t1 + ROUNDING) * ratio / (k + 1) + ROUNDING)
    return np.stack([t, t1])


def _table(activation: Series, degree: int, count: int) -> Panels:
    """Return the table of the unit coefficients of degree 0, 1, …, `degree`."""
    whole = _whole_table(activation, _table_degree(degree), count)
    return Panels(lambda panel: whole.coefficients(panel)[:, : degree + 1])


def _table_degree(degree: int) -> int:
    """Return the degree of the table from which coefficients up to a degree are taken."""
    return next(d for d in DEGREES if d >= degree)


@lru_cache(maxsize=64)
def _whole_table(activation: Series, degree: int, count: int) -> Panels:
    """Return the table to one of `DEGREES`, which those of lower degrees share."""
    return interpolated(
        lambda q: np.array([unit_coefficients(activation, v, degree)[0] for v in q]), count
    )


@lru_cache(maxsize=128)
def _fitted(activation: Series, limit: float) -> Dual:
    """Return the dual for variances up to a limit, see `Series.dual`; the last ones are cached."""
    tolerance = activation.tolerance
    # what does not depend on the tolerance is computed, and cached, for one tolerance
    function = activation.finer(TOLERANCE)
    chain = chain_of(function)
    degree, reached = None, 1.0
    for largest_degree in DEGREES:
        tails = _tails_of(function, limit, largest_degree, chain)
        reached = float((PEAK * tails.largest[:, -1]).max()) + 2 * ROUNDING
        degree = tails.lowest_degree(tolerance)
        if degree is not None:
            break
    if degree is not None:
        errors = _errors(tails, degree, FEW)
        count = FEW
        if max(errors) > tolerance:
            count, errors = MANY, _errors(tails, degree, MANY)
        while max(errors) > tolerance and degree + 2 < tails.largest.shape[1]:
            degree += 2  # smaller tails leave room for the error of interpolation
            errors = _errors(tails, degree, MANY)
            if errors[1] - tails.largest[1, degree] > tolerance:
                break
        if max(errors) <= tolerance:
            table = _table(function, degree, count)
            return Dual(
                series_loop,
                never_obtuse=activation.never_negative,
                parameters=chain.parameters(degree + 1, tails.largest, tails.allowed(degree)),
                coefficients=lambda q: chain.coefficients(table(q)),
                curve=curve_of(function),
                parity=activation.parity,
                bounds=errors,
            )
        reached = max(errors)
    raise ToleranceError(refusal(activation, limit, reached), reached, tolerance)


class ToleranceError(InvalidValueError):
    """A tolerance that no series reaches.

    reached : the bound of the best series
    asked : the tolerance
    """

    def __init__(self, message: str, reached: float, asked: float) -> None:
        super().__init__(message)
        self.reached, self.asked = reached, asked


def refusal(activation: Series, limit: float, reached: float) -> str:
    """Return the message that the tolerance cannot be reached, with one that can be."""
    message = (
        f"activation {activation.name}: at variances up to {limit:.3g} the series reaches "
        f"{reached:.1e} with {DEGREES[-1]} terms, not {activation.tolerance:g}; "
        "scale the data or w_std down"
    )
    wider = wider_tolerance(activation, reached)
    return message + (f", or ask for {wider}" if wider else "")


def wider_tolerance(activation: Activation, reached: float) -> str:
    """Return how to ask for a bound that can be reached, or "" if it is too large to ask for."""
    spelling = getattr(activation, "tolerance_format", "")
    exponent = np.floor(np.log10(reached))
    rounded_up = np.ceil(reached / 10**exponent) * 10**exponent
    return spelling.format(rounded_up) if rounded_up <= COARSEST else ""


def _errors(tails: _Tails, degree: int, count: int) -> tuple[float, float]:
    """Return the bounds of a fit: its tails, and twice the relative errors of its coefficients."""
    errors = np.max([check.errors(degree, count) for check in tails.checks], axis=0)
    error, error_of_rate = (float(v) for v in errors + tails.unseen)
    t, t1 = (float(PEAK * v[degree]) for v in tails.largest)
    # the true coefficients kept have a norm of at most 1, those of the fit of at most 1 + error
    return (
        t + 2 * PEAK * error * (1 + error) + ROUNDING,
        t1 + 2 * PEAK * error_of_rate * (1 + error_of_rate) + ROUNDING,
    )


def checked_tolerance(name: str, tolerance: Any) -> float:
    """Return the tolerance of an activation as a float, or raise an error if it is out of range."""
    value = real_number(f"activation {name}: the tolerance", tolerance)
    if not FINEST <= value <= COARSEST:
        raise InvalidValueError(
            f"activation {name}: the tolerance must be {FINEST:g} to {COARSEST:g}, not {value:g}"
        )
    return value
