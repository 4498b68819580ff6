"""A table of E[σ²] of any function, relatively accurate however fast σ grows or vanishes.

In the panel that begins at 4^p it interpolates f in E[σ²] = e^b (q/4^p)^s exp(f(ln q)), where b and
s are simple numbers, or E[σ²] itself if that is 0 or infinite somewhere in the panel.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.duals.panels import WIDTH, Panels, interpolated, panel_of
from ntk_numba.duals.quadrature import nodes
from ntk_numba.function import Floats, Function

NODES = 40  # of a panel
SIMPLE = 64.0  # s is a multiple of 1/64, so that it can be rounded back after interpolation


def second_moment(function: Function, q: Floats) -> Floats:
    """Return E[σ(√q t)²] in the precision of q, (N,)."""
    value, power, base, is_log = _table(function)(q)
    log_q = _log_in_panel(np.where(q > 0, q, 1), panel_of(q))
    logarithm = value + np.rint(power) / SIMPLE * log_q + np.rint(base)
    with np.errstate(over="ignore", invalid="ignore"):
        moment = np.where(np.rint(is_log) == 1, np.exp(logarithm), value)
        at_zero = np.asarray(function(np.zeros(1)))[0] ** 2
        return np.asarray(np.where(q == 0, at_zero, moment), q.dtype)


@lru_cache(maxsize=64)
def _table(function: Function) -> Panels:
    """Return the table of f, 64 s, b and 1; or of E[σ²], 0, 0 and 0."""

    def values(q: NDArray[np.float64]) -> NDArray[np.float64]:
        out = []
        for v in q:
            t, weights = nodes(v, function.kinks, function.smooth_beyond)
            with np.errstate(all="ignore"):
                squares = np.asarray(function(np.sqrt(v) * t), np.longdouble) ** 2
                out.append((weights * squares).sum())
        moments, zero, one = np.array(out), np.zeros(len(q)), np.ones(len(q))
        if not (np.isfinite(moments) & (moments > 0)).all():
            return np.stack([moments.astype(float), zero, zero, zero], axis=1)
        logs, log_q = np.log(moments), _log_in_panel(q, panel_of(q)[len(q) // 2])
        power = np.rint(SIMPLE * float((logs[0] - logs[-1]) / (log_q[0] - log_q[-1])))
        rest = logs - np.longdouble(power) / SIMPLE * log_q
        base = np.rint(float(rest.mean()))
        return np.stack([(rest - base).astype(float), power * one, base * one, one], axis=1)

    return interpolated(values, NODES)


def _log_in_panel(q: NDArray[np.floating], panel: Any) -> NDArray[np.longdouble]:
    """Return ln(q/4^panel), which does not cancel in extended precision."""
    return np.asarray(np.log(q.astype(np.longdouble)) - np.longdouble(WIDTH) * panel)
