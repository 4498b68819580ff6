"""ELU and its kin: elu, selu, celu; a line for x > 0, and an exponential that ends in a constant.

    σ(x) = p x for x > 0,  pλτ(exp(x/τ) − 1) for x ≤ 0

With a = √q/τ, b of q', Ω = π − θ and e(y) = √(π/2) exp(y²/2) erfc(y/√2), the quadrant u, v < 0 has
in polar coordinates, the integral over the radius done,

    N(a, b) = E[exp(aX + bY); X, Y < 0] = (1/2π) ∫_0^Ω (1 − y e(y)) dχ,  y = α + β,
              α = a sinχ,  β = b sin(Ω − χ)
    D(a, b) = E[(exp(aX) − 1)(exp(bY) − 1); X, Y < 0]
            = (1/2π) ∫_0^Ω (α(e(α) − e(y)) + β(e(β) − e(y))) dχ

With g(a) = E[exp(aX); X < 0 < Y] = e(a)/√(2π) − N(a, 0) and Stein's identity,

    K/(p²τ²ab) = (sinθ + Ω cosθ)/2π + λ² D/ab
                 + λ [cosθ (g(a) + g(b)) − (sinθ/2π)(ε(a sinθ) + ε(b sinθ))]
    K̇/p² = Ω/2π + λ² N(a, b) + λ (g(a) + g(b)),   ε(y) = (e(0) − e(y))/y

The integrals are Gauss-Legendre sums in a variable that crowds at both ends the more, and of the
more terms, the larger the variances are; the integrands are entire, and the sums exact to rounding
as far as `RULES` goes. e is a polynomial in u = 2c/(y + c) − 1, and its differences come from
divided differences of that: none cancels.

Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021, *Avoiding kernel fixed points*,
with the bivariate normal distribution; the integral over the angle is ours. Condition: 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy import special

from ntk_numba.compiled.intrinsics import (
    divided_differences,
    fma,
    polynomial,
    stack_array,
    wide_vectors,
)
from ntk_numba.compiled.loops import Row
from ntk_numba.compiled.policy import per_dtype
from ntk_numba.duals.base import Activation, Floats
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.quadrature import gauss_legendre
from ntk_numba.duals.special import supplement

CENTRE = 5.0  # c
# Of e(y) in u, highest power first, mpmath.chebyfit's: to 4e-19 and 2e-10, their slopes to 3e-16
# and 3e-8. The test makes them and the following anew.
TAIL_DOUBLE = (
    2.1846272247543302e-11,
    6.225310842755151e-11,
    -2.922396425912029e-10,
    -6.888743758379508e-10,
    2.3367888664621376e-09,
    4.519652199485035e-09,
    -1.564414078705102e-08,
    -2.725331973069401e-08,
    9.943603066598435e-08,
    1.9291920170562873e-07,
    -6.107184815742079e-07,
    -1.6919472772763474e-06,
    3.183898572643658e-06,
    1.665501005884216e-05,
    -2.4097140315109398e-06,
    -0.00015146921734706344,
    -0.0003365821187249813,
    0.0005503320838696985,
    0.005962878523937279,
    0.022538023650015514,
    0.05868994498193851,
    0.11995557912791902,
    0.20274581371204262,
    0.2909413656762827,
    0.3595947642342118,
    0.19280810471531576,
)
TAIL_SINGLE = (
    1.6269529394491842e-06,
    1.1895604359870446e-05,
    -4.987218662753172e-07,
    -0.00014539442352309956,
    -0.00033781531349387717,
    0.0005463344955377313,
    0.0059632972373934,
    0.022539395884436077,
    0.058689876386582344,
    0.11995535291792558,
    0.20274581796238578,
    0.2909413797369051,
    0.3595947641909142,
    0.1928081045719941,
)
SINE_DOUBLE = (
    -3.503972352533559e-23,
    1.9480070190858657e-20,
    -8.219263887339005e-18,
    2.811444371427611e-15,
    -7.647162931172455e-13,
    1.6059043803598633e-10,
    -2.5052108384533734e-08,
    2.7557319223970155e-06,
    -0.0001984126984126968,
    0.008333333333333333,
    -0.16666666666666666,
    1.0,
)
SINE_SINGLE = (
    1.3611596264829657e-10,
    -2.4728366504509055e-08,
    2.753580048579453e-06,
    -0.00019840531555422378,
    0.008333321235977286,
    -0.166666659218917,
    0.9999999992502202,
)


def _tail(real: Any) -> Callable[..., tuple[float, float, float]]:
    differences = divided_differences(TAIL_SINGLE if real is np.float32 else TAIL_DOUBLE)

    def tail(u: float, first: float, second: float) -> tuple[float, float, float]:
        value: tuple[float, float, float] = differences(u, first, second)
        return value

    return tail


tail = per_dtype("tail", _tail)
"""e at u, and its divided differences of u with two others."""


def _sine(real: Any) -> Callable[[float], float]:
    series = polynomial(SINE_SINGLE if real is np.float32 else SINE_DOUBLE, 2)

    def sine(x: float) -> float:
        value: float = x * series(x * x)
        return value

    return sine


sine = per_dtype("sine", _sine)
"""sin x, 0 ≤ x ≤ π, to an ulp of 1."""

# Up to which a² the integrals are exact with how many nodes; they are Gauss-Legendre's t of [−1, 1]
# taken to χ/Ω by the Gudermannian function of crowding·t.
RULES = ((0.1, 0.0, 14), (0.5, 0.0, 16), (2.25, 0.0, 18), (4.0, 0.0, 20), (16.0, 1.5, 24),
         (100.0, 1.5, 28), (1e3, 2.5, 40), (math.inf, 4.0, 56))  # fmt: skip
TAYLOR, TERMS = 2.0, 90  # of E[σ²] for a below that

A, AXIS, SCALE = 2, 3, 4  # a, e(a)/√(2π), p√q/√K
BLOCK = 64  # columns at a time
OMEGA, SINE, BOTH, MINE, THEIRS, LESS = range(6)
_working = stack_array(6, BLOCK)


def _row(
    z: Floats, w: Floats, zk: Floats, wk: Floats, rate: Floats,
    mine: Floats, theirs: Floats, parameters: Floats,
) -> None:  # fmt: skip
    wide_vectors()
    real = z.dtype.type
    one, two, half, none = real(1), real(2), real(0.5), real(0)
    turn, c = real(0.5 / math.pi), real(CENTRE)
    twice = two * c
    working = _working(one)
    omega, sines, both = working[OMEGA], working[SINE], working[BOTH]
    mines, others, lesses = working[MINE], working[THEIRS], working[LESS]
    pairs, share = int(parameters[0]), parameters[1]
    a, axis, scale = mine[A, 0], mine[AXIS, 0], mine[SCALE, 0]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        n = end - begin
        # of a slice it is known that no index is negative
        z_n, w_n = z[begin:end], w[begin:end]
        bs, axes, scales = theirs[A, begin:end], theirs[AXIS, begin:end], theirs[SCALE, begin:end]
        for j in range(n):
            omega[j], sines[j] = supplement(z_n[j], w_n[j])
            both[j], mines[j], others[j], lesses[j] = none, none, none, none
        for pair in range(pairs):
            at, weight = parameters[2 + 2 * pair], parameters[3 + 2 * pair]
            for j in range(n):
                b = bs[j]
                first, second = sine(omega[j] * at), sine(omega[j] * (one - at))
                for turned in range(2):
                    s_mine, s_theirs = (second, first) if turned else (first, second)
                    alpha, beta = a * s_mine, b * s_theirs
                    y_a, y_b = alpha + c, beta + c
                    y = y_a + beta
                    per = one / (y * y_a * y_b)
                    per_y, per_a, per_b = per * (y_a * y_b), per * (y * y_b), per * (y * y_a)
                    e, slope_a, slope_b = tail(
                        fma(twice, per_y, -one), fma(twice, per_a, -one), fma(twice, per_b, -one)
                    )
                    # e(α) and e(β) are e(y) and these
                    over = twice * per_y
                    more_a, more_b = per_a * slope_a, per_b * slope_b
                    e_a, e_b = fma(over * beta, more_a, e), fma(over * alpha, more_b, e)
                    both[j] += weight * fma(-(alpha + beta), e, one)
                    mines[j] += weight * fma(-alpha, e_a, one)
                    others[j] += weight * fma(-beta, e_b, one)
                    lesses[j] += weight * ((s_mine * s_theirs) * (over * (more_a + more_b)))
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(n):
            cosine = w_n[j] - z_n[j]
            around = turn * omega[j]
            s = sines[j]
            per_a, per_b = one / fma(a, s, c), one / fma(bs[j], s, c)
            _, slope_a, _ = tail(fma(twice, per_a, -one), one, one)
            _, slope_b, _ = tail(fma(twice, per_b, -one), one, one)
            edges = two * fma(per_a, slope_a, per_b * slope_b)
            sides = (axis + axes[j]) - around * (mines[j] + others[j])
            less = share * (around * lesses[j])
            value = fma(turn, s, around * cosine)
            value = fma(share, fma(cosine, sides, -(turn * s) * edges) + less, value)
            slope = fma(share, fma(share, around * both[j], sides), around)
            size = scale * scales[j]
            k = size * value
            z_out[j], w_out[j] = fma(-half, k, half), fma(half, k, half)
            rate_out[j] = size * slope


@dataclass(frozen=True)
class Elu(Activation):
    """σ(x) = p x for x > 0, pλτ(exp(x/τ) − 1) for x ≤ 0."""

    p: float
    share: float  # λ
    tau: float
    limit: float = math.inf  # of the variances that it is ready for

    row: ClassVar[Row] = Row(_row)
    ranged: ClassVar[bool] = True

    @property
    def never_obtuse(self) -> bool:
        """σ ≥ 0."""
        return self.share <= 0

    @property
    def kinks(self) -> tuple[float, ...]:
        return (0.0,)

    @cached_property
    def parameters(self) -> tuple[float, ...]:
        """The pairs of nodes, λ, then of each pair one χ/Ω and the weight of either."""
        _, crowding, count = next(r for r in RULES if self.limit / self.tau**2 <= r[0])
        t, weights = (v.astype(float) for v in gauss_legendre(count))
        if crowding:
            all_of_it = np.arctan(np.sinh(crowding))
            weights = weights * crowding / np.cosh(crowding * t) / all_of_it
            t = np.arctan(np.sinh(crowding * t)) / all_of_it
        some = zip((1 + t[: count // 2]) / 2, weights[: count // 2] / 2, strict=True)
        return (count / 2, self.share, *(float(v) for pair in some for v in pair))

    def up_to(self, q: float) -> Activation:
        return replace(self, limit=q)

    def __call__(self, x: Floats) -> Floats:
        low = self.share * self.tau * np.expm1(np.minimum(x, 0) / self.tau)
        return np.asarray(self.p * np.where(x > 0, x, low), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        low = self.share * np.exp(np.minimum(x, 0) / self.tau)
        return np.asarray(self.p * np.where(x > 0, 1, low), x.dtype)

    def curve(self, q: Floats) -> Floats:
        return curve_of(Elu("", 1.0, self.share, 1.0))(q / q.dtype.type(self.tau) ** 2)

    def _ratio(self, q: Floats) -> Floats:
        """E[σ²]/(p²q) = ½ + λ² E[(1 − exp(−a|X|))²/a²; X < 0]."""
        a = np.sqrt(q) / q.dtype.type(self.tau)
        few = np.minimum(a, TAYLOR)
        # E[|X|^k; X < 0], of which there are k − 1 times those of k − 2
        real = q.dtype.type
        moments = [real(0.5), 1 / np.sqrt(8 * np.arctan(real(1)))]
        small, power, factorial = np.zeros_like(q), np.ones_like(q), real(1)
        for k in range(2, TERMS):
            moments.append((k - 1) * moments[k - 2])
            factorial *= k
            small = small + (real(2) ** k - 2) * power * moments[k] / factorial
            power = power * -few
        safe = np.maximum(a, TAYLOR).astype(float)
        tails = special.erfcx(safe * math.sqrt(2)) - 2 * special.erfcx(safe / math.sqrt(2)) + 1
        return np.asarray(0.5 + self.share**2 * np.where(a < TAYLOR, small, tails / 2 / safe**2))

    def second_moment(self, q: Floats) -> Floats:
        return np.asarray(q.dtype.type(self.p) ** 2 * q * self._ratio(q))

    def traits(self, q: Floats) -> Floats:
        a = np.sqrt(q) / q.dtype.type(self.tau)
        axis = special.erfcx(a.astype(float) / math.sqrt(2)) / 2
        return np.stack([a, axis.astype(q.dtype), 1 / np.sqrt(self._ratio(q))])
