"""Scalar products of float64 whose bits are the same on all processors.

A compiler that may reassociate a sum adds in as many lanes as the processor's vectors have. Here
the lanes are fixed: product k is added to sum k modulo `CHAINS` by a fused multiply-add, and the
sums are added in pairs at the end. That is as fast, and more exact than one sum.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ntk_numba.compiled.intrinsics import arrays_of

CHAINS = 16


def _scalar_product(typingctx: Any, a: Any, b: Any) -> Any:
    """Return Σ a_k b_k of two contiguous arrays of float64 of the same size."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        a, b = arrays_of(context, builder, signature, args)
        real, index, lane = ir.DoubleType(), context.get_value_type(types.intp), ir.IntType(32)
        vector = ir.VectorType(real, CHAINS)
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{CHAINS}f64"
        )
        zero = ir.Constant(vector, [0.0] * CHAINS)
        sums = cgutils.alloca_once_value(builder, zero)
        n = cgutils.unpack_tuple(builder, a.shape)[0]
        whole = builder.and_(n, index(-CHAINS))

        def block(data: ir.Value, at: ir.Value) -> ir.Value:
            place = builder.bitcast(builder.gep(data, [at]), vector.as_pointer())
            return builder.load(place, align=8)

        def add(left: ir.Value, right: ir.Value) -> None:
            builder.store(builder.call(fused, [left, right, builder.load(sums)]), sums)

        with cgutils.for_range_slice(builder, index(0), whole, index(CHAINS)) as (k, _):
            add(block(a.data, k), block(b.data, k))
        # the products that are left, with zeros in the lanes beyond them
        rest = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
        with cgutils.for_range_slice(builder, whole, n, index(1)) as (k, _):
            at = builder.trunc(builder.sub(k, whole), lane)
            for data, own in zip((a.data, b.data), rest, strict=True):
                value = builder.load(builder.gep(data, [k]))
                builder.store(builder.insert_element(builder.load(own), value, at), own)
        add(*(builder.load(own) for own in rest))
        total, width = builder.load(sums), CHAINS
        while width > 1:
            width //= 2
            halves = (range(width), range(width, 2 * width))
            masks = (ir.Constant(ir.VectorType(lane, width), list(half)) for half in halves)
            total = builder.fadd(*(builder.shuffle_vector(total, total, m) for m in masks))
        return builder.extract_element(total, lane(0))

    return types.float64(a, b), codegen


scalar_product: Any = intrinsic(_scalar_product)
