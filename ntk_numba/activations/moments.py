"""A table of E[σ²] of any function, relatively accurate however fast σ grows or vanishes.

In the panel that begins at 4^p it interpolates f in E[σ²] = e^b (q/4^p)^s exp(f(ln q)), where b and
s are simple numbers, or E[σ²] itself if that is 0 or infinite somewhere in the panel.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals.base import Activation
from ntk_numba.duals.panels import Panels, interpolated, panel_of
from ntk_numba.duals.quadrature import nodes
from ntk_numba.extended import LN4, Extended, extended, stack, where

NODES = 40  # of a panel
SIMPLE = 64.0  # s is a multiple of 1/64, so that it can be rounded back after interpolation


def table_moment(activation: Activation, q: Extended) -> Extended:
    """Return E[σ(√q t)²], (N,)."""
    value, power, base, is_log = _table(activation)(q)
    log_q = _log_in_panel(where(q > 0, q, 1), panel_of(q))
    logarithm = np.rint(power) / SIMPLE * log_q + value + np.rint(base)
    moment = where(np.rint(is_log) == 1, np.exp(logarithm), value)
    return where(q == 0, activation.values_at(np.zeros(1))[0] ** 2, moment)


@lru_cache(maxsize=64)
def _table(activation: Activation) -> Panels:
    """Return the table of f, 64 s, b and 1; or of E[σ²], 0, 0 and 0."""

    def values(q: NDArray[np.float64]) -> NDArray[np.float64]:
        out = []
        for v in q:
            t, weights = nodes(v, activation.kinks, activation.smooth_beyond)
            with np.errstate(all="ignore"):
                squares = extended(activation.values_at(np.sqrt(v) * t)) ** 2
            out.append((weights * squares).sum())
        moments, zero, one = stack(out), np.zeros(len(q)), np.ones(len(q))
        rounded = moments.astype(float)
        if not (np.isfinite(rounded) & (moments > 0)).all():
            return np.stack([rounded, zero, zero, zero], axis=1)
        logs = np.log(moments)
        log_q = _log_in_panel(extended(q), panel_of(extended(q))[len(q) // 2])
        power = np.rint(SIMPLE * float((logs[0] - logs[-1]) / (log_q[0] - log_q[-1])))
        rest = logs - power / SIMPLE * log_q
        base = np.rint(float(rest.sum()) / len(q))
        return np.stack([(rest - base).astype(float), power * one, base * one, one], axis=1)

    return interpolated(values, NODES)


def _log_in_panel(q: Extended, panel: Any) -> Extended:
    """Return ln(q/4^panel), which does not cancel in extended precision."""
    return np.log(q) - LN4 * panel
