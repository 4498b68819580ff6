"""K = Σ â_k â'_k ρ^k and its derivative for a row of pairs, many pairs at a time in registers.

The coefficients belong to samples. Horner's rule from the highest power down gives the polynomial p
and, by synthetic division, its derivative d: two fused multiply-adds and a product a term. Odd and
even functions have every second term only, and are polynomials in ρ².
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ntk_numba.activations.base import Floats
from ntk_numba.jit import arrays_of
from ntk_numba.row import Row

BLOCK_BYTES = 256  # of pairs that are in registers at a time


def _horner(width_bytes: int) -> Any:
    """(r, p, d, mine, theirs, first, count, j) → None, for a block of pairs from j on."""

    @intrinsic
    def horner(
        typingctx: Any,
        r: Any,
        p: Any,
        d: Any,
        mine: Any,
        theirs: Any,
        first: Any,
        count: Any,
        j: Any,
    ) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            r, p, d, mine, theirs, first, count, j = arrays_of(context, builder, signature, args)
            single = signature.args[0].dtype == types.float32
            real = ir.FloatType() if single else ir.DoubleType()
            size = 4 if single else 8
            width = max(1, width_bytes // size)
            vector, lane, index = ir.VectorType(real, width), ir.IntType(32), j.type
            fma = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{width}f{8 * size}",
            )
            every = ir.Constant(ir.VectorType(lane, width), [0] * width)

            def at(data: ir.Value, place: ir.Value) -> ir.Value:
                return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

            def load(data: ir.Value, place: ir.Value) -> ir.Value:
                value = builder.load(at(data, place))
                value.align = size
                return value

            my_stride = cgutils.unpack_tuple(builder, mine.shape)[1]
            their_stride = cgutils.unpack_tuple(builder, theirs.shape)[1]
            x = load(r.data, j)
            totals = [cgutils.alloca_once(builder, vector) for _ in range(2)]
            for total in totals:
                builder.store(ir.Constant(vector, [0.0] * width), total)
            with cgutils.for_range_slice(builder, index(0), count, index(1)) as (k, _):
                # from the last term to the first
                term = builder.sub(builder.add(first, builder.sub(count, k)), index(1))
                own = builder.load(builder.gep(mine.data, [builder.mul(term, my_stride)]))
                own = builder.insert_element(vector(ir.Undefined), own, lane(0))
                own = builder.shuffle_vector(own, vector(ir.Undefined), every)
                other = load(theirs.data, builder.add(builder.mul(term, their_stride), j))
                value, slope = (builder.load(total) for total in totals)
                builder.store(builder.call(fma, [slope, x, value]), totals[1])
                product = builder.fmul(own, other)
                builder.store(builder.call(fma, [value, x, product]), totals[0])
            for total, out in zip(totals, (p, d), strict=True):
                builder.store(builder.load(total), at(out.data, j)).align = size
            return context.get_dummy_value()

        k = types.intp
        return types.void(r, p, d, mine, theirs, k, k, k), codegen

    return horner


_block, _one = _horner(BLOCK_BYTES), _horner(0)


def _row(
    z: Floats, w: Floats, zk: Floats, wk: Floats, rate: Floats,
    mine: Floats, theirs: Floats, parameters: Floats,
) -> None:  # fmt: skip
    first, count, parity = np.int64(2), np.int64(parameters[0]), np.int64(parameters[1])
    half, two = z.dtype.type(0.5), z.dtype.type(2)
    n, width = z.size, BLOCK_BYTES // z.itemsize
    for j in range(n):
        rho = w[j] - z[j]
        rate[j] = rho if parity == 0 else rho * rho
    if n >= width:
        for j in range(0, n - width + 1, width):
            _block(rate, zk, wk, mine, theirs, first, count, j)
        _block(rate, zk, wk, mine, theirs, first, count, n - width)  # some of them once more
    else:
        for j in range(n):
            _one(rate, zk, wk, mine, theirs, first, count, j)
    for j in range(n):
        p, d, rho = zk[j], wk[j], w[j] - z[j]
        if parity < 0:
            rate[j] = p + two * (rho * rho) * d
            p = p * rho
        elif parity > 0:
            rate[j] = two * rho * d
        else:
            rate[j] = d
        zk[j], wk[j] = half - half * p, half + half * p


row = Row(_row)
"""Takes (terms, parity) and, after the curve, the coefficients of the terms that a parity has."""
