"""The transpose of a block, by squares that fit the registers.

Element by element, writing a tile's mirror image took as long as two layers of the recursion.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ntk_numba.engine.products import Floats
from ntk_numba.jit import njit

SQUARE_BYTES = 64  # to a row of a square: a cache line, 8 entries of float64 or 16 of float32


@intrinsic
def _transpose_square(typingctx: Any, out: Any, i: Any, j: Any, block: Any, r: Any, c: Any) -> Any:
    """out[i : i + S, j : j + S] = block[r : r + S, c : c + S].T, S = 8 or 16 for the dtype.

    log₂S times, each row of the upper half is interleaved with the one S/2 below: with the rows as
    the digits of a number and the columns as the rest of it, each time moves one digit across.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        out, i, j, block, r, c = (
            context.make_array(t)(context, builder, a) if isinstance(t, types.Array) else a
            for t, a in zip(signature.args, args, strict=True)
        )
        single = signature.args[0].dtype == types.float32
        real, size = (ir.FloatType(), 4) if single else (ir.DoubleType(), 8)
        side = SQUARE_BYTES // size
        vector = ir.VectorType(real, side)

        def address(array: Any, row: ir.Value, k: int, column: ir.Value) -> ir.Value:
            length = cgutils.unpack_tuple(builder, array.shape)[1]
            start = builder.mul(builder.add(row, row.type(k)), length)
            at = builder.gep(array.data, [builder.add(start, column)])
            return builder.bitcast(at, vector.as_pointer())

        rows = [builder.load(address(block, r, k, c)) for k in range(side)]
        for row in rows:
            row.align = size
        lanes = ir.VectorType(ir.IntType(32), side)
        low = [k // 2 + side * (k % 2) for k in range(side)]
        for _ in range(side.bit_length() - 1):
            pairs = list(zip(rows[: side // 2], rows[side // 2 :], strict=True))
            rows = [
                builder.shuffle_vector(a, b, ir.Constant(lanes, [k + shift for k in low]))
                for a, b in pairs
                for shift in (0, side // 2)
            ]
        for k, row in enumerate(rows):
            builder.store(row, address(out, i, k, j)).align = size
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, block, types.intp, types.intp), codegen


@njit
def transpose(
    out: Floats, to_row: int, to_col: int, block: Floats, row: int, col: int, height: int,
    width: int, lead: int,
) -> None:  # fmt: skip
    """Write the transpose of block[row : row + height, col : col + width] to out[to_row:, to_col:].

    lead : of row i the first i + lead entries only; `width` or more for all
    """
    square = SQUARE_BYTES // out.itemsize
    for j0 in range(0, width, square):
        for i0 in range(max(0, j0 - lead) // square * square, height, square):
            if i0 + square <= height and j0 + square <= min(width, i0 + lead):
                _transpose_square(out, to_row + j0, to_col + i0, block, row + i0, col + j0)  # type: ignore[call-arg]
                continue
            for j in range(j0, min(j0 + square, width)):
                for i in range(max(i0, j + 1 - lead), min(i0 + square, height)):
                    out[to_row + j, to_col + i] = block[row + i, col + j]
