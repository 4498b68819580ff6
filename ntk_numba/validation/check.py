"""The statistical check: the exact kernels and the note's claims against finite networks."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import Data, number_between, whole_number
from ntk_numba.compute.memory import gram
from ntk_numba.finite_width.monte_carlo import each_draw
from ntk_numba.finite_width.networks import (
    layer_widths,
    parameter_bytes,
    pass_bytes,
    seed_sequence,
)
from ntk_numba.finite_width.pool import fitting_threads
from ntk_numba.inputs.source import open_source
from ntk_numba.network import MLP, check_network
from ntk_numba.validation.claims import UNITS, make_claims, malformed, observe
from ntk_numba.validation.verdict import FLIPS, Finding, judge, judge_gaussian

SHRINK = (4, 2, 1)  # the widths are n/4, n/2 and n
LEAST_WIDTH = 32
LEAST_DRAWS = 8


class CheckReport(NamedTuple):
    """The result of `check`: one finding for each claim.

    net : the network
    widths : the widths that were used; all hidden layers of a network have the same
    draws : the number of networks of each width
    samples : the number of samples that were used
    false_alarm : the probability that a report fails although all claims are true
    rows : the findings, which are the rows of the printed table
    """

    net: MLP
    widths: tuple[int, ...]
    draws: int
    samples: int
    false_alarm: float
    rows: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True if all claims passed."""
        return all(finding.passed for finding in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in JSON's types only, with None for values that do not apply."""

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
                {k: plain(v) for k, v in finding._asdict().items()} | {"passed": finding.passed}
                for finding in self.rows
            ],
        }

    def __str__(self) -> str:
        head = (
            "claim", "eq.", "entries", "test", "largest", "90 % range", "limit",
            ">2 se", ">3 se", "exponent", "",
        )  # fmt: skip
        lines = [head, *(_cells(finding) for finding in self.rows)]
        wide = [max(len(line[k]) for line in lines) for k in range(len(head))]
        table = "\n".join(
            "  ".join(
                cell.ljust(w) if k in (0, 1, 3) else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(line, wide, strict=True))
            ).rstrip()
            for line in lines
        )
        return (
            f"{table}\n\n{self.samples} samples and the origin, {self.draws} networks of each of "
            f"the widths {', '.join(map(str, self.widths))}; {self.net}\n"
            f"{'PASS' if self.passed else 'FAIL'} (probability of failing "
            f"although all is right: {self.false_alarm:g})"
        )


def _cells(finding: Finding) -> tuple[str, ...]:
    """Return the cells of a finding's row of the table."""

    def fraction(value: float, digits: int) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    f = finding
    usual = "-" if math.isnan(f.low) else f"{f.show(f.low)}-{f.show(f.high)}"
    exponent = "-"
    if not math.isnan(f.exponent):
        exponent = f"{f.exponent:.2f} (-0.50±{f.exponent_limit:.2f})"
    return (
        f.claim, f.equation, f"{f.entries}", f.statistic, f.show(f.largest), usual,
        f.show(f.limit), fraction(f.over2, 3), fraction(f.over3, 4), exponent,
        "pass" if f.passed else "FAIL",
    )  # fmt: skip


def check(
    net: MLP,
    X: Data,
    *,
    width: int = 1024,
    draws: int = 64,
    samples: int = 32,
    n_out: int = 4,
    false_alarm: float = 1e-3,
    seed: int = 0,
    threads: int | None = None,
) -> CheckReport:
    """Test the exact kernels and the claims of the note against networks of finite width.

    `ntk_numba.validation.claims` lists the claims, with the numbers of their equations, and
    `ntk_numba.validation.verdict` describes the statistical tests.

    Parameters
    ----------
    net, X : see `ntk_numba.gram`
    width : int
        The width n ≥ 32 of all hidden layers. Networks of widths n/2 and n/4 are used too.
    draws : int
        The number of networks of each width, at least 8.
    samples : int
        The number of rows of X that are used, evenly spaced. The origin is added to them.
    n_out : int
        The number of outputs of each network.
    false_alarm : float
        The probability that the check fails although all claims are true.
    seed, threads : see `ntk_numba.finite_width.monte_carlo`

    Returns
    -------
    CheckReport
        Its string is a table of all claims; `passed` is the result; `to_dict` is for scripts.

    Raises
    ------
    ValueError, TypeError, OSError
        If the arguments or the data cannot be used, or if the networks do not fit in memory; the
        message says how many bytes they would take.
    """
    check_network(net)
    width = whole_number("width", width, LEAST_WIDTH)
    draws = whole_number("draws", draws, LEAST_DRAWS)
    false_alarm = number_between("false_alarm", false_alarm, 0, 1)
    hidden = tuple(width // k for k in SHRINK)
    source = open_source(X, "X").check()
    count = min(whole_number("samples", samples), source.shape[0])
    widest = layer_widths(net, source.shape[1], width, n_out)
    # an upper bound: claims about layers, two about pairs of outputs, and a few more
    entries = (count + 1) ** 2 * (4 * net.depth + 2 * widest[-1] ** 2 + 8)
    fixed = (len(hidden) * draws + 5 * FLIPS) * entries * 8
    each = 2 * pass_bytes(widest, count + 1) + pass_bytes((*widest[:-1], UNITS), count + 1)
    each += parameter_bytes(widest) + 2 * entries * 8
    fitting_threads(1, fixed, each, f"a check with networks of width {width:,}")

    # only biases contribute at the origin, which shows a wrong β² that data of large norm hides
    x = np.vstack([source.sample(count).astype(float), np.zeros(source.shape[1])])
    exact = gram(net, x, layers="all", dtype="float64")
    assert exact.nngp is not None and exact.ntk is not None
    wrong = malformed(exact.nngp, exact.ntk)
    rows = [
        Finding(
            claim="Σ, Θ finite, symmetric, bounded",
            equation="",
            entries=2 * exact.nngp.size,
            statistic="count",
            largest=float(wrong),
            low=math.nan,
            high=math.nan,
            limit=0.0,
        )
    ]
    report = CheckReport(
        net=net,
        widths=hidden,
        draws=draws,
        samples=count,
        false_alarm=false_alarm,
        rows=tuple(rows),
    )
    if wrong:
        return report  # the claims say nothing about a matrix that is no kernel
    claims = make_claims(net, exact.nngp, exact.ntk, widest[-1])
    seen: list[dict[str, NDArray[np.float64]]] = []
    for k, n in enumerate(hidden):
        drawn = each_draw(
            lambda params: observe(params, x, claims),
            net,
            layer_widths(net, x.shape[1], n, n_out),
            draws=draws,
            seed=seed_sequence(seed, (k,)),
            threads=threads,
            dtype=x.dtype,
            fixed=fixed,
            each=each,
        )
        values = list(drawn)
        seen.append({name: np.array([d[name] for d in values]) for name in values[0]})

    tests = 1 + len(claims) + sum(c.narrowing for c in claims.values())
    alarm = -math.expm1(math.log1p(-false_alarm) / tests)
    rng = np.random.default_rng(seed_sequence(seed, (len(hidden),)))
    rows += [
        judge(claim, [s[name] for s in seen], widths=hidden, depth=net.depth, alarm=alarm, rng=rng)
        for name, claim in claims.items()
    ]
    rows.append(judge_gaussian(exact.nngp[-1], seen[-1]["raw"], width, net.depth, alarm))
    return report._replace(rows=tuple(rows))
