"""The note's claims tested against networks of finite width: `ntk-numba check` on the digits."""

import math
from pathlib import Path

import ntk_numba as nk
from bench.report import section, table

DIGITS = Path(__file__).parent.parent / "data" / "digits.npz"
NET = nk.MLP(4, "relu", 2**0.5, 0.1)


def main() -> str:
    """Return the section `claims`, with one row for each claim."""
    report = nk.check(NET, f"{DIGITS}:x")
    rows = []
    for row in report.rows:
        usual = "" if math.isnan(row.low) else f"{row.show(row.low)} to {row.show(row.high)}"
        exponent = ""
        if not math.isnan(row.exponent):
            exponent = f"{row.exponent:.2f} ± {row.exponent_error:.2f}"
        rows.append(
            [
                row.claim, row.equation, f"{row.entries:,}", row.statistic,
                row.show(row.largest), usual, row.show(row.limit), exponent,
                "pass" if row.passed else "FAIL",
            ]
        )  # fmt: skip
    return section(
        "claims",
        f"`ntk-numba check data/digits.npz:x --depth 4 --w-std 1.4142 --b-std 0.1`: {NET}; "
        f"{report.samples} digits and the origin, {report.draws} networks of each of the widths "
        f"{', '.join(map(str, report.widths))}. z: the largest deviation in standard errors, its "
        f"range in 90 % of all checks of true claims, and the limit above which a claim fails; KS: "
        f"the Kolmogorov-Smirnov distance times √count; error: the relative error of quantities "
        f"without noise. The exponent is that of single networks' deviations over their width, "
        f"−0.5 by theory.",
        table(
            ["claim", "equation", "entries", "test", "largest", "usual", "limit", "exponent", ""],
            rows,
        ),
    )
