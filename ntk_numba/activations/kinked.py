"""Continuous piecewise-linear functions with any kinks: hard_tanh, relu6, piecewise_linear.

With the kinks t_i, at which the slope rises by 2g_i,

    σ(x) = c₀ + c₁x + Σ_i g_i |x − t_i|

and, for x, h_i = t_i/√q, with φ and Φ the normal density and distribution function, G = Φ − ½,

    m = E[σ] = c₀ + √q Σ_i 2g_i (φ(h_i) + h_i G(h_i)),   p = E[σ'] = c₁ − 2 Σ_i g_i G(h_i)

A pair of kinks contributes C to K and S̃ to K̇. With X = u/√q, Y = v/√q', k_j = t_j/√q', and S, d_h,
d_k, R as in `duals.owen`,

    S̃ = S − 4G(h)G(k),   S = E sgn(X − h) sgn(Y − k)
    C = (ρ + hk) S̃ + 4kφ(h)(G(d_h) − G(k)) + 4hφ(k)(G(d_k) − G(h))
        + (2/π)(s exp(−R²/2) − exp(−(h² + k²)/2))

    K  = mm' + √(qq') [ρpp' + Σ_ij g_i g_j C(h_i, k_j)]
    K̇ = pp' + Σ_ij g_i g_j S̃(h_i, k_j)

by Price's theorem, ∂C/∂ρ = S̃. Terms common to all pairs of kinks are factored out of the sums: for
functions that saturate, Σg = 0, and the remaining terms vanish as √q outgrows the kinks, none of
them by cancellation. Kinks beyond 8 standard deviations contribute less than rounding and are left
out.

Source: derived here, from Price 1958 and Owen 1956. Condition: 1 + max h² over the kinks
that are not left out, and √(qq'/KK') Σ|g|²: functions that vanish around 0 have a K far below q if
√q is small.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ntk_numba.activations.kinked_loop import COEFFICIENTS, FIRST, TERM, loop
from ntk_numba.activations.one_kink import ab_relu
from ntk_numba.activations.registry import named
from ntk_numba.duals import owen
from ntk_numba.duals.base import Activation, Doubles, Dual, Facts
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.panels import Panels, interpolated
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import PI, Extended, extended, minimum, stack, where
from ntk_numba.function import spelled, typed

REACH = 8.1  # standard deviations; a kink is within reach if |h| is less
CHORD_RANGE = 1e-12, 1e9  # J/6 is clipped to this, see `Kinked._curve`
LOG_LOW, LOG_HIGH = -27.631021115928547, 20.72326583694641  # the logarithms of these
LARGEST_ROOT = 1e8  # larger √q/max|t| are replaced by this: errors are √q/|t| times 1e-16


def _density(h: Extended) -> Extended:
    """Return φ(h)."""
    return np.exp(-h * h / 2) / np.sqrt(2 * PI)


@dataclass(frozen=True)
class Kinked(Activation):
    """A continuous function with slopes s_0, s_1, … and kinks t_1 < t_2 < … between them."""

    value: float  # σ(0)
    slopes: tuple[float, ...]
    at: tuple[float, ...]

    @cached_property
    def facts(self) -> Facts:
        flat_until = max(
            (abs(t) for t in self.at if t and self._vanishes_within(abs(t))), default=0
        )
        if not flat_until:
            return Facts()
        return Facts(domain=f"q from {flat_until**2 / 25:.2g}, below which K is next to 0")

    def _vanishes_within(self, t: float) -> bool:
        """Return whether σ = 0 for all |x| ≤ t."""
        x = np.array([-t, *(k for k in self.at if abs(k) < t), t])
        return bool((self(x) == 0).all())

    @property
    def kinks(self) -> tuple[float, ...]:
        return self.at

    @cached_property
    def _bends(self) -> tuple[float, ...]:
        """The g_i, half of the rise of the slope at each kink."""
        return tuple((b - a) / 2 for a, b in pairwise(self.slopes))

    @cached_property
    def _sizes(self) -> tuple[float, ...]:
        """The distinct |t|, in descending order."""
        return tuple(sorted({abs(t) for t in self.at}, reverse=True))

    def dual(self, q_max: float) -> Dual:
        return Dual(
            loop,
            never_obtuse=self._never_obtuse,
            parameters=self._parameters,
            coefficients=self._coefficients,
            curve=self._curve,
            kinks_move=True,
            parity=self._parity,
        )

    @property
    def _parity(self) -> int:
        """1 if the function is even, −1 if it is odd, else 0."""
        mirrored = self.at == tuple(-t for t in reversed(self.at))
        if mirrored and self.slopes == tuple(reversed(self.slopes)) and self.value == 0:
            return -1
        return 1 if mirrored and self.slopes == tuple(-s for s in reversed(self.slopes)) else 0

    @property
    def _never_obtuse(self) -> bool:
        """Whether σ ≥ 0 everywhere or σ ≤ 0 everywhere."""
        x = np.array([*self.at, 0.0])
        for sign in (1, -1):
            if (sign * self(x) >= 0).all() and sign * self.slopes[0] <= 0 <= sign * self.slopes[-1]:
                return True
        return False

    @cached_property
    def _parameters(self) -> tuple[float, ...]:
        """The number of terms, the least cosθ_K, and the terms, see `TERM`; one per pair of kinks.

        If σ is even or odd but for a line, the pair (i, j) stands for (−i, −j) too.
        """
        g = dict(zip(self.at, self._bends, strict=True))
        symmetric = all(-t in g for t in g) and (
            all(g[-t] == g[t] for t in g) or all(g[-t] == -g[t] for t in g)
        )
        terms: list[float] = []
        done: set[tuple[float, float]] = set()
        for pair in product(g, g):
            same = {pair, (-pair[0], -pair[1])} if symmetric else {pair}
            # two kinks at 0 add nothing to the terms common to all pairs
            if pair == (0, 0) or same & done:
                continue
            swapped = pair[::-1]
            both = [pair] if swapped in same else [pair, swapped]
            for a, b in both:
                done |= {(a, b), (-a, -b)} if symmetric else {(a, b)}
                terms += [
                    self._first_row(a), self._first_row(b), np.sign(a) or 1, np.sign(b) or 1,
                    a != 0, b != 0, g[a] * g[b] * (2 if symmetric else 1),
                    (a, b) != both[-1],
                ]  # fmt: skip
        lowest = 0.0 if self._never_obtuse else -1.0  # rounding must not take cosθ_K below this
        return (len(terms) / TERM, lowest, *(float(t) for t in terms))

    def _first_row(self, t: float) -> int:
        return FIRST + (COEFFICIENTS + owen.TERMS) * self._sizes.index(abs(t))

    def __call__(self, x: Any) -> Any:
        # each piece starts from its end nearer to 0, or from 0, so that σ is exact around 0
        ends = np.array([-np.inf, *self.at, np.inf])
        from_ = np.clip(0.0, ends[:-1], ends[1:])
        piece = int(np.searchsorted(self.at, 0.0, side="left"))
        values = np.full(from_.size, self.value)
        for k in range(piece + 1, from_.size):
            values[k] = values[k - 1] + self.slopes[k - 1] * (from_[k] - from_[k - 1])
        for k in range(piece - 1, -1, -1):
            values[k] = values[k + 1] + self.slopes[k + 1] * (from_[k] - from_[k + 1])
        pieces = np.searchsorted(self.at, np.asarray(x), side="left")
        return typed(values[pieces] + np.array(self.slopes)[pieces] * (x - from_[pieces]), x)

    def derivative(self, x: Any) -> Any:
        return typed(np.array(self.slopes)[np.searchsorted(self.at, np.asarray(x), side="left")], x)

    def moment(self, q: Extended) -> Extended:
        """Return K at x = x'."""
        inside = minimum(q, self._largest**2)
        # for larger q, it is proportional to q, or constant
        growth = q / where(q > 0, inside, 1) if self.slopes[0] or self.slopes[-1] else 1.0
        return self._moment(inside, *self._of_samples(q)) * growth

    @property
    def _largest(self) -> float:
        """The largest √q that is distinguished; there h is 1e-8 or less."""
        return LARGEST_ROOT * (max(self._sizes, default=0.0) or 1.0)

    def _moment(
        self, q: Extended, mean: Extended, slope: Extended, h: Extended, g_h: Extended,
        within: NDArray[np.float64],
    ) -> Extended:  # fmt: skip
        """Return K(q) from the results of `_of_samples`."""
        density = _density(h)
        total = extended(np.zeros(h.shape[1]))
        sum_g, sum_gg, sum_exp = self._sums(h, g_h, within)
        for a, first in enumerate(self._bends):
            for b, second in enumerate(self._bends):
                half_sign = np.sign(h[b] - h[a]) / 2  # G(d_h), −G(d_k)
                coupling = 1 - 2 * abs(g_h[a] - g_h[b]) - 4 * g_h[a] * g_h[b]
                mixed = 4 * (
                    h[b] * density[a] * (half_sign - g_h[b])
                    - h[a] * density[b] * (half_sign + g_h[a])
                )
                change = h[a] * h[b] * coupling + mixed - 2 * abs(g_h[a] - g_h[b])
                total += first * second * (within[a] * within[b]) * change
        total += sum_g**2 - 4 * sum_gg**2 - 2 / PI * (sum_g + sum_exp) ** 2
        return mean**2 + q * np.maximum(slope**2 + total, 0)

    def _of_samples(self, q: Extended) -> tuple[Any, ...]:
        """Return m and p, (N,), and for each kink h, G(h) and whether it is within `REACH`.

        The last three are of shape (kinks, N).
        """
        root = np.minimum(np.sqrt(q), self._largest)
        # h as float64, since the loop takes it so
        ratio = extended(np.array(self.at)[:, None]) / np.maximum(root, 1e-300)
        h = extended(np.clip(ratio.astype(float), -40, 40))
        size = abs(h)
        beyond = special.ndtr(-size)
        g_h = np.sign(h) * (0.5 - beyond)
        tail = self._sum(_density(h) - size * beyond)
        mean = self.value + root * (2 * tail)
        slope = (self.slopes[0] + self.slopes[-1]) / 2 - 2 * self._sum(g_h)
        return mean, slope, h, g_h, (size < REACH).astype(float)

    def _sums(
        self, h: Extended, g_h: Extended, within: NDArray[np.float64]
    ) -> tuple[Extended, Extended, Extended]:
        """Return Σg, Σg·G(h) and Σg·(exp(−h²/2) − 1) of the kinks within `REACH`."""
        exp_minus_one = np.expm1(-h * h / 2)
        return self._sum(within), self._sum(g_h * within), self._sum(exp_minus_one * within)

    def _sum(self, values: Any) -> Extended:
        """Return Σ g·value."""
        return (np.array(self._bends)[:, None] * extended(values)).sum(axis=0)

    def _curve(self, q: Extended) -> Doubles:
        """Return λ, and J/6 of a chord that is shorter since the kinks move with √q, (2, N).

        |f_q − f_q'|² = Δ² (1 − J|Δ|/6 + …),  J = (4q/K) Σ g² |h|³ φ(h) / (dλ/d ln √q)³
        """
        moved = np.exp(extended(np.clip(self._moved(q), LOG_LOW, LOG_HIGH))).astype(float)
        return np.concatenate([curve_of(self).lengths(q), moved])

    @cached_property
    def _moved(self) -> Panels:
        """The table of ln(J/6); the logarithm, since J has a factor exp(h²/4)."""

        def values(q: NDArray[np.float64]) -> NDArray[np.float64]:
            h = extended(np.abs(np.array(self.at)) / np.sqrt(q)[:, None])
            jumps = (h**3 * _density(h) * np.square(self._bends)).sum(axis=1).astype(float)
            speed = np.array([curve_of(self).speed(v) for v in q])
            moment = self.second_moment(q)
            known = (speed > 0) & (jumps > 0) & (moment > 0)
            out = np.full(q.size, CHORD_RANGE[0])
            cubes = speed * speed * speed
            out[known] = (2 / 3 * q * jumps)[known] / moment[known] / cubes[known]
            return np.log(extended(np.clip(out, *CHORD_RANGE))).astype(float)[:, None]

        return interpolated(values)

    def _coefficients(self, q: Extended) -> Extended:
        mean, slope, h, g_h, within = self._of_samples(q)
        inside = minimum(q, self._largest**2)
        moment = np.sqrt(self._moment(inside, mean, slope, h, g_h, within))
        safe = where(moment > 0, moment, 1)
        scale = where(moment > 0, np.sqrt(inside) / safe, 0)
        own = [
            where(moment > 0, mean / safe, 1),
            scale * slope,
            scale,
            *self._sums(h, g_h, within),
        ]
        for t in self._sizes:
            k = [abs(s) for s in self.at].index(t)
            size, is_within = abs(h[k]), within[k]
            own += [size * is_within, abs(g_h[k]) * is_within, 4 * _density(size), is_within]
            if t:
                own += list(owen.coefficients(size * is_within))
        return stack(own)


@named()
def hard_tanh() -> Activation:
    """σ(x) = max(−1, min(x, 1))."""
    return Kinked("hard_tanh", 0.0, (0.0, 1.0, 0.0), (-1.0, 1.0))


@named()
def relu6() -> Activation:
    """σ(x) = min(max(x, 0), 6)."""
    return Kinked("relu6", 0.0, (0.0, 1.0, 0.0), (0.0, 6.0))


@named()
def piecewise_linear(value: float, slope: float, *more: float) -> Activation:
    """σ(0) = value; slope, kink, slope, kink, slope, … from left to right.

    Raises
    ------
    ValueError
        If a kink has no slope after it, or the kinks are not in ascending order.
    """
    at, slopes = more[::2], (slope, *more[1::2])
    if len(more) % 2:
        raise InvalidValueError("activation piecewise_linear: after each kink a slope must follow")
    if any(b <= a for a, b in pairwise(at)):
        raise InvalidValueError(f"activation piecewise_linear: kinks must be increasing, not {at}")
    kept = [k for k in range(len(at)) if slopes[k] != slopes[k + 1]]
    at = tuple(at[k] for k in kept)
    slopes = (slopes[0], *(slopes[k + 1] for k in kept))
    if value == 0 and at in ((), (0.0,)):
        return ab_relu(slopes[0], slopes[-1])
    return Kinked(spelled("piecewise_linear", value, slope, *more), value, slopes, at)
