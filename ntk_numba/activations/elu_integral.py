"""The dual of ELU by an integral over the angle, for any variances.

The formulas are in `ntk_numba.activations.elu`. The integrals are Gauss-Legendre rules in a
variable that clusters nodes at both ends; clustering and node count grow with the variance (see
`RULES`). The integrands are entire, and the sums are exact to rounding up to the limits in `RULES`.
e is 1 + u times a polynomial E in u = 2c/(y + c) − 1. Differences of e, and 1 − y e(y), which is
−e'(y), are computed from divided differences of that polynomial, so that none cancels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ntk_numba.compiled.intrinsics import (
    divided_differences,
    fma,
    polynomial,
    stack_array,
    wide_vectors,
)
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.compiled.policy import per_dtype
from ntk_numba.duals.quadrature import gauss_legendre
from ntk_numba.duals.special import supplement
from ntk_numba.extended import extended
from ntk_numba.function import Floats

CENTRE = 5.0  # c
# The coefficients of E = e(y)/(1 + u) in u, highest power first, by mpmath.chebyfit. The errors are
# 2e-19 and 5e-11. tests/activations/test_elu.py derives these coefficients and the following ones
# again.
TAIL_DOUBLE = (
    -9.373752054445513e-12,
    3.1220024301988815e-11,
    9.196247247945853e-11,
    -3.8420211507066143e-10,
    -4.798442522847399e-10,
    2.8166331187468775e-09,
    1.996241762191281e-09,
    -1.7640382549242302e-08,
    -9.929484394384059e-09,
    1.093655150603684e-07,
    8.378431390039677e-08,
    -6.945027954746047e-07,
    -9.97559795429311e-07,
    4.181458368072969e-06,
    1.2473591140168097e-05,
    -1.4883305171679035e-05,
    -0.00013658592121587165,
    -0.00019999619750910963,
    0.0007503282827082914,
    0.005212550241228988,
    0.017325473408670196,
    0.041364471573268315,
    0.07859110755465598,
    0.12415470615738665,
    0.16678665951889599,
    0.19280810471531576,
)
TAIL_SINGLE = (
    -7.600569201894499e-07,
    2.387009859638634e-06,
    1.2168793720894886e-05,
    -1.2667515587170203e-05,
    -0.00013638468186434111,
    -0.00020143063162953606,
    0.000750259063936639,
    0.005213038173456761,
    0.017325484833110034,
    0.04136439155347231,
    0.07859110684409816,
    0.12415471111828763,
    0.1667866595261397,
    0.1928081046647745,
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


def _tail(real: Any) -> Callable[..., tuple[float, float, float, float]]:
    differences = divided_differences(TAIL_SINGLE if real is np.float32 else TAIL_DOUBLE)

    def tail(u: float, u_1: float, u_2: float, u_3: float) -> tuple[float, float, float, float]:
        value: tuple[float, float, float, float] = differences(u, u_1, u_2, u_3)
        return value

    return tail


tail = per_dtype("tail", _tail)
"""(u, u₁, u₂, u₃) → E at u, and the divided differences of E between u and each of the others.

Those of e are (1 + u₁) times that of E, and E(u) more.
"""


def _sine(real: Any) -> Callable[[float], float]:
    series = polynomial(SINE_SINGLE if real is np.float32 else SINE_DOUBLE, 2)

    def sine(x: float) -> float:
        value: float = x * series(x * x)
        return value

    return sine


sine = per_dtype("sine", _sine)
"""sin x for 0 ≤ x ≤ π, with an error of an ulp of 1."""

# Up to the largest a² of a rule, the integrals are exact to rounding with its number of nodes:
# (largest a², crowding, nodes). The nodes are those t of Gauss-Legendre in [−1, 1], mapped to χ/Ω
# by the Gudermannian function of crowding·t.
RULES = ((0.1, 0.0, 14), (0.5, 0.0, 16), (2.25, 0.0, 18), (4.0, 0.0, 20), (16.0, 1.5, 24),
         (100.0, 1.5, 28), (1e3, 2.5, 40), (math.inf, 4.0, 56))  # fmt: skip

A, AXIS, SCALE = range(3)  # rows of a sample's coefficients: a, e(a)/√(2π), p√q/√K
BLOCK = 64  # columns at a time
# Rows of the working memory: Ω, sinθ, and the integrals of 1 − y e(y), of 2 − α e(α) − β e(β) and
# of α(e(α) − e(y)) + β(e(β) − e(y)), the last divided by ab
OMEGA, SINE, BOTH, SINGLE, DIFFERENCE = range(5)
_working = stack_array(5, BLOCK)


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    wide_vectors()
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, zero = real(1), real(2), real(0.5), real(0)
    per_two_pi, c = real(0.5 / math.pi), real(CENTRE)
    two_c = two * c
    working = _working(one)
    omega, sines, n_both = working[OMEGA], working[SINE], working[BOTH]
    n_single, d_over_ab = working[SINGLE], working[DIFFERENCE]
    pairs, lam = int(parameters[0]), parameters[1]
    a, axis, scale = row[A, 0], row[AXIS, 0], row[SCALE, 0]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        count = end - begin
        # Numba knows that no index into these slices is negative
        z_n, w_n = z[begin:end], w[begin:end]
        bs, axis_columns, scales = (
            columns[A, begin:end],
            columns[AXIS, begin:end],
            columns[SCALE, begin:end],
        )
        for j in range(count):
            omega[j], sines[j] = supplement(z_n[j], w_n[j])
            n_both[j], n_single[j], d_over_ab[j] = zero, zero, zero
        for pair in range(pairs):
            chi_over_omega, weight = parameters[2 + 2 * pair], parameters[3 + 2 * pair]
            for j in range(count):
                b = bs[j]
                sine_chi, sine_rest = (
                    sine(omega[j] * chi_over_omega),
                    sine(omega[j] * (one - chi_over_omega)),
                )
                # The two nodes change places if the samples do, so they are added first.
                both, single, difference = zero, zero, zero
                for mirrored in range(2):
                    s_row, s_column = (sine_rest, sine_chi) if mirrored else (sine_chi, sine_rest)
                    alpha, beta = a * s_row, b * s_column
                    y_a, y_b = alpha + c, beta + c
                    y = (alpha + beta) + c
                    per_product = one / (y * (y_a * y_b))
                    per_y, per_a, per_b = (
                        per_product * (y_a * y_b),
                        per_product * (y * y_b),
                        per_product * (y * y_a),
                    )
                    u = fma(two_c, per_y, -one)
                    e_per, slope, slope_a, slope_b = tail(
                        u, u, fma(two_c, per_a, -one), fma(two_c, per_b, -one)
                    )
                    # e(α) = e(y) + 2cβ/(y + c)·step_a,  e(β) = e(y) + 2cα/(y + c)·step_b
                    two_c_per_y = two_c * per_y
                    e = two_c_per_y * e_per
                    step_a = per_a * fma(two_c * per_a, slope_a, e_per)
                    step_b = per_b * fma(two_c * per_b, slope_b, e_per)
                    e_a, e_b = (
                        fma(two_c_per_y * beta, step_a, e),
                        fma(two_c_per_y * alpha, step_b, e),
                    )
                    both += (two_c_per_y * per_y) * fma(two_c_per_y, slope, e_per)
                    single += fma(-alpha, e_a, one) + fma(-beta, e_b, one)
                    difference += (s_row * s_column) * (two_c_per_y * (step_a + step_b))
                n_both[j] = fma(weight, both, n_both[j])
                n_single[j] = fma(weight, single, n_single[j])
                d_over_ab[j] = fma(weight, difference, d_over_ab[j])
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(count):
            cosine = w_n[j] - z_n[j]
            angle_over_two_pi = per_two_pi * omega[j]
            s = sines[j]
            per_a, per_b = one / fma(a, s, c), one / fma(bs[j], s, c)
            e_per_a, slope_a, _, _ = tail(fma(two_c, per_a, -one), one, one, one)
            e_per_b, slope_b, _, _ = tail(fma(two_c, per_b, -one), one, one, one)
            epsilons = two * (
                per_a * fma(two, slope_a, e_per_a) + per_b * fma(two, slope_b, e_per_b)
            )
            g_sum = (axis + axis_columns[j]) - angle_over_two_pi * n_single[j]
            d_term = lam * (angle_over_two_pi * d_over_ab[j])
            kernel = fma(per_two_pi, s, angle_over_two_pi * cosine)
            kernel = fma(lam, fma(cosine, g_sum, -(per_two_pi * s) * epsilons) + d_term, kernel)
            rate_value = fma(lam, fma(lam, angle_over_two_pi * n_both[j], g_sum), angle_over_two_pi)
            scales_product = scale * scales[j]
            cosine_k = scales_product * kernel
            z_out[j], w_out[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
            rate_out[j] = scales_product * rate_value


loop = DualLoop(_fill_row)
"""The loop of any variances. `parameters` returns its parameters, and a sample has the coefficients
`A`, `AXIS` and `SCALE`."""


def parameters(lam: float, largest: float) -> tuple[float, ...]:
    """Return the number of pairs of nodes, λ, and for each pair χ/Ω of one node and its weight.

    The other node of a pair has 1 − χ/Ω and the same weight.

    lam : λ
    largest : the largest a² = q/τ²
    """
    _, crowding, count = next(r for r in RULES if largest <= r[0])
    t, weights = gauss_legendre(count)
    if crowding:
        gudermannian = np.arctan(np.sinh(extended(crowding)))
        weights = weights * crowding / np.cosh(crowding * t) / gudermannian
        t = np.arctan(np.sinh(crowding * t)) / gudermannian
    half = zip((1 + t[: count // 2]) / 2, weights[: count // 2] / 2, strict=True)
    return (count / 2, lam, *(float(v) for pair in half for v in pair))
