"""Inner products and distances of all vectors of one set with all vectors of another.

Vectors lie in panels, (panels, n0, P): P = 16 of them in float64, 32 in float32, side by side in
128 bytes. The same layout serves rows and columns, is made once for all tiles, and is loaded in
whole aligned vectors. The sums stay in registers.

A sum runs over the features in order, each term by one fused multiply-add, in runs of at most
`BLOCK` terms, which are added in float64. So the bits of an entry depend on its two vectors alone,
and neither on its place nor on how wide the processor's vectors are. Libraries promise neither
(the float32 product of OpenBLAS has other bits at the edges of its blocks), and they lose several
more bits in float32, where they sum hundreds of terms.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ntk_numba.compiled.arrays import aligned
from ntk_numba.compiled.intrinsics import arrays_of
from ntk_numba.compiled.policy import njit
from ntk_numba.function import Floats

PANEL_BYTES = 128

# The number of features that are multiplied while the sums are in registers, which is also the
# longest sum in float32. It is the largest with the promised accuracy: 128 features take 5 %
# longer, 400 are 1 % faster (Zen 4).
BLOCK = 200

# The bytes of each row of a strip that are multiplied with all columns before the next bytes are.
# With this number, those of all rows of a strip stay in the second-level cache (twice as many are
# 3 % slower).
RESIDENT_BYTES = 6400

# The number of rows whose sums are in registers at once, 128 bytes each: two thirds of all
# registers.
ROWS = 8 if llvm.get_host_cpu_features().get("avx512f") else 2

# A function that writes the code of s + a term, from (builder, fma, left, y, s), where left has one
# number or two
Emit = Callable[[ir.IRBuilder, ir.Value, list[ir.Value], ir.Value, ir.Value], ir.Value]


def panel_width(dtype: Any) -> int:
    """Return P, the number of vectors in a panel."""
    return PANEL_BYTES // np.dtype(dtype).itemsize


def empty_panels(count: int, features: int, dtype: Any) -> Floats:
    """Return panels for `count` vectors, with zeros after them: (panels, n0, P)."""
    width = panel_width(dtype)
    panels = aligned((-(-count // width), features, width), dtype)
    panels[count // width :] = 0
    return panels


def multiply(
    b: ir.IRBuilder, fma: ir.Value, left: list[ir.Value], y: ir.Value, s: ir.Value
) -> ir.Value:
    """Write the code of s + x·y."""
    return b.call(fma, [left[0], y, s])


def _square_difference(
    b: ir.IRBuilder, fma: ir.Value, left: list[ir.Value], y: ir.Value, s: ir.Value
) -> ir.Value:
    """Write the code of s + (x − y)²."""
    d = b.fsub(left[0], y)
    return b.call(fma, [d, d, s])


def _square_sum(
    b: ir.IRBuilder, fma: ir.Value, left: list[ir.Value], y: ir.Value, s: ir.Value
) -> ir.Value:
    """Write the code of s + ((x + y) + shift)²."""
    x, shift = left
    d = b.fadd(b.fadd(x, y), shift)
    return b.call(fma, [d, d, s])


def sums_of(emit: Emit, vectors: int, numbers: int = 1) -> Any:
    """Make an intrinsic that sums a term over features k0 to k1, for vectors with those of a panel.

    The intrinsic takes (out, i, j, left, start, step, apart, panel, k0, k1). Its sums go
    to out[i + r, j : j + P], and are added to what is there unless k0 = 0. Element k of vector r is
    left[start + k·step + r·apart], left being flat. panel: (n0, P).

    LLVM is given vectors of 128 bytes and splits them into the registers that the machine has.

    emit : writes the code of one term, as `multiply` does
    vectors : how many vectors there are on the left
    numbers : how many numbers a term takes from the left
    """

    @intrinsic
    def sums(
        typingctx: Any,
        out: Any,
        i: Any,
        j: Any,
        left: Any,
        start: Any,
        step: Any,
        apart: Any,
        panel: Any,
        k0: Any,
        k1: Any,
    ) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            out, i, j, left, start, step, apart, panel, k0, k1 = arrays_of(
                context, builder, signature, args
            )
            single = signature.args[3].dtype == types.float32
            real = ir.FloatType() if single else ir.DoubleType()
            size = 4 if single else 8
            width = PANEL_BYTES // size
            vector = ir.VectorType(real, width)
            wide = ir.VectorType(ir.DoubleType(), width)
            index, lane = k0.type, ir.IntType(32)
            fma = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{width}f{8 * size}",
            )

            all_lanes = ir.Constant(ir.VectorType(lane, width), [0] * width)
            zero, wide_zero = (ir.Constant(t, [0.0] * width) for t in (vector, wide))
            totals = [cgutils.alloca_once(builder, vector) for _ in range(vectors)]
            for total in totals:
                builder.store(zero, total)
            with cgutils.for_range_slice(builder, k0, k1, index(1)) as (k, _):
                at = builder.gep(panel.data, [builder.mul(k, index(width))])
                y = builder.load(builder.bitcast(at, vector.as_pointer()))
                y.align = size
                first = builder.add(start, builder.mul(k, step))
                for r, total in enumerate(totals):
                    taken = []
                    vector_at = builder.add(first, builder.mul(index(r), apart))
                    for number in range(numbers):
                        at = builder.gep(left.data, [builder.add(vector_at, index(number))])
                        x = builder.insert_element(vector(ir.Undefined), builder.load(at), lane(0))
                        taken.append(builder.shuffle_vector(x, vector(ir.Undefined), all_lanes))
                    builder.store(emit(builder, fma, taken, y, builder.load(total)), total)
            begun = builder.icmp_signed("!=", k0, index(0))
            length = cgutils.unpack_tuple(builder, out.shape)[1]
            for r, total in enumerate(totals):
                value = builder.load(total)
                value = builder.fpext(value, wide) if single else value
                at = builder.add(builder.mul(builder.add(i, index(r)), length), j)
                address = builder.bitcast(builder.gep(out.data, [at]), wide.as_pointer())
                before = builder.load(address)
                before.align = 8
                before = builder.select(begun, before, wide_zero)
                builder.store(builder.fadd(before, value), address).align = 8
            return context.get_dummy_value()

        return types.void(
            out, types.intp, types.intp, left, types.intp, types.intp, types.intp, panel,
            types.intp, types.intp,
        ), codegen  # fmt: skip

    return sums


_inner_products = sums_of(multiply, ROWS)
_square_distances = sums_of(_square_difference, 1)
_square_sums = sums_of(_square_sum, 1, numbers=2)


@njit
def _section(k: int, sections: int, length: int) -> tuple[int, int]:
    """Return where section k begins and ends if a length is split into equal `sections`."""
    return k * length // sections, (k + 1) * length // sections


@njit
def inner_products(
    product: Floats, rows: Floats, i0: int, count: int, columns: Floats, j0: int, width: int
) -> None:
    """Compute product[r, c] = vector i0 + r of `rows` · vector j0 + c of `columns`.

    This is done for r < count and c < width.

    product : (·, ·) float64, C-contiguous
    rows, columns : panels
    i0, count, j0, width : multiples of P
    """
    panel, features = rows.shape[2], rows.shape[1]
    flat = rows.reshape(-1)
    resident = -(-features * rows.itemsize // RESIDENT_BYTES)
    for section in range(resident):
        begin, end = _section(section, resident, features)
        blocks = -(-(end - begin) // BLOCK)
        for c in range(0, width, panel):
            right = columns[(j0 + c) // panel]
            for block in range(blocks):
                k0, k1 = _section(block, blocks, end - begin)
                for r in range(0, count, ROWS):
                    row = i0 + r
                    start = row // panel * features * panel + row % panel
                    _inner_products(
                        product, r, c, flat, start, panel, 1, right, begin + k0, begin + k1
                    )


@njit
def square_distances(out: Floats, vector: Floats, panel: Floats) -> None:
    """Compute out[0, c] = |vector − vector c of the panel|²; out : (1, P) float64."""
    features = panel.shape[0]
    blocks = -(-features // BLOCK)
    for block in range(blocks):
        k0, k1 = _section(block, blocks, features)
        _square_distances(out, 0, 0, vector, 0, 1, 0, panel, k0, k1)


@njit
def square_sums(out: Floats, vector: Floats, panel: Floats) -> None:
    """Compute out[0, c] = |(vector + vector c of the panel) + shift|²; out : (1, P) float64.

    vector : (2·n0,) the numbers of the vector and of the shift in turn
    """
    features = panel.shape[0]
    blocks = -(-features // BLOCK)
    for block in range(blocks):
        k0, k1 = _section(block, blocks, features)
        _square_sums(out, 0, 0, vector, 0, 2, 0, panel, k0, k1)
