"""How the normalised function turns with the variance: the part of an angle that a norm makes.

As a function of t ~ N(0, 1), f_q(t) = σ(√q t)/√K(q) is a unit vector, and as q grows it runs along
a curve on the unit sphere. Two parallel samples, θ = 0, of variances q and q' have

    z_K = (1 − ⟨f_q, f_q'⟩)/2 = |f_q − f_q'|²/4

whose formula in K(q, q', 0) has forgotten it where q and q' are close. The length of the curve up
to q, λ(q), has not: it is a property of a sample, and a chord of a curve of curvature κ is

    |f_q − f_q'|² = Δ² (1 − κ²Δ²/12 + …),  Δ = λ(q) − λ(q')

(but for kinks off 0, see `kinked`, whose curve has no curvature: their tangents jump).

Functions with one kink at 0 and no other scale (`PiecewiseLinear` and powers) do not turn at all.
With x = √q t and the mean slope m = E[xσ'σ]/E[σ²] the speed along ln √q is

    (dλ/d ln √q)² = E[(xσ'(x) − mσ(x))²]/E[σ(x)²]
"""

from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.duals.panels import (
    TO_COEFFICIENTS,
    WIDTH,
    Panels,
    interpolated,
    nodes_of,
)
from ntk_numba.duals.quadrature import nodes
from ntk_numba.function import Function

SEEN = 1e-6  # κ²Δ²/12 of the chord that κ is measured by: the next term is less than that of it
CLEAR = 1e5  # and rounding less than its inverse
SHORTEST, LONGEST = 1e-3, 64.0  # of the ln q from its middle to its ends, for a speed of 1 or less
LEGENDRE = np.polynomial.legendre.leggauss(3)


class Curve:
    """λ and κ/√12 of an activation, from σ and σ' alone."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._pieces: dict[int, NDArray[np.float64]] = {}
        self.lengths = Panels(self._lengths)
        self._bend = interpolated(lambda q: np.array([[self.bend(v)] for v in q]))

    def __call__(self, q: NDArray[np.floating]) -> NDArray[np.float64]:
        """(2, N): λ, from an arbitrary point on, and κ/√12."""
        return np.concatenate([self.lengths(q), self._bend(q)])

    def _piece(self, panel: int) -> NDArray[np.float64]:
        """λ from the beginning of a panel on."""
        if panel not in self._pieces:
            speeds = TO_COEFFICIENTS @ [self.speed(q) for q in nodes_of(panel)]
            # d ln √q = WIDTH/4 dx for x in [−1, 1]
            self._pieces[panel] = chebyshev.chebint(speeds, lbnd=-1) * WIDTH / 4
        return self._pieces[panel]

    def _lengths(self, panel: int) -> NDArray[np.float64]:
        length = self._piece(panel).copy()
        for p in range(min(panel, 0), max(panel, 0)):  # from q = 1
            length[0] += np.sign(panel) * chebyshev.chebval(1, self._piece(p))
        return length[:, None]

    def _values(self, q: float) -> tuple[NDArray[np.float64], ...]:
        """At the nodes for q: x = √q t, their weights, σ(x)."""
        t, weights = nodes(q, self._function.kinks, self._function.smooth_beyond)
        x = np.sqrt(q) * t
        return x, weights, np.asarray(self._function(x), float)

    def speed(self, q: float) -> float:
        """dλ/d ln √q."""
        x, weights, sigma = self._values(q)
        turn = x * self._function.derivative(x)
        norm = weights @ sigma**2
        if norm == 0:
            return 0.0
        slope = (weights @ (turn * sigma)) / norm
        return float(np.sqrt((weights @ (turn - slope * sigma) ** 2) / norm))

    def chord(self, q: float, q2: float) -> float:
        """|f_q − f_q2|², q ≤ q2."""
        t, weights = nodes(q2, self._function.kinks, self._function.smooth_beyond)
        f, g = (np.asarray(self._function(np.sqrt(p) * t), float) for p in (q, q2))
        norms = weights @ f**2, weights @ g**2
        if 0 in norms:
            return 0.0
        f, g = f / np.sqrt(norms[0]), g / np.sqrt(norms[1])
        return float(weights @ (f - g) ** 2)

    def rounding(self, length: float) -> float:
        """The error of `chord`/length²."""
        return 1e-16 / length

    def bend(self, q: float) -> float:
        """κ/√12, of the shortest chord around q that shows it."""
        v = SHORTEST / max(1.0, self.speed(q))
        while v < LONGEST:
            length = self._length_within(q, v)
            bent = 1 - self.chord(q * np.exp(-v), q * np.exp(v)) / length**2 if length > 0 else 0
            if bent > SEEN and bent > CLEAR * self.rounding(length):
                return float(np.sqrt(bent) / length)
            v *= 1.5
        return 0.0

    def _length_within(self, q: float, v: float) -> float:
        """λ from q e^-v to q e^v; of its derivative while that is short, for the sake of digits."""
        if v < 0.1:
            speeds = [self.speed(q * np.exp(v * x)) for x in LEGENDRE[0]]
            return float(v / 2 * (LEGENDRE[1] @ speeds))
        low, high = self.lengths(q * np.exp(np.array([-v, v])))[0]
        return float(high - low)


@lru_cache(maxsize=64)
def curve_of(function: Function) -> Curve:
    """The curve of an activation, tabulated as far as it was asked for."""
    return Curve(function)
