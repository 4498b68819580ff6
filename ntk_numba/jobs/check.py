"""The exact kernels, and the note's claims, tested against networks of finite width.

Of every claim the statistic is the largest |z| over its entries, z = (mean − expected)/standard
error. Its distribution under the null depends on how the entries hang together, so it is found by
flipping the signs of the draws' deviations at random; the tail beyond what that reaches is
Student's, with as many independent entries as fit the flips. Where the mean at finite width is off
by O(1/n) the means of three widths are extrapolated (see `finite_width.extrapolate`), and what that
may leave, (L/n)² of the scale, is added to the standard error.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.files.source import open_source
from ntk_numba.finite_width.monte_carlo import each_draw, intercept
from ntk_numba.finite_width.networks import layer_widths, pass_bytes, seed_sequence
from ntk_numba.grid import whole_number
from ntk_numba.jobs.claims import UNITS, Claim, make_claims, observe
from ntk_numba.network import MLP, check_network

SHRINK = (4, 2, 1)  # widths are n/4, n/2, n
LEAST_WIDTH = 32
LEAST_DRAWS = 8
FLIPS = 1000
ROUNDING = 1e-11  # relative; what has no noise must hold to this
GAUSSIAN_POINTS = 8  # whose outputs are tested for being Gaussian


class Row(NamedTuple):
    """One claim's verdict.

    claim, equation : what is tested;  entries : how many
    statistic : "z", the largest |z|; "error", the largest relative error of what has no noise;
        "KS", Kolmogorov and Smirnov's distance of outputs from a Gaussian, times √count
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

    @property
    def passed(self) -> bool:
        """Whether statistic and exponent are within their limits."""
        off = abs(self.exponent + 0.5)
        return bool(self.largest <= self.limit and not off > self.exponent_limit)


class CheckReport(NamedTuple):
    """Verdicts on all claims; true if all pass.

    widths : of the hidden layers;  draws : of each;  samples : of the data that were used
    false_alarm : probability that a report fails although every claim is true
    """

    net: MLP
    widths: tuple[int, ...]
    draws: int
    samples: int
    false_alarm: float
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every claim passed."""
        return all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For scripts: JSON's types only, null for what does not apply."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {
            "passed": self.passed,
            "net": self.net.to_dict(),
            "widths": list(self.widths),
            "draws": self.draws,
            "samples": self.samples,
            "false_alarm": self.false_alarm,
            "claims": [
                {k: plain(v) for k, v in row._asdict().items()} | {"passed": row.passed}
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        head = (
            "claim", "eq.", "entries", "test", "largest", "90 % range", "limit",
            ">2 se", ">3 se", "exponent", "",
        )  # fmt: skip
        lines = [head, *(_cells(row) for row in self.rows)]
        wide = [max(len(line[k]) for line in lines) for k in range(len(head))]
        table = "\n".join(
            "  ".join(
                cell.ljust(w) if k in (0, 1, 3) else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(line, wide, strict=True))
            ).rstrip()
            for line in lines
        )
        return (
            f"{table}\n\n{self.samples} samples, {self.draws} networks of each of the widths "
            f"{', '.join(map(str, self.widths))}; {self.net}\n"
            f"{'PASS' if self.passed else 'FAIL'} (of checks of what is true, "
            f"{self.false_alarm:g} fail)"
        )


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    form = ".1e" if row.statistic == "error" else ".2f"
    usual = "-" if math.isnan(row.low) else f"{row.low:{form}}-{row.high:{form}}"
    exponent = "-"
    if not math.isnan(row.exponent):
        exponent = f"{row.exponent:.2f} (-0.50±{row.exponent_limit:.2f})"
    return (
        row.claim, row.equation, f"{row.entries}", row.statistic, number(row.largest, form), usual,
        number(row.limit, form), number(row.over2, ".3f"), number(row.over3, ".4f"), exponent,
        "pass" if row.passed else "FAIL",
    )  # fmt: skip


def check(
    net: MLP,
    X: Any,
    width: int = 1024,
    draws: int = 64,
    samples: int = 32,
    n_out: int = 4,
    false_alarm: float = 1e-3,
    seed: int = 0,
    threads: int | None = None,
) -> CheckReport:
    """Test the exact kernels and every claim of the note against networks of finite width.

    Parameters
    ----------
    net, X : see `ntk_numba.gram`
    width : int
        n ≥ 32, of all hidden layers; n/2 and n/4 are used too.
    draws : int
        Networks of each width, at least 8.
    samples : int
        Rows of X that are used, evenly spaced.
    n_out : int
        Outputs of each network.
    false_alarm : float
        Probability that the check fails although all is right, over all claims together.
    seed, threads : see `ntk_numba.finite_width.monte_carlo`

    Returns
    -------
    CheckReport
        Print it for the table; `passed`; `to_dict`.

    Raises
    ------
    ValueError, TypeError, OSError
        Bad arguments or data; networks that do not fit in memory, with the bytes they would take.
    """
    check_network(net)
    for name, value, least in (
        ("draws", draws, LEAST_DRAWS), ("samples", samples, 1), ("width", width, LEAST_WIDTH),
    ):  # fmt: skip
        whole_number(name, value, least)
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must be between 0 and 1, not {false_alarm!r}")
    layer_widths(net, 1, width, n_out)
    x = open_source(X, "X").check().sample(samples).astype(float)
    claims = make_claims(net, x, n_out)
    hidden = tuple(width // k for k in SHRINK)
    entries = sum(len(c.expected) for c in claims.values())
    seen: list[dict[str, NDArray[np.float64]]] = []
    for k, n in enumerate(hidden):
        widths = layer_widths(net, x.shape[1], n, n_out)
        working = 2 * pass_bytes(widths, len(x)) + pass_bytes((*widths[:-1], UNITS), len(x))
        drawn = each_draw(
            lambda params: observe(params, x, claims), net, widths, draws,
            seed_sequence(seed, (k,)), threads, x.dtype,
            fixed=(len(hidden) * draws + 3 * FLIPS) * entries * 8, each=working + 2 * entries * 8,
        )  # fmt: skip
        every = list(drawn)
        seen.append({name: np.array([d[name] for d in every]) for name in every[0]})

    tests = 1 + len(claims) + sum(c.narrowing for c in claims.values())
    alarm = 1 - (1 - false_alarm) ** (1 / tests)
    rng = np.random.default_rng(seed_sequence(seed, (len(hidden),)))
    rows = [
        _row(claim, [s[name] for s in seen], hidden, net.depth, alarm, rng)
        for name, claim in claims.items()
    ]
    rows.append(_gaussian_row(claims, seen[-1]["raw"], net.depth, alarm))
    return CheckReport(net, hidden, draws, len(x), false_alarm, tuple(rows))


def _row(
    claim: Claim,
    seen: list[NDArray[np.float64]],
    widths: tuple[int, ...],
    depth: int,
    alarm: float,
    rng: np.random.Generator,
) -> Row:
    """Test a claim on what was seen at each width, (draws, entries)."""
    from scipy import stats

    # entries without a scale are those of zero vectors: nothing to see
    used = np.isfinite(claim.expected) & (claim.scale > 0)
    seen = [(s[:, used] - claim.expected[used]) / claim.scale[used] for s in seen]
    count = int(np.count_nonzero(used))
    draws = len(seen[0])
    factors = intercept(widths) if claim.shifted else np.eye(len(widths))[-1]
    mean = sum(f * s.mean(axis=0) for f, s in zip(factors, seen, strict=True))
    left = (depth / widths[-1]) ** 2 if claim.shifted else 0.0
    variance = sum(
        f * f * s.var(axis=0, ddof=1) / draws for f, s in zip(factors, seen, strict=True)
    )
    noisy = np.sqrt(variance) > ROUNDING
    error = float(np.abs(mean[~noisy]).max(initial=0.0))
    if not noisy.any() or error > ROUNDING:
        return Row(claim.text, claim.equation, count, "error", error, math.nan, math.nan, ROUNDING)
    z = np.abs(mean[noisy]) / np.sqrt(variance[noisy] + left**2)
    # without entries' common sign, a draw is as likely as its mirror image
    flipped = np.zeros((FLIPS, len(z)))
    flipped_variance = np.zeros_like(flipped)
    for f, s in zip(factors, seen, strict=True):
        if f == 0:
            continue
        off = s[:, noisy] - s[:, noisy].mean(axis=0)
        signs = rng.choice([-1.0, 1.0], (FLIPS, draws))
        part = signs @ off / draws
        flipped += f * part
        flipped_variance += f * f * ((off**2).sum(axis=0) / draws - part**2) / (draws - 1)
    largest = np.abs(flipped / np.sqrt(flipped_variance)).max(axis=1)
    low, high = np.quantile(largest, [0.05, 0.95])
    student = stats.t(draws - 1)
    # as many independent entries as have that quantile
    independent = math.log(0.95) / math.log1p(-2 * float(student.sf(high)))
    limit = float(student.isf(-math.expm1(math.log1p(-alarm) / max(independent, 1)) / 2))
    row = Row(
        claim.text, claim.equation, count, "z", float(z.max()), float(low), float(high), limit,
        float(np.mean(z > 2)), float(np.mean(z > 3)),
    )  # fmt: skip
    if not claim.narrowing:
        return row
    return _with_exponent(row, seen, widths, depth, float(student.isf(alarm / 2)))


def _with_exponent(
    row: Row,
    seen: list[NDArray[np.float64]],
    widths: tuple[int, ...],
    depth: int,
    deviations: float,
) -> Row:
    """The slope of log(root mean square deviation of a draw) over log(width), see `Row`.

    It has corrections of its own, from terms of relative order L/n in the variance.
    """
    squares = [np.mean(s**2, axis=1) for s in seen]
    means = np.array([s.mean() for s in squares])
    errors = np.array([s.std(ddof=1) / math.sqrt(len(s)) for s in squares]) / means / 2
    log_n = np.log(widths) - np.mean(np.log(widths))
    slope = log_n / np.sum(log_n**2)
    error = float(np.sqrt(np.sum((slope * errors) ** 2)))
    curvature = 2.5 * depth / min(widths) / math.log(max(widths) / min(widths))
    return row._replace(
        exponent=float(slope @ np.log(means) / 2),
        exponent_error=error,
        exponent_limit=deviations * error + curvature,
    )


def _gaussian_row(
    claims: dict[str, Claim], outputs: NDArray[np.float64], depth: int, alarm: float
) -> Row:
    """Proposition 1: outputs (draws, N, n_out) are Gaussian with covariance Σ⁽ᴸ⁾.

    Made independent by the exact Σ of some of the samples, they are N(0, 1).
    """
    from scipy import stats

    claim = claims["nngp" if depth > 1 else "first"]
    size = math.isqrt(2 * len(claim.expected))
    i, j = np.tril_indices(size)
    nngp = np.zeros((size, size))
    nngp[i, j] = nngp[j, i] = claim.expected
    some = np.unique(np.linspace(0, size - 1, min(size, GAUSSIAN_POINTS)).astype(int))
    values, vectors = np.linalg.eigh(nngp[np.ix_(some, some)])
    kept = values > 1e-6 * max(values.max(), np.finfo(float).tiny)
    if not kept.any():
        return Row("outputs Gaussian", "Prop. 1", 0, "KS", 0.0, math.nan, math.nan, math.inf)
    white = np.einsum("dnk,nv->dkv", outputs[:, some], vectors[:, kept] / np.sqrt(values[kept]))
    distance = stats.kstest(white.ravel(), stats.norm.cdf).statistic
    low, high, limit = stats.kstwo(white.size).ppf([0.05, 0.95, 1 - alarm])
    root = math.sqrt(white.size)
    return Row(
        "outputs Gaussian", "Prop. 1", white.size, "KS",
        float(distance * root), float(low * root), float(high * root), float(limit * root),
    )  # fmt: skip
