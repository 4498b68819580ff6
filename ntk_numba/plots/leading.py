"""Pictures of what `ntk_numba.spectrum` finds of a matrix of any size."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntk_numba.plots.style import band, line, plain_log

RIDGES = np.geomspace(1e-8, 1e2, 51)  # of the effective dimension, relative to the mean diagonal
WIDTH = 3.4  # of a panel, in inches


def panels_of(targets: ArrayLike | None) -> int:
    """Return the number of panels."""
    return 2 if targets is None else 3


def draw_leading(figure: Any, found: Any, targets: ArrayLike | None) -> None:
    """Draw the panels: eigenvalues, effective dimension and, with targets, their alignment."""
    axes = figure.subplots(1, panels_of(targets), squeeze=False)[0]
    _draw_values(axes[0], found)
    _draw_dimension(axes[1], found)
    if targets is not None:
        _draw_alignment(axes[2], found, targets)


def _draw_values(axes: Any, found: Any) -> None:
    """Draw the eigenvalues over their ranks, with the bounds of their errors."""
    values = found.values if found.all_values is None else found.all_values
    errors = found.residuals if found.all_values is None else np.zeros_like(values)
    rank = np.arange(1, len(values) + 1)
    kept = values > 0
    few = {"marker": "o", "markersize": 2.5} if len(values) <= 200 else {}
    axes.plot(rank[kept], values[kept], **(line(0) | few), label="eigenvalues")
    if (errors > 1e-2 * np.abs(values)).any():
        low = np.maximum(values - errors, 1e-3 * np.abs(values))
        axes.fill_between(rank, low, values + errors, **band(0), label="± residual")
        axes.legend()
    if kept.any():
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    if len(values) >= 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("rank")
    axes.set_ylabel("eigenvalue")
    which = "all" if len(values) == found.size else f"{len(values):,} largest of"
    axes.set_title(f"{which} {found.size:,} eigenvalues")


def _draw_dimension(axes: Any, found: Any) -> None:
    """Draw the effective dimension over the ridge, with two standard errors."""
    axes.set_xlabel("ridge / mean of the diagonal")
    axes.set_ylabel("effective dimension")
    axes.set_title("effective dimension")
    mean = found.trace / found.size
    if not mean > 0:
        axes.set_xlim(RIDGES[0], RIDGES[-1])
        return
    estimates = [found.effective_dimension(ridge * mean) for ridge in RIDGES]
    value = np.array([estimate.value for estimate in estimates])
    error = 2 * np.array([estimate.error for estimate in estimates])
    axes.plot(RIDGES, value, **line(0), label="tr K (K + ridge·I)⁻¹")
    if (error > 1e-3 * value).any():
        low = np.maximum(value - error, 1e-3 * value)
        axes.fill_between(RIDGES, low, value + error, **band(0), label="± 2 standard errors")
        axes.legend()
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes.yaxis)


def _draw_alignment(axes: Any, found: Any, targets: ArrayLike) -> None:
    """Draw the share of the targets along the leading eigenvectors."""
    share = found.alignment(targets).total
    rank = np.arange(1, len(share) + 1)
    axes.step(rank, share, where="mid", **line(0))
    axes.set_ylim(0, 1.02)
    if len(share) >= 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("rank")
    axes.set_ylabel("share of |y|², cumulative")
    axes.set_title("targets along eigenvectors")
