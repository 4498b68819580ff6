"""The exact kernels, and the note's claims, tested against networks of finite width."""

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
from ntk_numba.validation.claims import (
    UNITS,
    make_claims,
    malformed,
    observe,
)
from ntk_numba.validation.verdict import (
    FLIPS,
    Row,
    judge,
    judge_gaussian,
)

SHRINK = (4, 2, 1)  # widths are n/4, n/2, n
LEAST_WIDTH = 32
LEAST_DRAWS = 8


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
            f"{table}\n\n{self.samples} samples and the origin, {self.draws} networks of each of "
            f"the widths {', '.join(map(str, self.widths))}; {self.net}\n"
            f"{'PASS' if self.passed else 'FAIL'} (probability of failing "
            f"although all is right: {self.false_alarm:g})"
        )


def _cells(row: Row) -> tuple[str, ...]:
    def share(value: float, digits: int) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    usual = "-" if math.isnan(row.low) else f"{row.show(row.low)}-{row.show(row.high)}"
    exponent = "-"
    if not math.isnan(row.exponent):
        exponent = f"{row.exponent:.2f} (-0.50±{row.exponent_limit:.2f})"
    return (
        row.claim, row.equation, f"{row.entries}", row.statistic, row.show(row.largest), usual,
        row.show(row.limit), share(row.over2, 3), share(row.over3, 4), exponent,
        "pass" if row.passed else "FAIL",
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
    """Test the exact kernels and every claim of the note against networks of finite width.

    Parameters
    ----------
    net, X : see `ntk_numba.gram`
    width : int
        n ≥ 32, of all hidden layers; n/2 and n/4 are used too.
    draws : int
        Networks of each width, at least 8.
    samples : int
        Rows of X that are used, evenly spaced; and the origin.
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
    width, draws = (
        whole_number("width", width, LEAST_WIDTH), whole_number("draws", draws, LEAST_DRAWS)
    )  # fmt: skip
    false_alarm = number_between("false_alarm", false_alarm, 0, 1)
    hidden = tuple(width // k for k in SHRINK)
    source = open_source(X, "X").check()
    count = min(whole_number("samples", samples), source.shape[0])
    widest = layer_widths(net, source.shape[1], width, n_out)
    # all claims together: of layers, of pairs of outputs twice, and some more; flipped, and drawn
    entries = (count + 1) ** 2 * (4 * net.depth + 2 * widest[-1] ** 2 + 8)
    fixed = (len(hidden) * draws + 5 * FLIPS) * entries * 8
    each = 2 * pass_bytes(widest, count + 1) + pass_bytes((*widest[:-1], UNITS), count + 1)
    each += parameter_bytes(widest) + 2 * entries * 8
    fitting_threads(1, fixed, each, f"a check with networks of width {width:,}")

    # the origin, where biases are all there is, finds a wrong β² that data of large norm hides
    x = np.vstack([source.sample(count).astype(float), np.zeros(source.shape[1])])
    exact = gram(net, x, layers="all", dtype="float64")
    assert exact.nngp is not None and exact.ntk is not None
    wrong = malformed(exact.nngp, exact.ntk)
    rows = [
        Row(
            "Σ, Θ finite, symmetric, bounded", "", 2 * exact.nngp.size, "count", float(wrong),
            math.nan, math.nan, 0.0,
        )
    ]  # fmt: skip
    report = CheckReport(
        net=net,
        widths=hidden,
        draws=draws,
        samples=count,
        false_alarm=false_alarm,
        rows=tuple(rows),
    )
    if wrong:
        return report  # of no kernel there is nothing more to say
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
        judge(claim, [s[name] for s in seen], hidden, net.depth, alarm, rng)
        for name, claim in claims.items()
    ]
    rows.append(judge_gaussian(exact.nngp[-1], seen[-1]["raw"], width, net.depth, alarm))
    return report._replace(rows=tuple(rows))
