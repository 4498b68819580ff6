"""Tables of smooth functions of a variance q, by Chebyshev interpolation in ln q, panel by panel.

Panel p is [4^p, 4^(p+1)]. A mean E[f(√q t)] over t ~ N(0, 1) is analytic in ln q as far as
|Im ln q| < π if f is entire, and about as far if its singularities are off the real line or at 0:
with NODES points a panel's error is about 9^-NODES of the largest value.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.policy import kernel

NODES = 18
LOWEST, HIGHEST = -54, 53  # the outermost panels; beyond them a function keeps its last value
WIDTH = np.log(4.0)
BLOCK = 64  # values of q at a time


def points(count: int, real: type = np.float64) -> NDArray[np.floating]:
    """Return the Chebyshev points of [−1, 1], (count,)."""
    return np.asarray(np.cos(_angles(count, real)))


def to_coefficients(count: int, real: type = np.float64) -> NDArray[np.floating]:
    """Return the matrix that maps values at `points` to Chebyshev coefficients, (count, count)."""
    # by cosines of multiples of the angle: the recurrence would lose digits at high degrees
    matrix = 2 / real(count) * np.cos(np.arange(count)[:, None] * _angles(count, real))
    matrix[0] /= 2
    return np.asarray(matrix)


def _angles(count: int, real: type) -> NDArray[np.floating]:
    """Return the angles whose cosines are the Chebyshev points, (count,)."""
    return np.asarray(4 * np.arctan(real(1)) * (np.arange(count) + real(0.5)) / count)


TO_COEFFICIENTS = to_coefficients(NODES)


def panel_of(q: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the panel that contains each q."""
    with np.errstate(divide="ignore"):
        p = np.clip(np.floor(np.log2(q.astype(float)) / 2), LOWEST, HIGHEST)
    return np.where(np.isnan(p), LOWEST, p).astype(np.int64)


def nodes_of(panel: int, count: int = NODES) -> NDArray[np.float64]:
    """Return the q at which a panel's function is evaluated, (count,)."""
    return np.exp(WIDTH * (panel + (1 + points(count)) / 2))


class Panels:
    """A function of q with several values, interpolated between its values at the nodes of panels.

    Parameters
    ----------
    coefficients : panel → (NODES, k)
        A function that returns the Chebyshev coefficients of a panel on [−1, 1]. It is called when
        the panel is first used.
    """

    def __init__(self, coefficients: Callable[[int], NDArray[np.float64]]) -> None:
        self._compute = coefficients
        self._known: dict[int, NDArray[np.float64]] = {}

    def coefficients(self, panel: int) -> NDArray[np.float64]:
        """Return the Chebyshev coefficients of a panel, (NODES, k)."""
        if panel not in self._known:
            self._known[panel] = np.ascontiguousarray(self._compute(panel))
        return self._known[panel]

    def __call__(self, q: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the values at each q, (k, N), of which each depends on its own q alone."""
        panel = panel_of(q)
        lowest = np.ldexp(1.0, 2 * panel)  # 4^panel
        x = np.clip(2 * (np.log(np.maximum(q.astype(float), lowest)) / WIDTH - panel) - 1, -1, 1)
        order = np.argsort(panel, kind="stable")
        x, sorted_panel = x[order], panel[order]
        ends = [0, *(np.flatnonzero(np.diff(sorted_panel)) + 1).tolist(), q.size]
        out = np.empty((self.coefficients(int(panel[0])).shape[1], q.size))
        for begin, end in pairwise(ends):
            table = self.coefficients(int(sorted_panel[begin]))
            _sum_chebyshev(table, x[begin:end], order[begin:end], out)
        return out


@kernel()
def _sum_chebyshev(
    coefficients: NDArray[np.float64],
    x: NDArray[np.float64],
    at: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """Fill out[i, at[j]] = Σ_m coefficients[m, i] T_m(x[j]), with the bits of NumPy's `chebval`.

    There must be at least two coefficients. NumPy's own loop takes ten times as long, since each
    of its steps goes through the memory.
    """
    count, values = coefficients.shape
    first, second = np.empty(BLOCK), np.empty(BLOCK)
    for begin in range(0, x.size, BLOCK):
        n = min(BLOCK, x.size - begin)
        points, places = x[begin : begin + n], at[begin : begin + n]
        for i in range(values):
            for j in range(n):
                first[j], second[j] = coefficients[count - 2, i], coefficients[count - 1, i]
            for m in range(count - 3, -1, -1):
                c = coefficients[m, i]
                for j in range(n):
                    before = first[j]
                    first[j] = c - second[j]
                    second[j] = before + second[j] * (2 * points[j])
            for j in range(n):
                out[i, places[j]] = first[j] + second[j] * points[j]


def interpolated(
    values: Callable[[NDArray[np.float64]], NDArray[np.float64]], count: int = NODES
) -> Panels:
    """Return the function that has the given values at the nodes.

    values : q → (nodes, k)
    count : the nodes per panel
    """
    matrix = to_coefficients(count)
    return Panels(lambda panel: matrix @ values(nodes_of(panel, count)))
