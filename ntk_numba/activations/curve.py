"""How the normalised function turns with the variance: the part of an angle that a norm makes.

As a function of t ~ N(0, 1), f_q(t) = σ(√q t)/√K(q) is a unit vector, and as q grows it runs along
a curve on the unit sphere. Two parallel samples, θ = 0, of variances q and q' have

    z_K = (1 − ⟨f_q, f_q'⟩)/2 = |f_q − f_q'|²/4

whose formula in K(q, q', 0) has forgotten it where q and q' are close. The length of the curve up
to q, λ(q), has not: it is a property of a sample, and a chord of a curve of curvature κ is

    |f_q − f_q'|² = Δ² (1 − κ²Δ²/12 + …),  Δ = λ(q) − λ(q')

Functions with one kink at 0 and no other scale (`PiecewiseLinear` and powers) do not turn at all.
With x = √q t and the mean slope m = E[xσ'σ]/E[σ²] the speed along ln √q is

    (dλ/d ln √q)² = E[(xσ'(x) − mσ(x))²]/E[σ(x)²]
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.activations.panels import TO_COEFFICIENTS, WIDTH, Panels, interpolated, nodes_of
from ntk_numba.activations.quadrature import nodes

STEP = 4e-3  # Δ of the chord that κ is measured by: about what the engine takes chords for
WIDE = 0.02  # of ln √q to either side: the first that is tried
LEGENDRE = np.polynomial.legendre.leggauss(3)
LEAST = 2e-4  # of a chord whose curvature is not all rounding error


class Function(Protocol):
    """What is used of an activation, see `base.Activation`."""

    @property
    def kinks(self) -> tuple[float, ...]: ...

    @property
    def settled(self) -> float: ...

    def __call__(self, x: NDArray[np.floating]) -> NDArray[np.floating]: ...

    def derivative(self, x: NDArray[np.floating]) -> NDArray[np.floating]: ...


class Curve:
    """λ and κ/√12 of an activation, from σ and σ' alone."""

    def __init__(self, activation: Function) -> None:
        self._activation = activation
        self._pieces: dict[int, NDArray[np.float64]] = {}
        self._length = Panels(self._lengths)
        self._bend = interpolated(lambda q: np.array([[self._bend_at(v)] for v in q]))

    def __call__(self, q: NDArray[np.floating]) -> NDArray[np.float64]:
        """(2, N): λ, from an arbitrary point on, and κ/√12."""
        return np.concatenate([self._length(q), self._bend(q)])

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
        t, weights = nodes(q, self._activation.kinks, self._activation.settled)
        x = np.sqrt(q) * t
        return x, weights, np.asarray(self._activation(x), float)

    def speed(self, q: float) -> float:
        """dλ/d ln √q."""
        x, weights, sigma = self._values(q)
        turn = x * self._activation.derivative(x)
        norm = weights @ sigma**2
        if norm == 0:
            return 0.0
        slope = (weights @ (turn * sigma)) / norm
        return float(np.sqrt((weights @ (turn - slope * sigma) ** 2) / norm))

    def chord(self, q: float, q2: float) -> float:
        """|f_q − f_q2|², q ≤ q2."""
        t, weights = nodes(q2, self._activation.kinks, self._activation.settled)
        f, g = (np.asarray(self._activation(np.sqrt(p) * t), float) for p in (q, q2))
        norms = weights @ f**2, weights @ g**2
        if 0 in norms:
            return 0.0
        f, g = f / np.sqrt(norms[0]), g / np.sqrt(norms[1])
        return float(weights @ (f - g) ** 2)

    def _bend_at(self, q: float) -> float:
        """κ/√12, from a chord of about STEP around q, or of more where λ hardly changes."""
        v, speed = WIDE, self.speed(q)
        if speed * v > STEP:
            # so short that λ, which may be large, would leave no digits of the difference
            v = STEP / speed
            speeds = [self.speed(q * np.exp(v * x)) for x in LEGENDRE[0]]
            length = float(v / 2 * (LEGENDRE[1] @ speeds))
        else:
            length = 0.0
            while v < 64:
                low, high = self._length(q * np.exp(np.array([-v, v])))[0]
                length = float(high - low)
                if length > STEP:
                    break
                v *= 1.5
        if length < LEAST:
            return 0.0
        chord = self.chord(q * np.exp(-v), q * np.exp(v))
        return float(np.sqrt(max(0.0, (1 - chord / length**2)) / length**2))


@lru_cache(maxsize=64)
def curve_of(activation: Function) -> Curve:
    """The curve of an activation, tabulated as far as it was asked for."""
    return Curve(activation)
