"""The statistical tests of `check`: whether chance explains how far observations are from a claim.

The statistic is the largest |z| over a claim's entries, z = (mean − expected)/standard error. Its
distribution if the claim is true depends on how the entries are correlated, so it is found by
flipping the signs of the draws' deviations at random. Beyond the quantiles that this reaches, the
tail is Student's, with the number of independent entries that fits the flips. The standard error of
the draws is not the only error:

- It is too small whenever the mean is, where few outputs are squared. It is therefore taken to be
  at least that of products of Gaussian units, with the tail of χ² and not of Student.
- Extrapolation to infinite width may leave an error of (L/n)² of the scale.
- It misses events that were too rare to be observed, such as a unit whose σ' differs between two
  nearly equal samples.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.finite_width.monte_carlo import intercept
from ntk_numba.validation.claims import Claim

FLIPS = 1000
ROUNDING = 1e-11  # the largest relative error of entries without noise
TINY = 1e-290  # a scale below it has lost digits to underflow
UNSEEN = 4.0  # if so many events are expected, none is observed with probability e⁻⁴
GAUSSIAN_POINTS = 8  # samples whose outputs are tested for being Gaussian
CURVATURE = 2.5  # terms of relative order L/n bend the line whose slope is the exponent
GAUSSIAN_SHIFT = 0.3  # Kolmogorov's distance at width n, times n/L: measured, with a margin


class Finding(NamedTuple):
    """The result of the test of one claim.

    claim, equation : the claim and its number in the note
    entries : the number of entries that were tested
    statistic : "z", the largest |z|; "error", the largest relative error of entries without noise;
        "KS", Kolmogorov and Smirnov's distance of outputs from a Gaussian, times √count;
        "count", the number of wrong entries
    largest : the value of the statistic
    low, high : the range of the statistic in 90 % of all checks if the claim is true
    limit : the largest value that passes
    over2, over3 : the fractions of entries that are more than 2 and 3 standard errors off; 0.05 and
        0.003 are expected
    exponent : the exponent by which deviations of single draws change with the width, −1/2 if the
        claim is true
    exponent_error : the standard error of the exponent
    exponent_limit : the largest distance from −1/2 that passes
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
        """Format a value of the statistic for a table."""
        form = {"error": ".1e", "count": ".0f"}.get(self.statistic, ".2f")
        return "-" if math.isnan(value) else format(value, form)

    @property
    def passed(self) -> bool:
        """True if the statistic and the exponent are within their limits."""
        off = abs(self.exponent + 0.5)
        return bool(self.largest <= self.limit and not off > self.exponent_limit)


def judge(
    claim: Claim,
    seen: list[NDArray[np.float64]],
    widths: tuple[int, ...],
    depth: int,
    alarm: float,
    rng: np.random.Generator,
) -> Finding:
    """Test a claim by the observations at each width.

    seen : (draws, entries) of each width, the observations of the claim's entries
    widths, depth : the widths of the hidden layers, in the order of `seen`, and the depth L
    alarm : the probability that the statistic fails a claim that is true, and the same for the
        exponent
    """
    count = int(np.count_nonzero(claim.scale > TINY))

    def without_noise(error: float) -> Finding:
        return Finding(
            claim=claim.text,
            equation=claim.equation,
            entries=count,
            statistic="error",
            largest=error,
            low=math.nan,
            high=math.nan,
            limit=ROUNDING,
        )

    if not all(np.isfinite(s).all() for s in seen):
        return without_noise(math.inf)
    # entries with a scale of 0 must be 0 in every network; for those with NaN there is no claim
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
    mean, variance, floor, bias = np.zeros((4, len(expected)))
    for f, n, u, s in zip(factors, widths, units, seen, strict=True):
        mean += f * s.mean(axis=0)
        variance += f * f * s.var(axis=0, ddof=1) / draws
        floor += f * f * noise / (u * draws)
        if claim.narrowing:
            bias = np.maximum(bias, UNSEEN * abs(f) / (n * draws))
    if claim.shifted:
        bias = np.hypot(bias, (depth / widths[-1]) ** 2)
    total = np.maximum(variance, floor) + bias**2
    noisy = np.sqrt(total) > ROUNDING
    error = max(error, float(np.abs(mean[~noisy]).max(initial=0.0)))
    if not noisy.any() or error > ROUNDING:
        return without_noise(error)
    z = np.abs(mean[noisy]) / np.sqrt(total[noisy])
    largest = _largest_if_true([x[:, noisy] for x in seen], factors, floor[noisy], bias[noisy], rng)
    low, high = np.quantile(largest, [0.05, 0.95])
    freedom = math.inf
    if (gaussian := noise[noisy] > 0).any():
        skew = (np.abs(factors) ** 3).sum() / (factors**2).sum() ** 1.5
        freedom = draws * min(float(u[noisy][gaussian].min()) for u in units) / skew**2
    finding = Finding(
        claim=claim.text,
        equation=claim.equation,
        entries=count,
        statistic="z",
        largest=float(z.max()),
        low=float(low),
        high=float(high),
        limit=_limit(float(high), alarm, draws, freedom),
        over2=float(np.mean(z > 2)),
        over3=float(np.mean(z > 3)),
    )
    return _with_exponent(finding, seen, widths, depth, alarm) if claim.narrowing else finding


def _largest_if_true(
    seen: list[NDArray[np.float64]],
    factors: NDArray[np.float64],
    floor: NDArray[np.float64],
    bias: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the largest |z| of each of FLIPS checks of draws whose deviations get random signs."""
    mean, variance = np.zeros((2, FLIPS, len(floor)))
    for f, s in zip(factors, seen, strict=True):
        if f == 0:
            continue
        deviations, draws = s - s.mean(axis=0), len(s)
        flipped = rng.choice([-1.0, 1.0], (FLIPS, draws)) @ deviations / draws
        mean += f * flipped
        variance += f * f * ((deviations**2).sum(axis=0) / draws - flipped**2) / (draws - 1)
    return np.asarray(np.abs(mean / np.sqrt(np.maximum(variance, floor) + bias**2)).max(axis=1))


def _limit(high: float, alarm: float, draws: int, freedom: float) -> float:
    """Return the value that the largest |z| exceeds with probability `alarm`.

    It is computed for the number of independent entries whose largest |z| exceeds `high` with
    probability 0.05. Their tail is Student's or, if `freedom` is finite and the tail is longer,
    that of χ² with so many degrees of freedom, the longest that a product of two Gaussians has.
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
    finding: Finding,
    seen: list[NDArray[np.float64]],
    widths: tuple[int, ...],
    depth: int,
    alarm: float,
) -> Finding:
    """Add the slope of log(root mean square deviation of a draw) over log(width), see `Finding`.

    Its limit allows for terms of relative order L/n in the variance.
    """
    from scipy import stats

    squares = [np.mean(s**2, axis=1) for s in seen]
    means = np.array([s.mean() for s in squares])
    if not means.min() > ROUNDING**2:
        return finding  # there are no deviations
    errors = np.array([s.std(ddof=1) / math.sqrt(len(s)) for s in squares]) / means / 2
    log_n = np.log(widths) - np.mean(np.log(widths))
    slope = log_n / np.sum(log_n**2)
    error = float(np.sqrt(np.sum((slope * errors) ** 2)))
    curvature = CURVATURE * depth / min(widths) / math.log(max(widths) / min(widths))
    return finding._replace(
        exponent=float(slope @ np.log(means) / 2),
        exponent_error=error,
        exponent_limit=float(stats.t(len(seen[0]) - 1).isf(alarm / 2)) * error + curvature,
    )


def judge_gaussian(
    nngp: NDArray[np.float64], outputs: NDArray[np.float64], width: int, depth: int, alarm: float
) -> Finding:
    """Test Proposition 1: outputs (draws, N, n_out) are Gaussian with covariance Σ⁽ᴸ⁾, (N, N).

    The outputs on GAUSSIAN_POINTS samples are made independent by means of the exact Σ, and should
    then be N(0, 1). At finite width they are so only nearly, since all outputs of a draw have a
    kernel in common that differs from Σ by √(L/n).
    """
    from scipy import stats

    size = len(nngp)
    points = np.unique(np.linspace(0, size - 1, min(size, GAUSSIAN_POINTS)).astype(int))
    values, vectors = np.linalg.eigh(nngp[np.ix_(points, points)])
    kept = values > 1e-6 * max(values.max(), np.finfo(float).tiny)
    if not kept.any():
        return Finding(
            claim="outputs Gaussian",
            equation="Prop. 1",
            entries=0,
            statistic="KS",
            largest=0.0,
            low=math.nan,
            high=math.nan,
            limit=math.inf,
        )
    white = np.einsum("dnk,nv->dkv", outputs[:, points], vectors[:, kept] / np.sqrt(values[kept]))
    distance = stats.kstest(white.ravel(), stats.norm.cdf).statistic
    low, high, limit = stats.kstwo(white.size).isf([0.95, 0.05, alarm])
    limit += GAUSSIAN_SHIFT * (depth - 1) / width
    root = math.sqrt(white.size)
    return Finding(
        claim="outputs Gaussian",
        equation="Prop. 1",
        entries=white.size,
        statistic="KS",
        largest=float(distance * root),
        low=float(low * root),
        high=float(high * root),
        limit=float(limit * root),
    )
