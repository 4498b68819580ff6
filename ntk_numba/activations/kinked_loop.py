"""The loop of piecewise-linear functions with any kinks: sums over pairs of kinks, see `kinked`."""

import math

import numpy as np

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
from ntk_numba.duals.special import angle_excess, exponentials
from ntk_numba.function import Floats

LARGEST_D = 8.3067  # larger |d| are replaced by this: R² is then beyond `owen.FAR`, and G(d) is ½

# The rows of a sample's coefficients; the last three are sums over the kinks within reach:
# m/√K, p√(q/K), √(q/K), Σg, Σg·G(h), Σg·(exp(−h²/2) − 1)
MEAN, SLOPE, SCALE, SUM_G, SUM_GG, SUM_EXP = range(6)
FIRST = 6
# and for each |t|: h, G(h), 4φ(h), whether it is within reach, and F's coefficients unless t = 0
H, G, DENSITY, WITHIN, COEFFICIENTS = range(5)

# A term: the first row of |t_i| and of |t_j|, their signs, whether they are not 0, the weight, and
# whether it is held until the next one
TERM = 8

BLOCK = 128  # columns at a time: all of their working memory is in the first cache
# Rows of the working memory; FLAT is 1 − 2θ/π, and RATE, SUM and EXP are sums over the terms. The
# HELD ones are those of the first term of two that change places if the samples do. They are added
# to each other first, so that a pair has the same bits whichever of its samples is the row.
SINE, PER_SINE, COSINE, FLAT, RATE, SUM, EXP, D_H, D_K, U_H, U_K, RADIUS, F = range(13)
HELD_RATE, HELD_SUM, HELD_EXP = range(13, 16)
_working = stack_array(16, BLOCK)
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
    held_rates, held_sums, held_exps = working[HELD_RATE], working[HELD_SUM], working[HELD_EXP]
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
            held_rates[j], held_sums[j], held_exps[j] = zero, zero, zero
        for term in range(int(parameters[0])):
            start = 2 + TERM * term
            a, b = int(parameters[start]), int(parameters[start + 1])
            sign_a, sign_b = parameters[start + 2], parameters[start + 3]
            h, g_h = sign_a * row[a + H, 0], sign_a * row[a + G, 0]
            density = row[a + DENSITY, 0]
            weight = parameters[start + 6] * row[a + WITHIN, 0]
            hold = parameters[start + 7]
            add = one - hold
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
                radius[j] = half * (fma(dh, dh, h * h) + fma(dk, dk, k * k))  # equal terms
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
                    f[j] += (sign_b * d_k[j]) * of_k
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
                mixed = (k * density) * (g_d_h - g_k) + (h * densities[j]) * (g_d_k - g_h)
                new_rate = held_rates[j] + pair_weight * f_sum
                new_sum = held_sums[j] + pair_weight * fma(h * k, coupling, mixed)
                new_exp = held_exps[j] + pair_weight * exp_minus_one
                held_rates[j], held_sums[j] = hold * new_rate, hold * new_sum
                held_exps[j] = hold * new_exp
                rates[j] += add * new_rate
                sums[j] += add * new_sum
                exps[j] += add * new_exp
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
            peak -= sum_g * sum_exps[j] + sum_exp * sum_gs[j] + sum_exp * sum_exps[j]
            kernel = fma(cosine[j], k_dot, fma(two_over_pi, peak, sums[j]))
            scale_product = scale * scales[j]
            line_product = line_row * line_columns[j]
            cosine_k = fma(scale_product, kernel, fma(cosine[j], line_product, mean * means[j]))
            cosine_k = smaller(larger(cosine_k, parameters[1]), one)
            z_out[j], w_out[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
            rate_out[j] = fma(scale_product, k_dot, line_product)


loop = DualLoop(_fill_row)
"""The loop of `kinked.Kinked`, which has its parameters and the coefficients of its samples."""
