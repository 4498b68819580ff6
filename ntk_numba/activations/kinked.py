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

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ntk_numba.activations.one_kink import ab_relu
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

REACH = 8.1  # standard deviations; a kink is within reach if |h| is less
CHORD_RANGE = 1e-12, 1e9  # J/6 is clipped to this, see `Kinked._curve`
LARGEST_ROOT = 1e8  # larger √q/max|t| are replaced by this: errors are √q/|t| times 1e-16
LARGEST_D = 8.3067  # larger |d| are replaced by this: R² is then beyond `owen.FAR`, and G(d) is ½

# The rows of a sample's coefficients; the last three are sums over the kinks within reach:
# m/√K, p√(q/K), √(q/K), Σg, Σg·G(h), Σg·(exp(−h²/2) − 1)
MEAN, SLOPE, SCALE, SUM_G, SUM_GG, SUM_EXP = range(6)
FIRST = 6
# and for each |t|: h, G(h), 4φ(h), whether it is within reach, and F's coefficients unless t = 0
H, G, DENSITY, WITHIN, COEFFICIENTS = range(5)

# A term: the first row of |t_i| and of |t_j|, their signs, whether they are not 0, the weight
TERM = 7

BLOCK = 128  # columns at a time: all of their working memory is in the first cache
# Rows of the working memory; FLAT is 1 − 2θ/π, and RATE, SUM and EXP are sums over the terms
SINE, PER_SINE, COSINE, FLAT, RATE, SUM, EXP, D_H, D_K, U_H, U_K, RADIUS, F = range(13)
_working = stack_array(13, BLOCK)
_f_of = sample_polynomial(owen.TERMS, owen.TERMS_SINGLE, 2)


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    wide_vectors()
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, four, zero = real(1), real(2), real(0.5), real(4), real(0)
    two_over_pi, smallest_sine, largest_d = real(2 / math.pi), real(1e-17), real(LARGEST_D)
    far, centre, slope = real(owen.FAR), real(owen.CENTRE), real(owen.SLOPE)
    working = _working(one)
    sine, per_sine, cosine = working[SINE], working[PER_SINE], working[COSINE]
    flat, rates, sums, exps = working[FLAT], working[RATE], working[SUM], working[EXP]
    d_h, d_k, u_h, u_k = working[D_H], working[D_K], working[U_H], working[U_K]
    radius, f = working[RADIUS], working[F]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        count = end - begin
        # Numba knows that no index into these slices is negative
        z_n, w_n = z[begin:end], w[begin:end]
        for j in range(count):
            zj, wj = z_n[j], w_n[j]
            smaller_half = smaller(zj, wj)
            half_sine = np.sqrt(fma(-smaller_half, smaller_half, smaller_half))
            sine[j] = larger(two * half_sine, smallest_sine)
            per_sine[j] = one / sine[j]
            cosine[j] = wj - zj
            # 1 − 2θ/π
            angle_ratio = fma(
                -two * two_over_pi * half_sine,
                fma(smaller_half, angle_excess(smaller_half, fma(-two, smaller_half, one)), one),
                one,
            )
            flat[j] = angle_ratio if zj <= wj else -angle_ratio
            rates[j], sums[j], exps[j] = zero, zero, zero
        for term in range(int(parameters[0])):
            start = 2 + TERM * term
            a, b = int(parameters[start]), int(parameters[start + 1])
            sign_a, sign_b = parameters[start + 2], parameters[start + 3]
            h, g_h = sign_a * row[a + H, 0], sign_a * row[a + G, 0]
            density = row[a + DENSITY, 0]
            weight = parameters[start + 6] * row[a + WITHIN, 0]
            ks, gs, densities, within = (
                columns[b + H, begin:end], columns[b + G, begin:end],
                columns[b + DENSITY, begin:end], columns[b + WITHIN, begin:end],
            )  # fmt: skip
            for j in range(count):
                k = sign_b * ks[j]
                zj, wj = z_n[j], w_n[j]
                acute = zj <= wj
                # d_h·sinθ = k − ρh and d_k·sinθ = h − ρk
                difference = k - h if acute else k + h
                d_h_times_sine = (
                    difference + (two * zj) * h if acute else difference - (two * wj) * h
                )
                d_k_times_sine = (
                    (two * zj) * k - difference if acute else difference - (two * wj) * k
                )
                dh = smaller(larger(d_h_times_sine * per_sine[j], -largest_d), largest_d)
                dk = smaller(larger(d_k_times_sine * per_sine[j], -largest_d), largest_d)
                d_h[j], d_k[j] = dh, dk
                radius[j] = fma(dh, dh, h * h)
                ah, ak = fma(dh, dh, centre), fma(dk, dk, centre)
                per_product = (slope * centre) / (ah * ak)
                u_h[j] = (slope - one) - ak * per_product
                u_k[j] = (slope - one) - ah * per_product
                f[j] = zero
            if parameters[start + 4] != zero:
                for j in range(count):
                    f[j] = (sign_a * d_h[j]) * _f_of(u_h[j], row, a + COEFFICIENTS, 0)
            if parameters[start + 5] != zero:
                for j in range(count):
                    of_k = _f_of(u_k[j], columns, b + COEFFICIENTS, begin + j)
                    f[j] = fma(sign_b * d_k[j], of_k, f[j])
            for j in range(count):
                k, g_k = sign_b * ks[j], sign_b * gs[j]
                dh, dk = d_h[j], d_k[j]
                d_k_positive, d_h_positive = dk > zero, dh > zero
                g_d_h, g_d_k = dh * owen.gauss(u_h[j]), dk * owen.gauss(u_k[j])
                # 4F(h, d_h) + 4F(k, d_k), or, where the probability of the quadrant at (h, k) is
                # negligible, the same from the other three quadrants
                twice_sign_h, twice_sign_k = (
                    two if d_h_positive else -two,
                    two if d_k_positive else -two,
                )
                other_quadrants = (-one if d_h_positive == d_k_positive else one) - flat[j]
                other_quadrants += fma(twice_sign_h, g_h, twice_sign_k * g_k)
                f_sum = f[j] if radius[j] < far else other_quadrants
                _, exp_minus_one = exponentials(-half * radius[j])
                pair_weight = weight * within[j]
                coupling = fma(-four * g_h, g_k, flat[j] + f_sum)
                mixed = fma(k * density, g_d_h - g_k, (h * densities[j]) * (g_d_k - g_h))
                rates[j] = fma(pair_weight, f_sum, rates[j])
                sums[j] = fma(pair_weight, fma(h * k, coupling, mixed), sums[j])
                exps[j] = fma(pair_weight, exp_minus_one, exps[j])
        mean, line_row, scale = row[MEAN, 0], row[SLOPE, 0], row[SCALE, 0]
        sum_g, sum_gg, sum_exp = row[SUM_G, 0], row[SUM_GG, 0], row[SUM_EXP, 0]
        means, line_columns, scales, sum_gs, sum_ggs, sum_exps = (
            columns[MEAN, begin:end], columns[SLOPE, begin:end], columns[SCALE, begin:end],
            columns[SUM_G, begin:end], columns[SUM_GG, begin:end], columns[SUM_EXP, begin:end],
        )  # fmt: skip
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(count):
            sum_g_product = sum_g * sum_gs[j]
            k_dot = fma(sum_g_product, flat[j], rates[j]) - four * sum_gg * sum_ggs[j]
            peak = fma(sum_g_product, sine[j] - one, sine[j] * exps[j])
            peak -= fma(sum_g, sum_exps[j], sum_exp * (sum_gs[j] + sum_exps[j]))
            kernel = fma(cosine[j], k_dot, fma(two_over_pi, peak, sums[j]))
            scale_product = scale * scales[j]
            line_product = line_row * line_columns[j]
            cosine_k = fma(scale_product, kernel, fma(cosine[j], line_product, mean * means[j]))
            cosine_k = smaller(larger(cosine_k, parameters[1]), one)
            z_out[j], w_out[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
            rate_out[j] = fma(scale_product, k_dot, line_product)


def _density(h: Floats) -> Floats:
    """Return φ(h)."""
    return np.asarray(np.exp(-h * h / 2) / math.sqrt(2 * math.pi))


_loop = DualLoop(_fill_row)


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
        for a, first in g.items():
            for b, second in g.items():
                # two kinks at 0 add nothing to the terms common to all pairs
                if a == b == 0 or (symmetric and (a, b) < (-a, -b)):
                    continue
                weight = first * second * (2 if symmetric else 1)
                terms += [
                    self._first_row(a), self._first_row(b), np.sign(a) or 1, np.sign(b) or 1,
                    a != 0, b != 0, weight,
                ]  # fmt: skip
        lowest = 0.0 if self._never_obtuse else -1.0  # rounding must not take cosθ_K below this
        return (len(terms) / TERM, lowest, *(float(t) for t in terms))

    def _first_row(self, t: float) -> int:
        return FIRST + (COEFFICIENTS + owen.TERMS) * self._sizes.index(abs(t))

    def __call__(self, x: Floats) -> Floats:
        # each piece starts from its end nearer to 0, or from 0, so that σ is exact around 0
        ends = np.array([-np.inf, *self.at, np.inf])
        from_ = np.clip(0.0, ends[:-1], ends[1:])
        piece = int(np.searchsorted(self.at, 0.0, side="left"))
        values = np.full(from_.size, self.value)
        for k in range(piece + 1, from_.size):
            values[k] = values[k - 1] + self.slopes[k - 1] * (from_[k] - from_[k - 1])
        for k in range(piece - 1, -1, -1):
            values[k] = values[k + 1] + self.slopes[k + 1] * (from_[k] - from_[k + 1])
        pieces = np.searchsorted(self.at, x, side="left")
        return np.asarray(
            values[pieces] + np.array(self.slopes)[pieces] * (x - from_[pieces]), x.dtype
        )

    def derivative(self, x: Floats) -> Floats:
        return np.asarray(np.array(self.slopes)[np.searchsorted(self.at, x, side="left")], x.dtype)

    def second_moment(self, q: Floats) -> Floats:
        """Return K at x = x'."""
        real = q.dtype.type
        inside = np.minimum(q, real(self._largest) ** 2)
        # for larger q, it is proportional to q, or constant
        growth = q / np.where(q > 0, inside, 1) if self.slopes[0] or self.slopes[-1] else real(1)
        return np.asarray(self._moment(inside, *self._of_samples(q)) * growth)

    @property
    def _largest(self) -> float:
        """The largest √q that is distinguished; there h is 1e-8 or less."""
        return LARGEST_ROOT * (max(self._sizes, default=0.0) or 1.0)

    def _moment(
        self, q: Floats, mean: Floats, slope: Floats, h: Floats, g_h: Floats, within: Floats
    ) -> Floats:
        """Return K(q) from the results of `_of_samples`."""
        density = _density(h)
        total = np.zeros(h.shape[1])
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
                total += first * second * within[a] * within[b] * change
        total += sum_g**2 - 4 * sum_gg**2 - 2 / math.pi * (sum_g + sum_exp) ** 2
        return np.asarray(mean**2 + q * np.maximum(slope**2 + total, 0))

    def _of_samples(self, q: Floats) -> tuple[Any, ...]:
        """Return m and p, (N,), and for each kink h, G(h) and whether it is within `REACH`.

        The last three are of shape (kinks, N).
        """
        root = np.minimum(np.sqrt(q), self._largest)
        with np.errstate(divide="ignore", over="ignore"):
            h = np.array(self.at)[:, None] / np.maximum(root, 1e-300)
        h = np.clip(h, -40, 40).astype(float)
        g_h = special.erf(h / math.sqrt(2)) / 2
        tail = self._sum(_density(h) - abs(h) * special.ndtr(-abs(h)))
        mean = self.value + root * (2 * tail)
        slope = (self.slopes[0] + self.slopes[-1]) / 2 - 2 * self._sum(g_h)
        return mean, slope, h, g_h, abs(h) < REACH

    def _sums(self, h: Floats, g_h: Floats, within: Floats) -> tuple[Floats, Floats, Floats]:
        """Return Σg, Σg·G(h) and Σg·(exp(−h²/2) − 1) of the kinks within `REACH`."""
        exp_minus_one = np.expm1(-h * h / 2)
        return self._sum(within), self._sum(g_h * within), self._sum(exp_minus_one * within)

    def _sum(self, values: Floats) -> Floats:
        """Return Σ g·value; a matrix product would round depending on the number of samples."""
        total = np.zeros(values.shape[1])
        for g, value in zip(self._bends, values, strict=True):
            total += g * value
        return total

    def _curve(self, q: Floats) -> Floats:
        """Return λ, and J/6 of a chord that is shorter since the kinks move with √q, (2, N).

        |f_q − f_q'|² = Δ² (1 − J|Δ|/6 + …),  J = (4q/K) Σ g² |h|³ φ(h) / (dλ/d ln √q)³
        """
        moved = np.exp(np.clip(self._moved(q), *np.log(CHORD_RANGE)))
        return np.concatenate([curve_of(self).lengths(q), moved])

    @cached_property
    def _moved(self) -> Panels:
        """The table of ln(J/6); the logarithm, since J has a factor exp(h²/4)."""

        def values(q: NDArray[np.float64]) -> NDArray[np.float64]:
            h = np.abs(np.array(self.at)) / np.sqrt(q)[:, None]
            jumps = (h**3 * _density(h)) @ np.square(self._bends)
            speed = np.array([curve_of(self).speed(v) for v in q])
            moment = self.second_moment(q)
            known = (speed > 0) & (jumps > 0) & (moment > 0)
            out = np.full(q.size, CHORD_RANGE[0])
            out[known] = (2 / 3 * q * jumps)[known] / moment[known] / speed[known] ** 3
            return np.log(np.clip(out, *CHORD_RANGE))[:, None]

        return interpolated(values)

    def _coefficients(self, q: Floats) -> Floats:
        mean, slope, h, g_h, within = self._of_samples(q)
        inside = np.minimum(q, q.dtype.type(self._largest) ** 2)
        moment = np.sqrt(self._moment(inside, mean, slope, h, g_h, within))
        safe = np.where(moment > 0, moment, 1)
        scale = np.where(moment > 0, np.sqrt(inside) / safe, 0)
        own = [
            np.where(moment > 0, mean / safe, 1),
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
