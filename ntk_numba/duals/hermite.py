"""The loop of activations whose dual is a series in ρ = cosθ, by Horner's rule in registers.

With the samples' unit coefficients â_k = a_k/√E[σ²] of orthonormal Hermite polynomials,

    cosθ_K = Σ_k â_k â_k' ρ^k,   rate = Σ_k k â_k â_k' ρ^(k−1)

Most activations are even or odd except for a constant or a linear term, so the series is

    lone + Σ_m c_m ρ^(first + step·m),   step = 2, the lone term of degree 1 − first

and p = Σ c_m x^m and d = dp/dx, x = ρ^step, are computed together by synthetic division from the
highest power down: one product and two fused multiply-adds per term. The coefficients of a block of
columns are loaded once per term and the sums stay in registers, which LLVM does not achieve for a
loop over columns that contains a loop over terms.

Pairs with a small |ρ| need fewer terms. A term counts for the pairs whose |x| is at least its
threshold (see `thresholds`), which GROUP terms share, and a block of columns begins with the first
group that counts for one of them. So the terms of a pair depend on its angle alone.

Condition: that of the series, Σ|c_m|/√(Σâ²Σâ'²) ≤ 1 for K; for the rate, the same with its terms.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import arrays_of, fma
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.compiled.vectors import Vectors, blocks, for_any_length
from ntk_numba.extended import extended
from ntk_numba.extended.sums import Doubles
from ntk_numba.function import Floats

MOST_TERMS = 1040  # room for the terms of a series; `duals.series` goes to degree 1024

# A sample's coefficients after its last one of at least this size are set to 0. They are rounding
# noise, whose products would leave the normal range of the dtype, where processors are slow.
NOISE = 1e-16

GROUP = 8  # consecutive terms that have one threshold

LONE, CHAIN = 0, 1  # the rows of a sample's coefficients
THRESHOLDS = 3  # the parameters from here on are the thresholds of a loop's groups, ascending


def _horner(size: int) -> Any:
    """Return a function that computes p and d of all columns from x, by blocks of `size` bytes.

    See `compiled.vectors.blocks`.
    """

    @intrinsic
    def horner(
        typingctx: Any, x: Any, p: Any, d: Any, row: Any, columns: Any, terms: Any, parameters: Any
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            x, p, d, row, columns, terms, parameters = arrays_of(context, builder, signature, args)
            vectors = Vectors(builder, signature.args[0].dtype, size)
            index = terms.type
            n = cgutils.unpack_tuple(builder, x.shape)[0]
            stride = cgutils.unpack_tuple(builder, columns.shape)[1]
            row_stride = cgutils.unpack_tuple(builder, row.shape)[1]
            groups = builder.sdiv(builder.add(terms, index(GROUP - 1)), index(GROUP))
            # the coefficients of the row's sample, contiguous
            own = cgutils.alloca_once(builder, vectors.real, size=index(MOST_TERMS))
            with cgutils.for_range_slice(builder, index(0), terms, index(1)) as (m, _):
                at_row = builder.add(m, index(CHAIN))
                value = builder.load(builder.gep(row.data, [builder.mul(at_row, row_stride)]))
                builder.store(value, builder.gep(own, [m]))
            value_p, value_d = vectors.variable(), vectors.variable()
            counting = cgutils.alloca_once(builder, index)
            thresholds = builder.gep(parameters.data, [index(THRESHOLDS)])
            with blocks(builder, n, vectors.width) as j:
                variable = vectors.load(x.data, j)
                of_x = vectors.magnitudes(variable)
                largest = vectors.largest(of_x)
                builder.store(index(0), counting)  # the groups that count for a column
                with cgutils.for_range_slice(builder, index(0), groups, index(1)) as (g, _):
                    threshold = builder.load(builder.gep(thresholds, [g]))
                    counts = builder.fcmp_ordered(">=", largest, threshold)
                    before = builder.load(counting)
                    after = builder.select(counts, builder.add(g, index(1)), before)
                    builder.store(after, counting)
                builder.store(vectors.zero, value_p)
                builder.store(vectors.zero, value_d)
                begun = builder.load(counting)
                with cgutils.for_range_slice(builder, index(0), begun, index(1)) as (i, _):
                    g = builder.sub(builder.sub(begun, index(1)), i)
                    first = builder.mul(g, index(GROUP))
                    end = builder.add(first, index(GROUP))
                    end = builder.select(builder.icmp_signed("<", end, terms), end, terms)
                    count = builder.sub(end, first)
                    with cgutils.for_range_slice(builder, index(0), count, index(1)) as (k, _):
                        m = builder.sub(builder.sub(end, index(1)), k)
                        at_row = builder.add(m, index(CHAIN))
                        at = builder.add(builder.mul(at_row, stride), j)
                        product = builder.fmul(
                            vectors.in_all_lanes(own, m), vectors.load(columns.data, at)
                        )
                        before = builder.load(value_p)
                        slope = vectors.fma(builder.load(value_d), variable, before)
                        builder.store(slope, value_d)
                        builder.store(vectors.fma(before, variable, product), value_p)
                    threshold = vectors.in_all_lanes(thresholds, g)
                    counts = builder.fcmp_ordered(">=", of_x, threshold)
                    for value in (value_p, value_d):
                        kept = builder.select(counts, builder.load(value), vectors.zero)
                        builder.store(kept, value)
                vectors.store(builder.load(value_p), p.data, j)
                vectors.store(builder.load(value_d), d.data, j)
            return context.get_dummy_value()

        return types.void(x, p, d, row, columns, types.intp, parameters), codegen

    return horner


sum_chain = for_any_length(_horner)
"""(x, p, d, row, columns, terms, parameters) → None: fill p = Σ_m c_m x^m and d = dp/dx of a row of
pairs, from the rows `CHAIN` + m."""


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, zero = real(1), real(2), real(0.5), real(0)
    terms, first, step = int(parameters[0]), parameters[1], parameters[2]
    for j in range(z.size):
        cosine = w[j] - z[j]
        wk[j] = cosine if step == one else cosine * cosine
    sum_chain(wk, zk, rate, row, columns, terms, parameters)
    lone, lones = row[LONE, 0], columns[LONE]
    step_is_one = step == one
    first_is_one = first == one
    for j in range(z.size):
        cosine = w[j] - z[j]
        p, d, square = zk[j], rate[j], wk[j]
        lone_product = lone * lones[j]
        if step_is_one:
            cosine_k, slope = p, d
        elif first_is_one:
            cosine_k, slope = fma(cosine, p, lone_product), fma(two * square, d, p)
        else:
            cosine_k, slope = fma(cosine, lone_product, p), fma(two * cosine, d, lone_product)
        cosine_k = cosine_k if abs(cosine_k) <= one else (one if cosine_k > zero else -one)
        zk[j], wk[j] = fma(-half, cosine_k, half), fma(half, cosine_k, half)
        rate[j] = slope


series_loop = DualLoop(_fill_row)
"""The loop of a series. `Chain.parameters` returns its parameters, and `Chain.coefficients` the
coefficients of samples."""


def thresholds(tails: Doubles, allowed: Doubles, first: int, step: int) -> tuple[float, ...]:
    """Return the |x| = |ρ|^step from which the terms of each group count; 0 for the first group.

    Without the terms from degree k on, K of a pair lacks at most |ρ|^k t, and the rate
    |ρ|^(k−1) t₁, where t and t₁ bound the sums of the squares of the coefficients from k on. If
    the number of terms is a multiple of GROUP, the last threshold is that of all further degrees.

    tails : (2, terms) t and t₁ behind each term
    allowed : (2,) what K and the rate of a pair may lack
    first, step : the degrees of the terms are first, first + step, …
    """
    out = [0.0]
    for term in range(GROUP, tails.shape[1] + 1, GROUP):
        degree = first + step * term
        share = allowed / np.maximum(tails[:, term - 1], allowed)
        roots = np.log(extended(share)) / np.array([degree, degree - 1]) * step
        # a little less, since the dtype of the kernels may round it up
        out.append(max(out[-1], float(np.min(np.exp(roots).astype(float))) * (1 - 1e-6)))
    return tuple(out)


class Chain(NamedTuple):
    """The degrees of a series that are summed by Horner's rule.

    They are first, first + step, first + 2 step and so on.

    first : 0 or 1
    step : 1; or 2 for functions that are even except for a linear term, or odd except for a
        constant one. This term is then the lone term, of degree 1 − first
    """

    first: int
    step: int

    def parameters(
        self, count: int, tails: Doubles | None = None, allowed: Doubles | None = None
    ) -> tuple[float, ...]:
        """Return the loop's parameters for a series of `count` degrees.

        These are the number of terms, first, step, and the thresholds.

        tails, allowed : see `thresholds`, with a column of tails for each degree; all terms of all
            pairs count without them
        """
        degrees = range(self.first, count, self.step)
        of_groups: tuple[float, ...] = (0.0,) * -(-len(degrees) // GROUP)
        if tails is not None and allowed is not None:
            of_groups = thresholds(tails[:, list(degrees)], allowed, self.first, self.step)
        return float(len(degrees)), float(self.first), float(self.step), *of_groups

    def mask(self, count: int) -> NDArray[np.bool_]:
        """Return a mask of the degrees 0, 1, …, count − 1 that the loop sums."""
        k = np.arange(count)
        return (k % self.step == self.first) | (k <= 1)

    def coefficients(self, unit: Doubles) -> Doubles:
        """Return the loop's coefficients of samples, (1 + terms, N).

        unit : (degrees, N) the unit coefficients of degree 0, 1, …
        """
        lone = np.zeros_like(unit[:1])
        if self.step == 2 and len(unit) > 1 - self.first:
            lone = unit[1 - self.first : 2 - self.first]
        out = np.concatenate([lone, unit[self.first :: self.step]])
        last = len(out) - np.argmax(abs(out[::-1]) >= NOISE, axis=0)
        out[np.arange(len(out))[:, None] >= last] = 0
        return out
