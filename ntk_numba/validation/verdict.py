"""A claim's verdict: whether what networks showed is what chance explains.

The statistic is the largest |z| over a claim's entries, z = (mean − expected)/standard error. Its
distribution if the claim is true depends on how the entries hang together, so it is found by
flipping the signs of the draws' deviations at random; the tail beyond what that reaches is
Student's, with as many independent entries as fit the flips. The draws' own standard error is not
the whole of it:

- It is too small whenever the mean is, where few outputs are squared. What units' products have if
  the units are Gaussian is therefore the least it may be, with the tail of χ² and not of Student.
- Extrapolation to infinite width may leave (L/n)² of the scale.
- It cannot tell what was too rare to be seen, as a unit whose σ' differs between two nearly equal
  samples.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.finite_width.monte_carlo import intercept
from ntk_numba.validation.claims import Claim

FLIPS = 1000
ROUNDING = 1e-11  # relative; what has no noise must hold to this
TINY = 1e-290  # a scale below it has lost digits to underflow
UNSEEN = 4.0  # events; of so many expected none is seen with probability e⁻⁴
GAUSSIAN_POINTS = 8  # whose outputs are tested for being Gaussian
CURVATURE = 2.5  # terms of relative order L/n bend the line whose slope is the exponent
GAUSSIAN_SHIFT = 0.3  # Kolmogorov's distance at width n, times n/L: measured, with some room


class Row(NamedTuple):
    """One claim's verdict.

    claim, equation : what is tested;  entries : how many
    statistic : "z", the largest |z|; "error", the largest relative error of what has no noise;
        "KS", Kolmogorov and Smirnov's distance of outputs from a Gaussian, times √count;
        "count" of entries that are wrong
    largest : its value;  low, high : its range in 90 % of all checks if the claim is true
    limit : the largest value that passes
    over2, over3 : share of entries more than 2 and 3 standard errors off (0.05 and 0.003 expected)
    exponent, exponent_error, exponent_limit : of the deviation of single draws as the width grows,
        −1/2 if the claim is true, its standard error, and how far from −1/2 it may be
    """

    claim: str
    equation: str
    entries: int
    statistic: str
    largest: float
    low: float
    high: float
    limit: float
    over2: float = math.nan
    over3: float = math.nan
    exponent: float = math.nan
    exponent_error: float = math.nan
    exponent_limit: float = math.nan

    def show(self, value: float) -> str:
        """A value of the statistic, as tables have it."""
        form = {"error": ".1e", "count": ".0f"}.get(self.statistic, ".2f")
        return "-" if math.isnan(value) else format(value, form)

    @property
    def passed(self) -> bool:
        """Whether statistic and exponent are within their limits."""
        off = abs(self.exponent + 0.5)
        return bool(self.largest <= self.limit and not off > self.exponent_limit)


def judge(
    claim: Claim,
    seen: list[NDArray[np.float64]],
    widths: tuple[int, ...],
    depth: int,
    alarm: float,
    rng: np.random.Generator,
) -> Row:
    """Test a claim on what was seen at each width, (draws, entries).

    alarm : probability that the statistic, or else the exponent, fails a claim that is true
    """
    count = int(np.count_nonzero(claim.scale > TINY))

    def without_noise(error: float) -> Row:
        return Row(
            claim.text, claim.equation, count, "error", error, math.nan, math.nan, ROUNDING
        )  # fmt: skip

    if not all(np.isfinite(s).all() for s in seen):
        return without_noise(math.inf)
    # a scale of 0 stands for what must be 0 in every network; NaN for no claim, see `make_claims`
    blank, used = claim.scale == 0, claim.scale > TINY
    largest_scale = float(np.max(claim.scale, initial=0.0, where=used)) or 1.0
    error = max(
        float(np.abs(s[:, blank] - claim.expected[blank]).max(initial=0.0)) / largest_scale
        for s in seen
    )
    expected, scale, noise = (a[used] for a in (claim.expected, claim.scale, claim.noise))
    seen = [(s[:, used] - expected) / scale for s in seen]
    draws = len(seen[0])
    factors = intercept(widths) if claim.shifted else np.eye(len(widths))[-1]
    units = [np.where(claim.units[used] > 0, claim.units[used], n) for n in widths]
    mean, variance, floor, left = np.zeros((4, len(expected)))
    for f, n, u, s in zip(factors, widths, units, seen, strict=True):
        mean += f * s.mean(axis=0)
        variance += f * f * s.var(axis=0, ddof=1) / draws
        floor += f * f * noise / (u * draws)
        if claim.narrowing:
            left = np.maximum(left, UNSEEN * abs(f) / (n * draws))
    if claim.shifted:
        left = np.hypot(left, (depth / widths[-1]) ** 2)
    total = np.maximum(variance, floor) + left**2
    noisy = np.sqrt(total) > ROUNDING
    error = max(error, float(np.abs(mean[~noisy]).max(initial=0.0)))
    if not noisy.any() or error > ROUNDING:
        return without_noise(error)
    z = np.abs(mean[noisy]) / np.sqrt(total[noisy])
    largest = _largest_if_true([x[:, noisy] for x in seen], factors, floor[noisy], left[noisy], rng)
    low, high = np.quantile(largest, [0.05, 0.95])
    freedom = math.inf
    if (gaussian := noise[noisy] > 0).any():
        skew = (np.abs(factors) ** 3).sum() / (factors**2).sum() ** 1.5
        freedom = draws * min(float(u[noisy][gaussian].min()) for u in units) / skew**2
    row = Row(
        claim.text, claim.equation, count, "z", float(z.max()), float(low), float(high),
        _limit(float(high), alarm, draws, freedom), float(np.mean(z > 2)), float(np.mean(z > 3)),
    )  # fmt: skip
    return _with_exponent(row, seen, widths, depth, alarm) if claim.narrowing else row


def _largest_if_true(
    seen: list[NDArray[np.float64]],
    factors: NDArray[np.float64],
    floor: NDArray[np.float64],
    left: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """The largest |z| of each of FLIPS checks of draws whose deviations have random signs."""
    mean, variance = np.zeros((2, FLIPS, len(floor)))
    for f, s in zip(factors, seen, strict=True):
        if f == 0:
            continue
        off, draws = s - s.mean(axis=0), len(s)
        part = rng.choice([-1.0, 1.0], (FLIPS, draws)) @ off / draws
        mean += f * part
        variance += f * f * ((off**2).sum(axis=0) / draws - part**2) / (draws - 1)
    return np.asarray(np.abs(mean / np.sqrt(np.maximum(variance, floor) + left**2)).max(axis=1))


def _limit(high: float, alarm: float, draws: int, freedom: float) -> float:
    """What the largest |z| exceeds with probability `alarm`, if it exceeds `high` in 5 %.

    It is that of as many independent entries as have that quantile. Their tail is Student's, or if
    longer that of χ² with a finite `freedom`, the longest that a product of two Gaussians has.
    """
    from scipy import stats

    student = stats.t(draws - 1)
    above = -2 * float(student.sf(high))
    independent = max(math.log(0.95) / math.log1p(above), 1.0) if above > -1 else 1.0
    each = -math.expm1(math.log1p(-alarm) / independent) / 2
    limit = float(student.isf(each))
    if freedom < math.inf:
        tail = (float(stats.chi2(freedom).isf(each)) - freedom) / math.sqrt(2 * freedom)
        limit = max(limit, tail)
    return limit


def _with_exponent(
    row: Row,
    seen: list[NDArray[np.float64]],
    widths: tuple[int, ...],
    depth: int,
    alarm: float,
) -> Row:
    """The slope of log(root mean square deviation of a draw) over log(width), see `Row`.

    It has corrections of its own, from terms of relative order L/n in the variance.
    """
    from scipy import stats

    squares = [np.mean(s**2, axis=1) for s in seen]
    means = np.array([s.mean() for s in squares])
    if not means.min() > ROUNDING**2:
        return row  # no deviations
    errors = np.array([s.std(ddof=1) / math.sqrt(len(s)) for s in squares]) / means / 2
    log_n = np.log(widths) - np.mean(np.log(widths))
    slope = log_n / np.sum(log_n**2)
    error = float(np.sqrt(np.sum((slope * errors) ** 2)))
    curvature = CURVATURE * depth / min(widths) / math.log(max(widths) / min(widths))
    return row._replace(
        exponent=float(slope @ np.log(means) / 2),
        exponent_error=error,
        exponent_limit=float(stats.t(len(seen[0]) - 1).isf(alarm / 2)) * error + curvature,
    )


def judge_gaussian(
    nngp: NDArray[np.float64], outputs: NDArray[np.float64], width: int, depth: int, alarm: float
) -> Row:
    """Proposition 1: outputs (draws, N, n_out) are Gaussian with covariance Σ⁽ᴸ⁾, (N, N).

    Made independent by the exact Σ of some of the samples, they are N(0, 1); at finite width not
    quite, for the outputs of a draw share a kernel that differs from Σ by √(L/n).
    """
    from scipy import stats

    size = len(nngp)
    some = np.unique(np.linspace(0, size - 1, min(size, GAUSSIAN_POINTS)).astype(int))
    values, vectors = np.linalg.eigh(nngp[np.ix_(some, some)])
    kept = values > 1e-6 * max(values.max(), np.finfo(float).tiny)
    if not kept.any():
        return Row("outputs Gaussian", "Prop. 1", 0, "KS", 0.0, math.nan, math.nan, math.inf)
    white = np.einsum("dnk,nv->dkv", outputs[:, some], vectors[:, kept] / np.sqrt(values[kept]))
    distance = stats.kstest(white.ravel(), stats.norm.cdf).statistic
    low, high, limit = stats.kstwo(white.size).isf([0.95, 0.05, alarm])
    limit += GAUSSIAN_SHIFT * (depth - 1) / width
    root = math.sqrt(white.size)
    return Row(
        "outputs Gaussian", "Prop. 1", white.size, "KS",
        float(distance * root), float(low * root), float(high * root), float(limit * root),
    )  # fmt: skip
