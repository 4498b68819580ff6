"""The loop of odd functions whose Hermite coefficients are smooth functions of the degree.

The dual of an odd σ has the terms â_k â_k' ρ^k of odd degrees k, see `hermite`. Where the terms are
smooth in k, the sum over an octave K ≤ k < 2K of many degrees is, to rounding, a sum over NODES of
them by a rule like Gauss's, whose weights are parts of the coefficients:

    cosθ_K = lone lone' + Σ_{k<FIRST} â_k â_k' ρ^k + Σ_octaves Σ_i (√w_i â_k)(√w_i â_k)' ρ^k,
    k = 2^octave BASE_i

and the rate is the derivative by ρ. All weights are positive. The powers of an octave are the
squares of those of the octave before, and an octave is left out where all of its powers vanish. So
degrees up to 2^40 take a few hundred terms, and those in use of a pair depend on its angle. For
pairs with a small |ρ|, all octaves are below the tolerance and are left out.

Near ρ = ±1 the powers come from 1 − |ρ|^k, which keeps its relative accuracy:
1 − p² = m(2 − m) with m = 1 − p, and m = 2z or 2w for k = 1.
"""

from functools import cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import fma, larger, smaller, stack_array, wide_vectors
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.hermite import CHAIN, GROUP, LONE, THRESHOLDS, sum_chain
from ntk_numba.extended import extended, solve
from ntk_numba.function import Floats

FIRST = 128  # the degree from which degrees are in octaves
NODES = 16  # terms of an octave
LOG_FIRST = 7
EXPLICIT = FIRST // 2  # the odd degrees below FIRST
# The degrees of the first octave: FIRST(3 + x)/2, with the Gauss-Legendre nodes x, as integers
BASE = tuple(int(k) for k in np.rint(FIRST * (3 + legendre.leggauss(NODES)[0]) / 2))
# The largest errors of the rule for Σ_k b_k u^k/k = arcsin u and Σ_k b_k u^(k−1) = 1/√(1 − u²),
# b_k = binom(k − 1, (k − 1)/2)/2^(k−1), relative to these, for 0 ≤ u < 1
RULE_ERROR, RULE_ERROR_RATE = 1e-14, 4e-14
LARGEST_SUMMED = 4096  # moments of larger octaves are extrapolated

BLOCK = 64  # columns at a time
# Smaller powers are set to 0; products of two larger ones are in the normal range of float32,
# outside of which processors are slow.
VANISHED = 1e-18
# Rows of the working memory; the last two are the sums over octaves
COSINE, HIGH, SLOPE = range(3)
_sums = stack_array(3, BLOCK)
_squares, _rests = stack_array(LOG_FIRST + 1, BLOCK), stack_array(LOG_FIRST + 1, BLOCK)
_powers, _complements = stack_array(NODES, BLOCK), stack_array(NODES, BLOCK)


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    wide_vectors()
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, zero = real(1), real(2), real(0.5), real(0)
    vanished, lowest = real(VANISHED), parameters[2]
    terms, octaves = int(parameters[0]), int(parameters[1])
    threshold = parameters[THRESHOLDS + terms // GROUP] if octaves > 0 else two  # cosθ is below
    sums, squares, rests = _sums(one), _squares(one), _rests(one)
    powers, complements = _powers(one), _complements(one)
    cosine, high, slope = sums[COSINE], sums[HIGH], sums[SLOPE]
    for j in range(z.size):
        c = one - two * smaller(z[j], w[j])
        wk[j] = c * c
    sum_chain(wk, zk, rate, row, columns, terms, parameters)
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        count = end - begin
        z_n, w_n = z[begin:end], w[begin:end]
        any_counts = False
        first, rest_first = squares[0], rests[0]
        for j in range(count):
            rest = two * smaller(z_n[j], w_n[j])
            c = one - rest
            cosine[j] = c
            counts = c * c >= threshold
            first[j], rest_first[j] = (c, rest) if counts else (zero, one)
            any_counts |= counts
            high[j], slope[j] = zero, zero
        if any_counts:
            nearest = zero
            for s in range(LOG_FIRST):
                before, rest_before = squares[s], rests[s]
                after, rest_after = squares[s + 1], rests[s + 1]
                for j in range(count):
                    m1 = fma(-rest_before[j], rest_before[j], two * rest_before[j])
                    rest_after[j] = m1
                    p2 = before[j] * before[j]
                    p2 = p2 if p2 > vanished else zero
                    after[j] = one - m1 if m1 < half else p2
            last, last_rest = squares[LOG_FIRST], rests[LOG_FIRST]
            for j in range(count):
                nearest = larger(nearest, last[j])
            if nearest > zero:
                for i in range(NODES):
                    power, complement = powers[i], complements[i]
                    for j in range(count):
                        power[j], complement[j] = last[j], last_rest[j]
                    for s in range(LOG_FIRST):
                        if (BASE[i] >> s) & 1:
                            factor, factor_rest = squares[s], rests[s]
                            for j in range(count):
                                m1 = fma(-complement[j], factor_rest[j], factor_rest[j])
                                m1 += complement[j]
                                p2 = power[j] * factor[j]
                                p2 = p2 if p2 > vanished else zero
                                complement[j] = m1
                                power[j] = one - m1 if m1 < half else p2
            octave, scale = 0, one
            while nearest > zero and octave < octaves:
                nearest = zero
                for i in range(NODES):
                    at = CHAIN + terms + octave * NODES + i
                    own, others = row[at, 0], columns[at, begin:end]
                    power, complement = powers[i], complements[i]
                    degree = scale * real(BASE[i])
                    for j in range(count):
                        term = (own * others[j]) * power[j]
                        high[j] += term
                        slope[j] = fma(degree, term, slope[j])
                        m1 = fma(-complement[j], complement[j], two * complement[j])
                        complement[j] = m1
                        p2 = power[j] * power[j]
                        p2 = p2 if p2 > vanished else zero
                        power[j] = one - m1 if m1 < half else p2
                        nearest = larger(nearest, power[j])
                octave += 1
                scale *= two
        lone, lones = row[LONE, 0], columns[LONE, begin:end]
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(count):
            p, d, square = z_out[j], rate_out[j], w_out[j]
            of_odd = fma(cosine[j], p, high[j])
            lone_product = lone * lones[j]
            cosine_k = of_odd + lone_product if z_n[j] <= w_n[j] else lone_product - of_odd
            cosine_k = smaller(larger(cosine_k, lowest), one)
            z_out[j], w_out[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
            low = fma(two * square, d, p)
            rate_out[j] = low + slope[j] / larger(cosine[j], vanished)


octave_loop = DualLoop(_fill_row)
"""The loop. Its parameters are the number of single degrees, the number of octaves, the least
cosθ_K, and the thresholds of the single degrees (see `hermite.thresholds`), followed by that of the
octaves, if any. A sample's coefficients are that of degree 0, the unit coefficients of odd degrees,
and those of the octaves times the roots of `rule`'s weights."""


@cache
def rule(octaves: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the degrees and the weights of all terms but the lone one.

    The weights of an octave K ≤ k < 2K make sums over its odd degrees exact for polynomials of
    degree below NODES. In large octaves they are K(v + c/K²) to rounding.
    """
    positions = 2 * np.array(BASE) / FIRST - 3  # of the nodes in [−1, 1]
    matrix = legendre.legvander(positions, NODES - 1).T

    def solution(moments: NDArray[np.float64]) -> NDArray[np.float64]:
        return solve(extended(matrix), extended(moments[:, None])).astype(float)[:, 0]

    def weights(first: int) -> NDArray[np.float64]:
        odd = np.arange(first + 1, 2 * first, 2)
        moments = legendre.legvander(2 * odd / first - 3, NODES - 1).sum(axis=0)
        return solution(moments / first)

    limit = solution(np.eye(1, NODES)[0] / 2)
    correction = (weights(LARGEST_SUMMED // 4) - limit) * (LARGEST_SUMMED / 4) ** 2
    degrees, out = [np.arange(1, FIRST, 2.0)], [np.ones(EXPLICIT)]
    for octave in range(octaves):
        first = FIRST * 2.0**octave
        small = first <= LARGEST_SUMMED
        relative = weights(int(first)) if small else limit + correction / first**2
        degrees.append(np.array(BASE) * 2.0**octave)
        out.append(first * relative)
    return np.concatenate(degrees), np.concatenate(out)
