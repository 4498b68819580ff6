"""The loop of activations whose dual is a series in ρ = cosθ, by Horner's rule in registers.

With the samples' unit coefficients â_k = a_k/√E[σ²] of orthonormal Hermite polynomials,

    cosθ_K = Σ_k â_k â_k' ρ^k,   rate = Σ_k k â_k â_k' ρ^(k−1)

Most activations are even or odd except for a constant or a linear term, so the series is

    lone + Σ_m c_m ρ^(first + step·m),   step = 2, the lone term of degree 1 − first

and p = Σ c_m x^m and d = dp/dx, x = ρ^step, are computed together by synthetic division from the
highest power down: one product and two fused multiply-adds per term. The coefficients of a block of
columns are loaded once per term and the sums stay in registers, which LLVM does not achieve for a
loop over columns that contains a loop over terms.

Condition: that of the series, Σ|c_m|/√(Σâ²Σâ'²) ≤ 1 for K; for the rate, the same with its terms.
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import arrays_of, fma
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.compiled.policy import njit
from ntk_numba.extended.sums import Doubles
from ntk_numba.function import Floats

MOST_TERMS = 1040  # room for the terms of a series; `duals.series` goes to degree 1024

# A sample's coefficients after its last one of at least this size are set to 0. They are rounding
# noise, whose products would leave the normal range of the dtype, where processors are slow.
NOISE = 1e-16

# The bytes of a block of columns; x, two sums and a product of each column are in registers at once
BLOCK_BYTES = 256 if llvm.get_host_cpu_features().get("avx512f") else 128
VECTOR_BYTES = 32  # the same for rows shorter than a block

LONE, CHAIN = 0, 1  # the rows of a sample's coefficients


def _horner(size: int) -> Any:
    """Return a function that computes p and d of all columns from x, by blocks of `size` bytes.

    There must be at least one block. The last one ends with the last column; it computes again the
    columns that it shares with the block before.
    """

    @intrinsic
    def horner(
        typingctx: Any, x: Any, p: Any, d: Any, row: Any, columns: Any, terms: Any
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            x, p, d, row, columns, terms = arrays_of(context, builder, signature, args)
            single = signature.args[0].dtype == types.float32
            real, item = (ir.FloatType(), 4) if single else (ir.DoubleType(), 8)
            width = max(1, size // item)
            vector, lane = ir.VectorType(real, width), ir.IntType(32)
            index = terms.type
            fused = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{width}f{8 * item}",
            )
            all_lanes_0 = ir.Constant(ir.VectorType(lane, width), [0] * width)
            zero = ir.Constant(vector, [0.0] * width)
            n = cgutils.unpack_tuple(builder, x.shape)[0]
            stride = cgutils.unpack_tuple(builder, columns.shape)[1]
            row_stride = cgutils.unpack_tuple(builder, row.shape)[1]

            def block(data: ir.Value, at: ir.Value) -> ir.Value:
                return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())

            # the coefficients of the row's sample, contiguous
            own = cgutils.alloca_once(builder, real, size=index(MOST_TERMS))
            with cgutils.for_range_slice(builder, index(0), terms, index(1)) as (m, _):
                at_row = builder.add(m, index(CHAIN))
                value = builder.load(builder.gep(row.data, [builder.mul(at_row, row_stride)]))
                builder.store(value, builder.gep(own, [m]))
            value_p, value_d = (cgutils.alloca_once(builder, vector) for _ in range(2))
            last = builder.sub(n, index(width))
            with cgutils.for_range_slice(builder, index(0), n, index(width)) as (begin, _):
                j = builder.select(builder.icmp_signed("<", begin, last), begin, last)
                variable = builder.load(block(x.data, j), align=item)
                builder.store(zero, value_p)
                builder.store(zero, value_d)
                with cgutils.for_range_slice(builder, index(0), terms, index(1)) as (k, _):
                    m = builder.sub(builder.sub(terms, index(1)), k)
                    row_m = builder.load(builder.gep(own, [m]))
                    row_m = builder.insert_element(vector(ir.Undefined), row_m, lane(0))
                    row_m = builder.shuffle_vector(row_m, vector(ir.Undefined), all_lanes_0)
                    at_row = builder.add(m, index(CHAIN))
                    at = builder.add(builder.mul(at_row, stride), j)
                    column_m = builder.load(block(columns.data, at), align=item)
                    product = builder.fmul(row_m, column_m)
                    before = builder.load(value_p)
                    slope = builder.call(fused, [builder.load(value_d), variable, before])
                    builder.store(slope, value_d)
                    builder.store(builder.call(fused, [before, variable, product]), value_p)
                builder.store(builder.load(value_p), block(p.data, j), align=item)
                builder.store(builder.load(value_d), block(d.data, j), align=item)
            return context.get_dummy_value()

        return types.void(x, p, d, row, columns, types.intp), codegen

    return horner


_by_blocks, _by_vectors, _one_by_one = _horner(BLOCK_BYTES), _horner(VECTOR_BYTES), _horner(1)


@njit
def sum_chain(x: Floats, p: Floats, d: Floats, row: Floats, columns: Floats, terms: int) -> None:
    """Fill p = Σ_m c_m x^m and d = dp/dx of a row of pairs, from the rows `CHAIN` + m."""
    if x.nbytes >= BLOCK_BYTES:
        _by_blocks(x, p, d, row, columns, terms)
    elif x.nbytes >= VECTOR_BYTES:
        _by_vectors(x, p, d, row, columns, terms)
    else:
        _one_by_one(x, p, d, row, columns, terms)


def _fill_row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, two, half, zero = real(1), real(2), real(0.5), real(0)
    terms, first, step = int(parameters[0]), parameters[1], parameters[2]
    for j in range(z.size):
        cosine = w[j] - z[j]
        wk[j] = cosine if step == one else cosine * cosine
    sum_chain(wk, zk, rate, row, columns, terms)
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


class Chain(NamedTuple):
    """The degrees of a series that are summed by Horner's rule.

    They are first, first + step, first + 2 step and so on.

    first : 0 or 1
    step : 1; or 2 for functions that are even except for a linear term, or odd except for a
        constant one. This term is then the lone term, of degree 1 − first
    """

    first: int
    step: int

    def parameters(self, count: int) -> tuple[float, float, float]:
        """Return the loop's parameters for a series of `count` degrees: terms, first, step."""
        return float(len(range(self.first, count, self.step))), float(self.first), float(self.step)

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
