"""The results of a search for hyperparameters, as rows and as a printed table."""

import math
from dataclasses import dataclass, field

from ntk_numba.network import MLP


@dataclass(frozen=True)
class Candidate:
    """A network of one depth and activation, with the hyperparameters that were found for it.

    Attributes
    ----------
    activation : str
        Its name; several, joined by commas, if the layers differ; "none" if the depth is 1.
    depth : int
    w_std, b_std : float or tuple of float
        One number if it is the same in all layers, else one for each.
    noise : float
        The variance of the noise relative to the mean of the kernel's diagonal.
    value : float
        The objective, in nats, summed over all targets; −inf if it could not be computed.
    evaluations : int
        How often the objective was computed with its gradient; 0 for a start that was screened.
    converged : bool
        Whether the search ended since neither values nor slopes allow more.
    at_bounds : tuple of str
        The names of the hyperparameters that ended at a bound. Give wider `bounds` to go on.
    failure : str
        Why the objective could not be computed at any start, or why a search that did not converge
        had to turn back (an activation that is a series, for example, has a largest variance);
        empty if neither happened.
    net : MLP
    """

    activation: str
    depth: int
    w_std: float | tuple[float, ...]
    b_std: float | tuple[float, ...]
    noise: float
    value: float
    evaluations: int
    converged: bool
    at_bounds: tuple[str, ...]
    failure: str
    net: MLP = field(repr=False)


@dataclass(frozen=True)
class HyperparameterFit:
    """The result of `fit_hyperparameters`, which prints as a table.

    Attributes
    ----------
    net : MLP
        The network with the largest value of the objective.
    noise : float
        Its noise, relative to the mean of the kernel's diagonal, as `gaussian_process` takes it.
    value : float
        The objective there, in nats, summed over all targets.
    objective, kernel : str
        As given.
    table : list of Candidate
        The best network of each activation and depth, the largest value first.
    screened : list of Candidate
        All starts: what was computed before any search, for a picture of the objective over depth
        and σ_w.
    """

    net: MLP
    noise: float
    value: float
    objective: str
    kernel: str
    table: list[Candidate]
    screened: list[Candidate] = field(repr=False)

    def __str__(self) -> str:
        name = {"evidence": "log evidence", "loo": "leave-one-out log density"}[self.objective]
        head = ["activation", "depth", "w_std", "b_std", "noise", name, "evaluations", ""]
        rows = [head, *(_cells(row) for row in self.table)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = (
            "  ".join(
                cell.ljust(width) if k in (0, len(head) - 1) else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )
        return "\n".join([f"{self.kernel} of {len(self.table)} networks", *lines])


def _cells(row: Candidate) -> list[str]:
    """Return the cells of a row of the printed table."""

    def short(value: float | tuple[float, ...]) -> str:
        return " ".join(f"{v:.4g}" for v in (value if isinstance(value, tuple) else (value,)))

    notes = [f"{name} at its bound" for name in row.at_bounds]
    if row.value == -math.inf:
        notes = [f"failed: {row.failure}"]
    elif not row.converged:
        notes.insert(0, "not converged" + (f", turned back: {row.failure}" if row.failure else ""))
    numbers = [short(row.w_std), short(row.b_std), short(row.noise), f"{row.value:.6g}"]
    return [row.activation, str(row.depth), *numbers, str(row.evaluations), "; ".join(notes)]
