"""The curve of a normalised activation: the part of an angle that comes from a change of norm.

As a function of t ~ N(0, 1), f_q(t) = σ(√q t)/√K(q) is a unit vector, and as q grows it runs along
a curve on the unit sphere. Two parallel samples, θ = 0, of variances q and q' have

    z_K = (1 − ⟨f_q, f_q'⟩)/2 = |f_q − f_q'|²/4

which the formula in K(q, q', 0) loses to cancellation if q and q' are close. The length of the
curve up to q, λ(q), keeps it: it is a property of one sample, and a chord of a curve of curvature κ
is

    |f_q − f_q'|² = Δ² (1 − κ²Δ²/12 + …),  Δ = λ(q) − λ(q')

(except for functions with kinks off 0, whose curve has no curvature, see `activations.kinked`).

For functions with one kink at 0 and no other scale (`OneKink` and powers) the curve is a point.
With x = √q t and the mean slope m = E[xσ'σ]/E[σ²] the speed along ln √q is

    (dλ/d ln √q)² = E[(xσ'(x) − mσ(x))²]/E[σ(x)²]
"""

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.duals.base import Activation
from ntk_numba.duals.panels import (
    NODES,
    WIDTH,
    Panels,
    coefficients_of_values,
    interpolated,
    nodes_of,
)
from ntk_numba.duals.quadrature import gauss_legendre, nodes
from ntk_numba.extended import Extended, dot, dots, exponential

# κ is measured by a chord whose κ²Δ²/12 exceeds MEASURABLE and CLEAR times the rounding error. The
# next term of the series is then a fraction of about MEASURABLE of it.
MEASURABLE = 1e-6
CLEAR = 1e5
# The least and the largest ln q from the middle of that chord to its ends, at a speed of at most 1
SHORTEST, LONGEST = 1e-3, 64.0


class Curve:
    """The length λ and the curvature κ/√12 of an activation's curve, from σ and σ' alone."""

    def __init__(self, function: Activation) -> None:
        self._function = function
        self._pieces: dict[int, NDArray[np.float64]] = {}
        self.lengths = Panels(self._lengths)
        self._bend = interpolated(lambda q: np.array([[self.bend(v)] for v in q]))

    def __call__(self, q: Extended) -> NDArray[np.float64]:
        """Return λ, measured from an arbitrary point, and κ/√12, (2, N)."""
        return np.concatenate([self.lengths(q), self._bend(q)])

    def _piece(self, panel: int) -> NDArray[np.float64]:
        """Return the Chebyshev coefficients of λ, measured from the beginning of a panel."""
        if panel not in self._pieces:
            speeds = dots(
                coefficients_of_values(NODES), np.array([self.speed(q) for q in nodes_of(panel)])
            )
            # d ln √q = WIDTH/4 dx for x in [−1, 1]
            self._pieces[panel] = chebyshev.chebint(speeds, lbnd=-1) * WIDTH / 4
        return self._pieces[panel]

    def _lengths(self, panel: int) -> NDArray[np.float64]:
        """Return the Chebyshev coefficients of λ in a panel, measured from q = 1, (NODES, 1)."""
        length = self._piece(panel).copy()
        for p in range(min(panel, 0), max(panel, 0)):
            length[0] += np.sign(panel) * chebyshev.chebval(1, self._piece(p))
        return length[:, None]

    def _values(self, q: float) -> tuple[NDArray[np.float64], ...]:
        """Return the nodes x = √q t for q, their weights, and σ(x)."""
        t, weights = nodes(q, self._function.kinks, self._function.smooth_beyond)
        x = np.sqrt(q) * t
        return x, weights, self._function.values_at(x)

    def speed(self, q: float) -> float:
        """Return dλ/d ln √q."""
        x, weights, sigma = self._values(q)
        x_slope = x * self._function.slopes_at(x)
        norm = dot(weights, sigma**2)
        if norm == 0:
            return 0.0
        slope = dot(weights, x_slope * sigma) / norm
        return math.sqrt(dot(weights, (x_slope - slope * sigma) ** 2) / norm)

    def chord(self, q: float, q2: float) -> float:
        """Return |f_q − f_q2|², q ≤ q2."""
        t, weights = nodes(q2, self._function.kinks, self._function.smooth_beyond)
        f, g = (self._function.values_at(np.sqrt(p) * t) for p in (q, q2))
        norms = dot(weights, f**2), dot(weights, g**2)
        if 0 in norms:
            return 0.0
        f, g = f / np.sqrt(norms[0]), g / np.sqrt(norms[1])
        return dot(weights, (f - g) ** 2)

    def rounding(self, length: float) -> float:
        """Return the rounding error of `chord`/length²."""
        return 1e-16 / length

    def bend(self, q: float) -> float:
        """Return κ/√12, measured by the shortest chord around q that allows it."""
        v = SHORTEST / max(1.0, self.speed(q))
        while v < LONGEST:
            length, factor = self._length_within(q, v), exponential(v)
            relative_shortening = (
                1 - self.chord(q / factor, q * factor) / length**2 if length > 0 else 0
            )
            if relative_shortening > MEASURABLE and relative_shortening > CLEAR * self.rounding(
                length
            ):
                return math.sqrt(relative_shortening) / length
            v *= 1.5
        return 0.0

    def _length_within(self, q: float, v: float) -> float:
        """Return λ from q e^-v to q e^v.

        For small v it is an integral of the speed, which has more digits than a difference of λ.
        """
        if v < 0.1:
            nodes, weights = (found.astype(float) for found in gauss_legendre(3))
            speeds = [self.speed(q * exponential(v * x)) for x in nodes]
            return v / 2 * dot(weights, np.array(speeds))
        factor = exponential(v)
        low, high = self.lengths(np.array([q / factor, q * factor]))[0]
        return float(high - low)


@lru_cache(maxsize=64)
def curve_of(function: Activation) -> Curve:
    """Return the curve of an activation; the last ones are cached, with the panels they have."""
    return Curve(function)
