"""Continuous piecewise-linear functions with any kinks: hard_tanh, relu6, piecewise_linear.

With kinks t_i, at which the slope rises by 2g_i,

    σ(x) = c₀ + c₁x + Σ_i g_i |x − t_i|

and of x, h_i = t_i/√q, φ and Φ the normal density and distribution function, G = Φ − ½,

    m = E[σ] = c₀ + √q Σ_i 2g_i (φ(h_i) + h_i G(h_i)),   p = E[σ'] = c₁ − 2 Σ_i g_i G(h_i)

What two kinks have in common beyond that is, with X = u/√q, Y = v/√q', k_j = t_j/√q', and S, d_h,
d_k, R of `owen`,

    S̃ = S − 4G(h)G(k),   S = E sgn(X − h) sgn(Y − k)
    C = (ρ + hk) S̃ + 4kφ(h)(G(d_h) − G(k)) + 4hφ(k)(G(d_k) − G(h))
        + (2/π)(s exp(−R²/2) − exp(−(h² + k²)/2))

    K  = mm' + √(qq') [ρpp' + Σ_ij g_i g_j C(h_i, k_j)]
    K̇ = pp' + Σ_ij g_i g_j S̃(h_i, k_j)

by Price's theorem, ∂C/∂ρ = S̃. The parts that all pairs of kinks have alike are taken out of the
sums: for functions that saturate, Σg = 0, and what is left vanishes as √q outgrows the kinks, none
of it by cancellation. Kinks beyond 8 standard deviations are not seen.

Source: derived here, from Price 1958 and Owen 1956. Condition: 1 + max h², of the kinks that are
seen, and √(qq'/KK') Σ|g|²: functions that vanish around 0 have a K far below q if √q is small.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ntk_numba.activations.piecewise_linear import ab_relu
from ntk_numba.activations.registry import named
from ntk_numba.compiled.intrinsics import (
    fma,
    larger,
    sample_polynomial,
    smaller,
    stack_array,
    wide_vectors,
)
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals import owen
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.panels import Panels, interpolated
from ntk_numba.duals.special import angle_excess, exponentials
from ntk_numba.errors import InvalidValueError
from ntk_numba.function import Floats, spelled

SEEN = 8.1  # standard deviations
BENDS = 1e-12, 1e9  # of a curve, the least and the largest that count
FARTHEST = 1e8  # √q in |t|, that larger ones count as: errors are √q/|t| times 1e-16
LARGEST = 8.3067  # that |d| counts as: R² is then beyond `owen.FAR`, and G(d) ½

# The rows of a sample's coefficients: m/√K, p√(q/K), √(q/K); Σg, Σg·G(h) and
# Σg·(exp(−h²/2) − 1) of the kinks that are seen
MEAN, SLOPE, SCALE, BEND, SIDE, LESS = range(6)
FIRST = 6
# and for each |t|: h, G(h), 4φ(h), whether it is seen; unless t = 0, the coefficients of F(h, ·)
H, G, DENSITY, IS_SEEN, COEFFICIENTS = range(5)

# What a term says: the first row of |t_i| and of |t_j|, their signs, whether they are not 0, weight
TERM = 7

BLOCK = 128  # columns at a time: all of their working memory is in the first cache
SINE, PER_SINE, COSINE, FLAT, RATE, SUM, EXP, D_H, D_K, U_H, U_K, RADIUS, F = range(13)
_working = stack_array(13, BLOCK)
_f_of = sample_polynomial(owen.TERMS, owen.TERMS_SINGLE, 2)


def _row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    wide_vectors()
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, four, none = real(1), real(2), real(0.5), real(4), real(0)
    two_over_pi, least, most = real(2 / math.pi), real(1e-17), real(LARGEST)
    far, centre, slope = real(owen.FAR), real(owen.CENTRE), real(owen.SLOPE)
    working = _working(one)
    sine, per_sine, cosine = working[SINE], working[PER_SINE], working[COSINE]
    flat, rates, sums, exps = working[FLAT], working[RATE], working[SUM], working[EXP]
    d_h, d_k, u_h, u_k = working[D_H], working[D_K], working[U_H], working[U_K]
    radius, f = working[RADIUS], working[F]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        n = end - begin
        # of a slice it is known that no index is negative
        z_n, w_n = z[begin:end], w[begin:end]
        for j in range(n):
            zj, wj = z_n[j], w_n[j]
            m = smaller(zj, wj)
            root = np.sqrt(fma(-m, m, m))
            sine[j] = larger(two * root, least)
            per_sine[j] = one / sine[j]
            cosine[j] = wj - zj
            # 1 − 2θ/π
            side = fma(
                -two * two_over_pi * root, fma(m, angle_excess(m, fma(-two, m, one)), one), one
            )
            flat[j] = side if zj <= wj else -side
            rates[j], sums[j], exps[j] = none, none, none
        for number in range(int(parameters[0])):
            at = 2 + TERM * number
            a, b = int(parameters[at]), int(parameters[at + 1])
            sign_a, sign_b = parameters[at + 2], parameters[at + 3]
            h, g_h = sign_a * row[a + H, 0], sign_a * row[a + G, 0]
            density = row[a + DENSITY, 0]
            weight = parameters[at + 6] * row[a + IS_SEEN, 0]
            ks, gs, densities, seen = (
                columns[b + H, begin:end], columns[b + G, begin:end],
                columns[b + DENSITY, begin:end], columns[b + IS_SEEN, begin:end],
            )  # fmt: skip
            for j in range(n):
                k = sign_b * ks[j]
                zj, wj = z_n[j], w_n[j]
                acute = zj <= wj
                # k − ρh and h − ρk
                apart = k - h if acute else k + h
                over = apart + (two * zj) * h if acute else apart - (two * wj) * h
                over_k = (two * zj) * k - apart if acute else apart - (two * wj) * k
                dh = smaller(larger(over * per_sine[j], -most), most)
                dk = smaller(larger(over_k * per_sine[j], -most), most)
                d_h[j], d_k[j] = dh, dk
                radius[j] = fma(dh, dh, h * h)
                ah, ak = fma(dh, dh, centre), fma(dk, dk, centre)
                both = (slope * centre) / (ah * ak)
                u_h[j] = (slope - one) - ak * both
                u_k[j] = (slope - one) - ah * both
                f[j] = none
            if parameters[at + 4] != none:
                for j in range(n):
                    f[j] = (sign_a * d_h[j]) * _f_of(u_h[j], row, a + COEFFICIENTS, 0)
            if parameters[at + 5] != none:
                for j in range(n):
                    of_k = _f_of(u_k[j], columns, b + COEFFICIENTS, begin + j)
                    f[j] = fma(sign_b * d_k[j], of_k, f[j])
            for j in range(n):
                k, g_k = sign_b * ks[j], sign_b * gs[j]
                dh, dk = d_h[j], d_k[j]
                right, up = dk > none, dh > none
                side_h, side_k = dh * owen.gauss(u_h[j]), dk * owen.gauss(u_k[j])
                # beyond the farthest quadrant, all but the other three
                turn_h, turn_k = two if up else -two, two if right else -two
                alone = (-one if up == right else one) - flat[j]
                alone += fma(turn_h, g_h, turn_k * g_k)
                bulge = f[j] if radius[j] < far else alone
                _, less = exponentials(-half * radius[j])
                share = weight * seen[j]
                together = fma(-four * g_h, g_k, flat[j] + bulge)
                rest = fma(k * density, side_h - g_k, (h * densities[j]) * (side_k - g_h))
                rates[j] = fma(share, bulge, rates[j])
                sums[j] = fma(share, fma(h * k, together, rest), sums[j])
                exps[j] = fma(share, less, exps[j])
        mean, line, scale = row[MEAN, 0], row[SLOPE, 0], row[SCALE, 0]
        bend, side, lack = row[BEND, 0], row[SIDE, 0], row[LESS, 0]
        means, lines, scales, bends, sides, lacks = (
            columns[MEAN, begin:end], columns[SLOPE, begin:end], columns[SCALE, begin:end],
            columns[BEND, begin:end], columns[SIDE, begin:end], columns[LESS, begin:end],
        )  # fmt: skip
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(n):
            bent = bend * bends[j]
            slopes = fma(bent, flat[j], rates[j]) - four * side * sides[j]
            peak = fma(bent, sine[j] - one, sine[j] * exps[j])
            peak -= fma(bend, lacks[j], lack * (bends[j] + lacks[j]))
            total = fma(cosine[j], slopes, fma(two_over_pi, peak, sums[j]))
            both = scale * scales[j]
            lines_j = line * lines[j]
            value = fma(both, total, fma(cosine[j], lines_j, mean * means[j]))
            value = smaller(larger(value, parameters[1]), one)
            z_out[j], w_out[j] = fma(-half, value, half), fma(half, value, half)
            rate_out[j] = fma(both, slopes, lines_j)


def _density(h: Floats) -> Floats:
    """φ(h)."""
    return np.asarray(np.exp(-h * h / 2) / math.sqrt(2 * math.pi))


_loop = DualLoop(_row)


@dataclass(frozen=True)
class Kinked(Activation):
    """A continuous function with slopes s_0, s_1, … and kinks t_1 < t_2 < … between them."""

    value: float  # σ(0)
    slopes: tuple[float, ...]
    at: tuple[float, ...]

    @property
    def facts(self) -> Facts:
        still = max((abs(t) for t in self.at if t and self._vanishes_within(abs(t))), default=0)
        if not still:
            return Facts()
        return Facts(domain=f"q from {still**2 / 25:.2g}, below which K is next to 0")

    def _vanishes_within(self, t: float) -> bool:
        x = np.array([-t, *(k for k in self.at if abs(k) < t), t])
        return bool((self(x) == 0).all())

    @property
    def kinks(self) -> tuple[float, ...]:
        return self.at

    @cached_property
    def _bends(self) -> tuple[float, ...]:
        """g_i."""
        return tuple((b - a) / 2 for a, b in pairwise(self.slopes))

    @cached_property
    def _sizes(self) -> tuple[float, ...]:
        """The different |t|, 0 last."""
        return tuple(sorted({abs(t) for t in self.at}, reverse=True))

    def dual(self, q_max: float) -> Dual:
        return Dual(
            _loop,
            never_obtuse=self._never_obtuse,
            parameters=self._parameters,
            coefficients=self._coefficients,
            curve=self._curve,
            kinks_move=True,
            parity=self._parity,
        )

    @property
    def _parity(self) -> int:
        """1 or −1 if all of it is mirrored."""
        mirrored = self.at == tuple(-t for t in reversed(self.at))
        if mirrored and self.slopes == tuple(reversed(self.slopes)) and self.value == 0:
            return -1
        return 1 if mirrored and self.slopes == tuple(-s for s in reversed(self.slopes)) else 0

    @property
    def _never_obtuse(self) -> bool:
        """σ ≥ 0 or σ ≤ 0 everywhere."""
        x = np.array([*self.at, 0.0])
        for sign in (1, -1):
            if (sign * self(x) >= 0).all() and sign * self.slopes[0] <= 0 <= sign * self.slopes[-1]:
                return True
        return False

    @cached_property
    def _parameters(self) -> tuple[float, ...]:
        """The pairs of kinks, see `TERM`; with a symmetry, (i, j) stands for (−i, −j) too."""
        g = dict(zip(self.at, self._bends, strict=True))
        both = all(-t in g for t in g) and (
            all(g[-t] == g[t] for t in g) or all(g[-t] == -g[t] for t in g)
        )
        terms: list[float] = []
        for a, first in g.items():
            for b, second in g.items():
                # two kinks at 0 have no more in common than all have
                if a == b == 0 or (both and (a, b) < (-a, -b)):
                    continue
                weight = first * second * (2 if both else 1)
                terms += [
                    self._first_row(a), self._first_row(b), np.sign(a) or 1, np.sign(b) or 1,
                    a != 0, b != 0, weight,
                ]  # fmt: skip
        lowest = 0.0 if self._never_obtuse else -1.0  # of cosθ_K, whatever the rounding
        return (len(terms) / TERM, lowest, *(float(t) for t in terms))

    def _first_row(self, t: float) -> int:
        return FIRST + (COEFFICIENTS + owen.TERMS) * self._sizes.index(abs(t))

    def __call__(self, x: Floats) -> Floats:
        # from the end of a piece that is nearer to 0, or from 0: exact around 0
        ends = np.array([-np.inf, *self.at, np.inf])
        from_ = np.clip(0.0, ends[:-1], ends[1:])
        piece = int(np.searchsorted(self.at, 0.0, side="left"))
        values = np.full(from_.size, self.value)
        for k in range(piece + 1, from_.size):
            values[k] = values[k - 1] + self.slopes[k - 1] * (from_[k] - from_[k - 1])
        for k in range(piece - 1, -1, -1):
            values[k] = values[k + 1] + self.slopes[k + 1] * (from_[k] - from_[k + 1])
        which = np.searchsorted(self.at, x, side="left")
        return np.asarray(
            values[which] + np.array(self.slopes)[which] * (x - from_[which]), x.dtype
        )

    def derivative(self, x: Floats) -> Floats:
        return np.asarray(np.array(self.slopes)[np.searchsorted(self.at, x, side="left")], x.dtype)

    def second_moment(self, q: Floats) -> Floats:
        """The formula of K at x = x'."""
        real = q.dtype.type
        inside = np.minimum(q, real(self._largest) ** 2)
        # beyond, it grows as q, or not at all
        grown = q / np.where(q > 0, inside, 1) if self.slopes[0] or self.slopes[-1] else real(1)
        return np.asarray(self._moment(inside, *self._of_samples(q)) * grown)

    @property
    def _largest(self) -> float:
        """The largest √q, where the kinks are next to 0."""
        return FARTHEST * (max(self._sizes, default=0.0) or 1.0)

    def _moment(
        self, q: Floats, mean: Floats, line: Floats, h: Floats, side: Floats, seen: Floats
    ) -> Floats:
        density = _density(h)
        total = np.zeros(h.shape[1])
        bend, sided, less = self._sums(h, side, seen)
        for a, first in enumerate(self._bends):
            for b, second in enumerate(self._bends):
                up = np.sign(h[b] - h[a]) / 2  # G(d_h), −G(d_k)
                together = 1 - 2 * abs(side[a] - side[b]) - 4 * side[a] * side[b]
                rest = 4 * (h[b] * density[a] * (up - side[b]) - h[a] * density[b] * (up + side[a]))
                change = h[a] * h[b] * together + rest - 2 * abs(side[a] - side[b])
                total += first * second * seen[a] * seen[b] * change
        total += bend**2 - 4 * sided**2 - 2 / math.pi * (bend + less) ** 2
        return np.asarray(mean**2 + q * np.maximum(line**2 + total, 0))

    def _of_samples(self, q: Floats) -> tuple[Any, ...]:
        """Of samples m and p, (N,), and of every kink h, G(h), whether it is seen, (kinks, N)."""
        root = np.minimum(np.sqrt(q), self._largest)
        with np.errstate(divide="ignore", over="ignore"):
            h = np.array(self.at)[:, None] / np.maximum(root, 1e-300)
        h = np.clip(h, -40, 40).astype(float)
        side = special.erf(h / math.sqrt(2)) / 2
        tail = self._sum(_density(h) - abs(h) * special.ndtr(-abs(h)))
        mean = self.value + root * (2 * tail)
        line = (self.slopes[0] + self.slopes[-1]) / 2 - 2 * self._sum(side)
        return mean, line, h, side, abs(h) < SEEN

    def _sums(self, h: Floats, side: Floats, seen: Floats) -> tuple[Floats, Floats, Floats]:
        """Σg, Σg·G(h), Σg·(exp(−h²/2) − 1) of the kinks that are seen."""
        less = np.expm1(-h * h / 2)
        return self._sum(seen), self._sum(side * seen), self._sum(less * seen)

    def _sum(self, values: Floats) -> Floats:
        """Σ g of what each kink has; a product of matrices would depend on how many there are."""
        total = np.zeros(values.shape[1])
        for bend, value in zip(self._bends, values, strict=True):
            total += bend * value
        return total

    def _curve(self, q: Floats) -> Floats:
        """λ, and J/6 of a chord that kinks on the move make shorter,

        |f_q − f_q'|² = Δ² (1 − J|Δ|/6 + …),  J = (4q/K) Σ g² |h|³ φ(h) / (dλ/d ln √q)³
        """
        moved = np.exp(np.clip(self._moved(q), *np.log(BENDS)))
        return np.concatenate([curve_of(self).lengths(q), moved])

    @cached_property
    def _moved(self) -> Panels:
        """ln(J/6), which has exp(h²/4) in it."""

        def values(q: NDArray[np.float64]) -> NDArray[np.float64]:
            h = np.abs(np.array(self.at)) / np.sqrt(q)[:, None]
            jumps = (h**3 * _density(h)) @ np.square(self._bends)
            speed = np.array([curve_of(self).speed(v) for v in q])
            moment = self.second_moment(q)
            known = (speed > 0) & (jumps > 0) & (moment > 0)
            out = np.full(q.size, BENDS[0])
            out[known] = (2 / 3 * q * jumps)[known] / moment[known] / speed[known] ** 3
            return np.log(np.clip(out, *BENDS))[:, None]

        return interpolated(values)

    def _coefficients(self, q: Floats) -> Floats:
        mean, line, h, side, seen = self._of_samples(q)
        inside = np.minimum(q, q.dtype.type(self._largest) ** 2)
        moment = np.sqrt(self._moment(inside, mean, line, h, side, seen))
        safe = np.where(moment > 0, moment, 1)
        scale = np.where(moment > 0, np.sqrt(inside) / safe, 0)
        own = [
            np.where(moment > 0, mean / safe, 1),
            scale * line,
            scale,
            *self._sums(h, side, seen),
        ]
        for t in self._sizes:
            k = [abs(s) for s in self.at].index(t)
            size, is_seen = abs(h[k]), seen[k]
            own += [size * is_seen, abs(side[k]) * is_seen, 4 * _density(size), is_seen]
            if t:
                own += list(owen.coefficients(size * is_seen))
        return np.array(own, q.dtype)


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
        A kink without a slope after it, or kinks that do not grow.
    """
    at, slopes = more[::2], (slope, *more[1::2])
    if len(more) % 2:
        raise InvalidValueError(
            "activation piecewise_linear: after each kink a slope, so an even number"
        )
    if any(b <= a for a, b in pairwise(at)):
        raise InvalidValueError(f"activation piecewise_linear: kinks must grow, not {at}")
    kept = [k for k in range(len(at)) if slopes[k] != slopes[k + 1]]
    at = tuple(at[k] for k in kept)
    slopes = (slopes[0], *(slopes[k + 1] for k in kept))
    if value == 0 and at in ((), (0.0,)):
        return ab_relu(slopes[0], slopes[-1])
    return Kinked(spelled("piecewise_linear", value, slope, *more), value, slopes, at)
