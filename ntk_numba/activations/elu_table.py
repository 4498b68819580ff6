"""The dual of ELU from a table of the integrals of `elu_integral`, for variances up to 2.25τ².

For a, b up to √`LARGEST`, D(a, b)/ab is, to rounding, a polynomial in u(a), u(b) and Ω, where
u = a/(a + c), and so are the terms that belong to one sample. With Chebyshev polynomials T_n and
symmetric C_mn(Ω) = C_nm(Ω),

    D/ab = Σ_mn C_mn T_m(u) T_n(u') = Σ_n [T_n(u) p_n(u', Ω) + T_n(u') p_n(u, Ω)]
    p_n(u, Ω) = C_nn T_n(u)/2 + Σ_m>n C_mn T_m(u)

The coefficients of p_n, by powers of Ω, belong to one sample, and the terms of the sum are
symmetric in the samples bit for bit. C_mn falls as 10^−(m+n), so few n are needed, and for larger
ones fewer powers of Ω.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ntk_numba.activations.elu_integral import SCALE, A
from ntk_numba.compiled.intrinsics import arrays_of, fma, stack_array, wide_vectors
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.compiled.vectors import Vectors, blocks, for_any_length
from ntk_numba.duals.quadrature import gauss_legendre
from ntk_numba.duals.special import supplement
from ntk_numba.extended import PI, Extended, concatenate, extended, stack, where
from ntk_numba.extended.chebyshev import points, series, to_coefficients, to_powers
from ntk_numba.function import Floats

LARGEST = 2.25  # the largest a² that the table is for
CENTRE = 5.0  # c
POWERS = 26  # the number of powers of Ω
BASIS = 12  # the number of Chebyshev polynomials of u
# The numbers of powers of Ω in p_n, n = 0, 1, …
TERMS = (26, 26, 26, 26, 23, 23, 17, 17)
LONG, MIDDLE = 4, 6  # the first n that have 23 and 17
REACH = 9  # the integral over the radius ends here, where its integrand is below 1e-16
NODES = 20  # nodes of the integral over the angle

# The first rows of a sample's coefficients after those of `elu_integral`: T_n(u), and the
# coefficients, by powers of Ω, of p_n and of the terms of K and of K̇ that belong to one sample
BASIS_ROW = 3
PAIR_ROW = BASIS_ROW + len(TERMS)
VALUE_ROW = PAIR_ROW + sum(TERMS)
SLOPE_ROW = VALUE_ROW + POWERS

BLOCK = 128  # columns at a time
# Rows of the working memory: Ω; sinθ, later K; 2Ω/π − 1; D/ab, later K̇; terms of one sample
OMEGA, SINE, VARIABLE, PAIR, VALUE, SLOPE = range(6)
_working = stack_array(6, BLOCK)


def _summing(groups: tuple[tuple[int, int, int, int], ...], size: int) -> Any:
    """Make an intrinsic that fills Σ_n T_n(u) p_n(u') + T_n(u') p_n(u), by blocks of `size` bytes.

    groups : the first and the last n of p_n with one number of powers, that number, and the first
        row of their coefficients
    """

    @intrinsic
    def fill(
        typingctx: Any, out: Any, variable: Any, row: Any, columns: Any, begin: Any
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            out, variable, row, columns, begin = arrays_of(context, builder, signature, args)
            vectors = Vectors(builder, signature.args[0].dtype, size)
            index = begin.type
            count = cgutils.unpack_tuple(builder, out.shape)[0]
            stride = cgutils.unpack_tuple(builder, columns.shape)[1]
            row_stride = cgutils.unpack_tuple(builder, row.shape)[1]
            total, of_row, of_column = (vectors.variable() for _ in range(3))
            with blocks(builder, count, vectors.width) as j:
                x, column = vectors.load(variable.data, j), builder.add(begin, j)
                builder.store(vectors.zero, total)
                for first, end, powers, first_row in groups:
                    number = index(end - first)
                    with cgutils.for_range_slice(builder, index(0), number, index(1)) as (n, _):
                        rows = builder.add(builder.mul(n, index(powers)), index(first_row))
                        builder.store(vectors.zero, of_row)
                        builder.store(vectors.zero, of_column)
                        terms = index(powers)
                        with cgutils.for_range_slice(builder, index(0), terms, index(1)) as (k, _):
                            m = builder.add(rows, builder.sub(index(powers - 1), k))
                            c = vectors.in_all_lanes(row.data, builder.mul(m, row_stride))
                            at = builder.add(builder.mul(m, stride), column)
                            builder.store(vectors.fma(builder.load(of_row), x, c), of_row)
                            c = vectors.load(columns.data, at)
                            builder.store(vectors.fma(builder.load(of_column), x, c), of_column)
                        m = builder.add(n, index(BASIS_ROW + first))
                        own = vectors.in_all_lanes(row.data, builder.mul(m, row_stride))
                        other = vectors.load(
                            columns.data, builder.add(builder.mul(m, stride), column)
                        )
                        # each product is rounded, so that the samples may change places
                        both = builder.fadd(
                            builder.fmul(other, builder.load(of_row)),
                            builder.fmul(own, builder.load(of_column)),
                        )
                        builder.store(builder.fadd(builder.load(total), both), total)
                vectors.store(builder.load(total), out.data, j)
            return context.get_dummy_value()

        return types.void(out, variable, row, columns, types.intp), codegen

    return fill


def _filling(*groups: tuple[int, int, int, int]) -> Callable[..., None]:
    """Make a function that fills such sums for any number of columns."""
    return for_any_length(lambda size: _summing(groups, size))


_fill_pair = _filling(
    (0, LONG, TERMS[0], PAIR_ROW),
    (LONG, MIDDLE, TERMS[LONG], PAIR_ROW + sum(TERMS[:LONG])),
    (MIDDLE, len(TERMS), TERMS[MIDDLE], PAIR_ROW + sum(TERMS[:MIDDLE])),
)
_fill_value, _fill_slope = (_filling((0, 1, POWERS, row)) for row in (VALUE_ROW, SLOPE_ROW))


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    wide_vectors()
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, half = real(1), real(0.5)
    two_over_pi, per_two_pi = real(2) / real(np.pi), real(0.5 / np.pi)
    working = _working(one)
    omega, sines, variable, pair = working[OMEGA], working[SINE], working[VARIABLE], working[PAIR]
    value, slope = working[VALUE], working[SLOPE]
    lam_squared, one_minus_lam_squared = parameters[0], parameters[1]
    a, scale = row[A, 0], row[SCALE, 0]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        count = end - begin
        z_n, w_n = z[begin:end], w[begin:end]
        bs, scales = columns[A, begin:end], columns[SCALE, begin:end]
        for j in range(count):
            omega[j], sines[j] = supplement(z_n[j], w_n[j])
            variable[j] = fma(two_over_pi, omega[j], -one)
        of_angle = variable[:count]
        _fill_pair(pair[:count], of_angle, row, columns, begin)
        _fill_value(value[:count], of_angle, row, columns, begin)
        _fill_slope(slope[:count], of_angle, row, columns, begin)
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(count):
            omega[j] *= per_two_pi
            pair[j] *= lam_squared
            sines[j] = fma(per_two_pi, sines[j], omega[j] * (w_n[j] - z_n[j])) + pair[j]
            pair[j] = fma(a * bs[j], pair[j], one_minus_lam_squared * omega[j])
            sines[j] += value[j]
            pair[j] += slope[j]
        for j in range(count):
            scales_product = scale * scales[j]
            cosine_k = scales_product * sines[j]
            z_out[j], w_out[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
            rate_out[j] = scales_product * pair[j]


loop = DualLoop(_fill_row)
"""The loop of small variances. `parameters` returns its parameters, and a sample has first the
coefficients of `elu_integral`, then those of `coefficients`."""


def parameters(lam: float) -> tuple[float, ...]:
    """Return λ² and 1 − λ²."""
    return lam**2, 1 - lam**2


def coefficients(lam: float, a: Extended, axis: Extended) -> Extended:
    """Return the rows of coefficients from `BASIS_ROW` on.

    lam : λ
    a, axis : (N,) a and e(a)/√(2π) of the samples
    """
    u = _variable(a)
    pairs, of_both = (series(u, table) for table in _tables())
    alone = of_both.reshape(2, POWERS, a.size)
    value, slope = lam * alone[1], (extended(lam) ** 2 - lam) * alone[0]
    slope[0] += lam * axis
    basis = [extended(np.ones(u.shape)), u]
    while len(basis) < len(TERMS):
        basis.append(2 * u * basis[-1] - basis[-2])
    return concatenate([stack(basis), pairs, value, slope])


def _variable(a: Extended) -> Extended:
    """Return 2u(a)/u(√LARGEST) − 1."""
    top = math.sqrt(LARGEST)
    return 2 * (a / (a + CENTRE)) * ((top + CENTRE) / top) - 1


@cache
def _tables() -> tuple[Extended, Extended]:
    """Return the tables of pairs, (BASIS, sum of TERMS), and of one sample, (BASIS, 2·POWERS).

    The first is of the p_n, one after the other; the second is of N(a, 0) and of

        H(a) = cosθ g(a) − (sinθ/2π) ε(a sinθ).

    Both have the Chebyshev coefficients in u of the coefficients of powers of 2Ω/π − 1.
    """
    top = math.sqrt(LARGEST)
    u = (points(BASIS) + 1) / 2 * (top / (top + CENTRE))
    a = CENTRE * u / (1 - u)
    column = a.reshape(BASIS, 1)
    omega = (points(POWERS) + 1) / 2 * PI
    x, weights = gauss_legendre()
    r = ((1 + x) / 2 + np.arange(REACH)[:, None]).reshape(-1)
    density = concatenate([weights / 2] * REACH) * np.exp(-r * r / 2)
    x, weights = gauss_legendre(NODES)
    chi, weights = (1 + x) / 2, (weights / 2).reshape(NODES, 1)
    pairs = extended(np.zeros((BASIS, BASIS, POWERS)))
    alone = extended(np.zeros((BASIS, 2, POWERS)))
    for k, angle in enumerate(omega):
        # 1 − exp(−α r) with α = a sinχ; with its columns reversed, 1 − exp(−β r)
        sines = np.sin(angle * chi).reshape(NODES, 1)
        one_minus_exp = -np.expm1(-sines * a.reshape(BASIS, 1, 1) * r)
        weighted = (one_minus_exp * (weights * density * r)).reshape(BASIS, -1)
        reversed_ = one_minus_exp[:, ::-1].reshape(BASIS, -1)
        pairs[:, :, k] = weighted @ reversed_.T / (column * a) * angle / (2 * PI)
        both = angle / (2 * PI) * (1 - weighted.sum(axis=1))
        s = np.sin(angle)
        weights_of_r = density.reshape(-1, 1)
        axis = (np.exp(-column * r) @ weights_of_r)[:, 0] / np.sqrt(2 * PI)
        epsilon = (-np.expm1(-s * column * r) @ weights_of_r)[:, 0] / (s * a)
        alone[:, 0, k] = both
        alone[:, 1, k] = -np.cos(angle) * (axis - both) - s / (2 * PI) * epsilon
    # in two steps: a product of these matrices would lose digits
    in_angle, in_u, powers = to_coefficients(POWERS), to_coefficients(BASIS), to_powers(POWERS)
    pairs = (in_u @ pairs.reshape(BASIS, -1)).reshape(BASIS, BASIS, POWERS)
    alone = (in_u @ alone.reshape(BASIS, -1)).reshape(BASIS * 2, POWERS) @ in_angle.T
    pairs = stack([in_u @ of_first @ in_angle.T for of_first in pairs])
    own = []
    for n, terms in enumerate(TERMS):
        table = where(np.arange(BASIS)[:, None] < n, 0, pairs[:, n, :terms])
        table[n] = table[n] / 2
        own.append(table @ powers[:terms, :terms].T)
    return concatenate(own, axis=1), (alone @ powers.T).reshape(BASIS, 2 * POWERS)
