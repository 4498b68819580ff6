"""Tables of smooth functions of a variance q, by Chebyshev interpolation in ln q, panel by panel.

Panel p is [4^p, 4^(p+1)]. A mean E[f(√q t)] over t ~ N(0, 1) is analytic in ln q as far as
|Im ln q| < π if f is entire, and about as far if its singularities are off the real line or at 0:
with NODES points a panel's error is about 9^-NODES of the largest value.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.policy import kernel
from ntk_numba.extended import LN4, extended, product
from ntk_numba.extended.chebyshev import points, to_coefficients

NODES = 18
LOWEST, HIGHEST = -54, 53  # the outermost panels; beyond them a function keeps its last value
WIDTH = float(LN4)  # of a panel, in ln q
BLOCK = 64  # values of q at a time


def panel_of(q: Any) -> NDArray[np.int64]:
    """Return the panel that contains each q, an extended array or one of float64."""
    exponent = extended(q).exponents()  # 2^(exponent − 1) ≤ q < 2^exponent
    return np.clip((exponent - 1) // 2, LOWEST, HIGHEST)


def within(panel: int, positions: Any) -> NDArray[np.float64]:
    """Return the q at positions in a panel, of which −1 is the lower end and 1 the upper one."""
    return np.ldexp(np.exp(LN4 / 2 * (1 + extended(positions))).astype(float), 2 * panel)


@cache
def _first_nodes(count: int) -> NDArray[np.float64]:
    """Return the nodes of panel 0."""
    return within(0, points(count))


def nodes_of(panel: int, count: int = NODES) -> NDArray[np.float64]:
    """Return the q at which a panel's function is evaluated, (count,)."""
    return np.ldexp(_first_nodes(count), 2 * panel)


@cache
def coefficients_of_values(count: int) -> NDArray[np.float64]:
    """Return the matrix that maps values at the nodes to Chebyshev coefficients."""
    return to_coefficients(count).astype(float)


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

    def __call__(self, q: Any) -> NDArray[np.float64]:
        """Return the values at each q, (k, N), of which each depends on its own q alone.

        q : an extended array, or one of float64
        """
        q = extended(q)
        panel = panel_of(q)
        lowest = np.ldexp(1.0, 2 * panel)  # 4^panel
        x = np.log(np.maximum(q, lowest) / lowest) / (LN4 / 2) - 1
        x = np.clip(x.astype(float), -1, 1)
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
    return Panels(
        lambda panel: product(coefficients_of_values(count), values(nodes_of(panel, count)))
    )
