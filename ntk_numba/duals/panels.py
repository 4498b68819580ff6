"""Tables of smooth functions of a variance q, by Chebyshev interpolation in ln q, panel by panel.

Panel p is [4^p, 4^(p+1)]. A mean E[f(√q t)] over t ~ N(0, 1) is analytic in ln q as far as
|Im ln q| < π if f is entire, and about as far if its singularities are off the real line or at 0:
with NODES points a panel's error is about 9^-NODES of the largest value.
"""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

NODES = 18
LOWEST, HIGHEST = -54, 53  # the outermost panels; beyond them a function keeps its last value
WIDTH = np.log(4.0)


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
        p = np.floor(np.log2(q.astype(float)) / 2)
    return np.clip(np.nan_to_num(p, nan=LOWEST), LOWEST, HIGHEST).astype(np.int64)


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
            self._known[panel] = self._compute(panel)
        return self._known[panel]

    def __call__(self, q: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the values at each q, (k, N), of which each depends on its own q alone."""
        panel_of_each = panel_of(q)
        panels = np.unique(panel_of_each)
        out = np.empty((self.coefficients(int(panels[0])).shape[1], q.size))
        for p in panels:
            here = panel_of_each == p
            x = 2 * (np.log(np.maximum(q[here].astype(float), 4.0**p)) / WIDTH - p) - 1
            out[:, here] = chebyshev.chebval(np.clip(x, -1, 1), self.coefficients(int(p)))
        return out


def interpolated(
    values: Callable[[NDArray[np.float64]], NDArray[np.float64]], count: int = NODES
) -> Panels:
    """Return the function that has the given values at the nodes.

    values : q → (nodes, k)
    count : the nodes per panel
    """
    matrix = to_coefficients(count)
    return Panels(lambda panel: matrix @ values(nodes_of(panel, count)))
