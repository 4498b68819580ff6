"""Inner products and distances of all vectors of one set with those of another, in registers.

Vectors lie in panels, (panels, n0, P): P = 16 of them in float64, 32 in float32, side by side in
128 bytes. One layout serves as rows and as columns, is made once for all tiles, and is loaded by
whole aligned vectors.

A sum runs over the features in order, each term by one fused multiply-add, in the vectors' dtype
over runs of at most `RUN` features; the runs are added in float64. So an entry's bits depend on its
two vectors and on nothing else: not on its place, nor on how wide the processor's vectors are.
Libraries promise neither (OpenBLAS's float32 product has other bits at the edges of its blocks),
and lose several bits more in float32, where they sum hundreds of terms.
"""

import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ntk_numba.jit import njit

Floats = NDArray[np.floating]

PANEL_BYTES = 128

# By bytes of an entry. Features summed in one run: in float32 as many as keep the promised
# accuracy, in float64 what fits the first-level cache (on Zen 4, half as many were 4 % slower).
RUN = {4: 128, 8: 256}

# Rows whose sums are in registers at once, 128 bytes each, 256 when float32 is widened. Twice as
# many in float32 were 4 % slower, half as many in float64 1 to 3 %; with AVX2, 4 in float64 15 %.
ROWS_AT_ONCE = {4: 4, 8: 8} if llvm.get_host_cpu_features().get("avx512f") else {4: 2, 8: 2}

Emit = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value, ir.Value], ir.Value]


def panel_width(dtype: Any) -> int:
    """P, the vectors in a panel."""
    return PANEL_BYTES // np.dtype(dtype).itemsize


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin at a cache line, where vector loads are cheapest."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    raw.fill(0)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def empty_panels(count: int, features: int, dtype: Any) -> Floats:
    """Zeros for `count` vectors: (panels, n0, P)."""
    width = panel_width(dtype)
    return aligned((-(-count // width), features, width), dtype)


def _multiply(b: ir.IRBuilder, fma: ir.Value, x: ir.Value, y: ir.Value, s: ir.Value) -> ir.Value:
    return b.call(fma, [x, y, s])


def _square_difference(
    b: ir.IRBuilder, fma: ir.Value, x: ir.Value, y: ir.Value, s: ir.Value
) -> ir.Value:
    d = b.fsub(x, y)
    return b.call(fma, [d, d, s])


def _sums(emit: Emit, rows_at_once: dict[int, int], stride: int | None) -> Any:
    """Sums over features k0 to k1 of a term of some vectors with those of a panel.

    The jitted function returned takes (out, i, j, left, start, panel, k0, k1). Its sums go to
    out[i + r, j : j + P], and are added to what is there unless k0 = 0. Element k of vector r is
    left[start + k·stride + r], left being flat; `stride` None stands for P. panel: (n0, P).

    LLVM is given vectors of 128 bytes and splits them into what registers the machine has.
    """

    @intrinsic
    def sums(
        typingctx: Any,
        out: Any,
        i: Any,
        j: Any,
        left: Any,
        start: Any,
        panel: Any,
        k0: Any,
        k1: Any,
    ) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            out, i, j, left, start, panel, k0, k1 = (
                context.make_array(t)(context, builder, a) if isinstance(t, types.Array) else a
                for t, a in zip(signature.args, args, strict=True)
            )
            single = signature.args[3].dtype == types.float32
            real = ir.FloatType() if single else ir.DoubleType()
            size = 4 if single else 8
            rows = rows_at_once[size]
            width = PANEL_BYTES // size
            vector = ir.VectorType(real, width)
            wide = ir.VectorType(ir.DoubleType(), width)
            index, lane = k0.type, ir.IntType(32)
            fma = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{width}f{8 * size}",
            )

            def load(address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
                value = builder.load(builder.bitcast(address, kind.as_pointer()))
                value.align = align
                return value

            total = [cgutils.alloca_once(builder, vector) for _ in range(rows)]
            for t in total:
                builder.store(ir.Constant(vector, [0.0] * width), t)
            with cgutils.for_range_slice(builder, k0, k1, index(1)) as (k, _):
                row = builder.mul(k, index(width))
                y = load(builder.gep(panel.data, [row]), vector, size)
                first = builder.add(start, builder.mul(k, index(stride or width)))
                for r, t in enumerate(total):
                    x = builder.load(builder.gep(left.data, [builder.add(first, index(r))]))
                    one = builder.insert_element(vector(ir.Undefined), x, lane(0))
                    every = ir.Constant(ir.VectorType(lane, width), [0] * width)
                    x = builder.shuffle_vector(one, vector(ir.Undefined), every)
                    builder.store(emit(builder, fma, x, y, builder.load(t)), t)
            begun = builder.icmp_signed("!=", k0, index(0))
            length = cgutils.unpack_tuple(builder, out.shape)[1]
            for r, t in enumerate(total):
                at = builder.add(builder.mul(builder.add(i, index(r)), length), j)
                address = builder.bitcast(builder.gep(out.data, [at]), wide.as_pointer())
                before = builder.load(address)
                before.align = 8
                before = builder.select(begun, before, ir.Constant(wide, [0.0] * width))
                value = builder.load(t)
                value = builder.fpext(value, wide) if single else value
                builder.store(builder.fadd(before, value), address).align = 8
            return context.get_dummy_value()

        return types.void(
            out, types.intp, types.intp, left, types.intp, panel, types.intp, types.intp
        ), codegen

    return sums


_inner_products = _sums(_multiply, ROWS_AT_ONCE, None)
_square_distances = _sums(_square_difference, {4: 1, 8: 1}, 1)


def _of_dtype(by_size: dict[int, int]) -> Any:
    """A jitted function of an array: the number for its dtype, known when compiling."""
    of_float32, of_float64 = by_size[4], by_size[8]

    @njit
    def number(array: Floats) -> int:
        return of_float32 if array.itemsize == 4 else of_float64

    return number


_longest_run = _of_dtype(RUN)
_rows_at_once = _of_dtype(ROWS_AT_ONCE)


@njit
def inner_products(
    product: Floats, rows: Floats, i0: int, count: int, columns: Floats, j0: int, width: int
) -> None:
    """product[r, c] = vector i0 + r of `rows` · vector j0 + c of `columns`, r < count, c < width.

    product : (·, ·) float64, C-contiguous; rows, columns : panels. All numbers are whole panels.
    """
    panel, features = rows.shape[2], rows.shape[1]
    runs = -(-features // _longest_run(rows))
    together = _rows_at_once(rows)
    flat = rows.reshape(-1)
    for run in range(runs):
        k0, k1 = run * features // runs, (run + 1) * features // runs
        for c in range(0, width, panel):
            right = columns[(j0 + c) // panel]
            for r in range(0, count, together):
                row = i0 + r
                start = row // panel * features * panel + row % panel
                _inner_products(product, r, c, flat, start, right, k0, k1)


@njit
def square_distances(out: Floats, vector: Floats, panel: Floats) -> None:
    """out[0, c] = |vector − vector c of the panel|²; out : (1, P) float64."""
    features = panel.shape[0]
    runs = -(-features // _longest_run(panel))
    for run in range(runs):
        k0, k1 = run * features // runs, (run + 1) * features // runs
        _square_distances(out, 0, 0, vector, 0, panel, k0, k1)
