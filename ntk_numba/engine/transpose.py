"""Copy blocks of results to the output, or write their transposes, by lines of the cache.

Writing the mirror image of a tile element by element took as long as two layers of the recursion.

Whole lines are written past the cache where possible. A matrix is larger than the cache, and the
processor otherwise reads a line before it writes it, which is half of all traffic. Lines are whole
if the output begins at one, which `compiled.arrays.aligned` ensures, and its rows are a whole
number of lines long.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ntk_numba.compiled.intrinsics import arrays_of
from ntk_numba.compiled.policy import njit
from ntk_numba.function import Floats

LINE_BYTES = 64  # 8 entries of float64 or 16 of float32


class _Lines:
    """Writer of the code that loads and stores lines in arrays of one dtype."""

    def __init__(self, builder: ir.IRBuilder, array: types.Array) -> None:
        self._builder = builder
        real, self._size = (
            (ir.FloatType(), 4) if array.dtype == types.float32 else (ir.DoubleType(), 8)
        )
        self.length = LINE_BYTES // self._size
        self._vector = ir.VectorType(real, self.length)

    def _address(self, array: Any, i: ir.Value, j: ir.Value) -> ir.Value:
        """Return the address of array[i, j]; the array is C-contiguous."""
        b = self._builder
        width = cgutils.unpack_tuple(b, array.shape)[1]
        at = b.gep(array.data, [b.add(b.mul(i, width), j)])
        return b.bitcast(at, self._vector.as_pointer())

    def load(self, array: Any, i: ir.Value, j: ir.Value) -> ir.Value:
        """Return array[i, j : j + length] as a vector."""
        value = self._builder.load(self._address(array, i, j))
        value.align = self._size
        return value

    def store(
        self, values: list[ir.Value], array: Any, i: ir.Value, j: ir.Value, whole: ir.Value
    ) -> None:
        """Store array[i + k, j : j + length] = values[k], past the cache if lines are whole."""
        one = ir.Constant(ir.IntType(32), 1)
        past_cache = self._builder.module.add_metadata([one])
        with self._builder.if_else(whole) as branches:
            for branch, is_whole in zip(branches, (True, False), strict=True):
                with branch:
                    for k, value in enumerate(values):
                        at = self._address(array, self._builder.add(i, i.type(k)), j)
                        store = self._builder.store(value, at)
                        store.align = LINE_BYTES if is_whole else self._size
                        if is_whole:
                            store.set_metadata("nontemporal", past_cache)

    def are_whole(self, array: Any, i: ir.Value, j: ir.Value) -> ir.Value:
        """Return whether array[i, j] and the entries below it begin lines of the cache."""
        b = self._builder
        at = b.ptrtoint(self._address(array, i, j), i.type)
        stride = cgutils.unpack_tuple(b, array.strides)[0]
        remainder = b.and_(b.or_(at, stride), i.type(LINE_BYTES - 1))
        return b.icmp_unsigned("==", remainder, i.type(0))


@intrinsic
def _are_whole(typingctx: Any, out: Any, i: Any, j: Any) -> Any:
    """Return whether the lines of the cache are whole in a block that begins at out[i, j]."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        out, i, j = arrays_of(context, builder, signature, args)
        return _Lines(builder, signature.args[0]).are_whole(out, i, j)

    return types.boolean(out, types.intp, types.intp), codegen


@intrinsic
def _copy_line(
    typingctx: Any, out: Any, i: Any, j: Any, block: Any, r: Any, c: Any, whole: Any
) -> Any:
    """Copy out[i, j : j + S] = block[r, c : c + S], S = 8 or 16 for the dtype."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        out, i, j, block, r, c, whole = arrays_of(context, builder, signature, args)
        lines = _Lines(builder, signature.args[0])
        lines.store([lines.load(block, r, c)], out, i, j, whole)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, block, types.intp, types.intp, whole), codegen


@intrinsic
def _transpose_square(
    typingctx: Any, out: Any, i: Any, j: Any, block: Any, r: Any, c: Any, whole: Any
) -> Any:
    """Write out[i : i + S, j : j + S] = block[r : r + S, c : c + S].T, S = 8 or 16 for the dtype.

    log₂S times, each row of the upper half is interleaved with the row S/2 below it. If the number
    of the row and that of the column are written as binary digits one after the other, each of
    these steps moves one digit from the row to the column.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        out, i, j, block, r, c, whole = arrays_of(context, builder, signature, args)
        lines = _Lines(builder, signature.args[0])
        size = lines.length
        rows = [lines.load(block, builder.add(r, r.type(k)), c) for k in range(size)]
        lanes = ir.VectorType(ir.IntType(32), size)
        low = [k // 2 + size * (k % 2) for k in range(size)]
        for _ in range(size.bit_length() - 1):
            pairs = list(zip(rows[: size // 2], rows[size // 2 :], strict=True))
            rows = [
                builder.shuffle_vector(a, b, ir.Constant(lanes, [k + shift for k in low]))
                for a, b in pairs
                for shift in (0, size // 2)
            ]
        lines.store(rows, out, i, j, whole)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, block, types.intp, types.intp, whole), codegen


@njit
def copy(
    out: Floats, to_row: int, to_col: int, block: Floats, height: int, width: int, lead: int,
) -> None:  # fmt: skip
    """Write block[:height, :width] to out[to_row:, to_col:].

    lead : only the first i + lead entries of row i are written; `width` or more for all
    """
    line = LINE_BYTES // out.itemsize
    whole: bool = _are_whole(out, to_row, to_col)  # type: ignore[call-arg]
    for i in range(height):
        length = min(width, i + lead)
        lines = length // line * line
        if whole:  # outside the loop: a branch in it takes 5 % of a job of few features
            for j in range(0, lines, line):
                _copy_line(out, to_row + i, to_col + j, block, i, j, True)
        else:
            for j in range(0, lines, line):
                _copy_line(out, to_row + i, to_col + j, block, i, j, False)
        for j in range(lines, length):
            out[to_row + i, to_col + j] = block[i, j]


@njit
def transpose(
    out: Floats, to_row: int, to_col: int, block: Floats, height: int, width: int, lead: int,
) -> None:  # fmt: skip
    """Write the transpose of block[:height, :width] to out[to_row:, to_col:].

    lead : see `copy`
    """
    square = LINE_BYTES // out.itemsize
    whole: bool = _are_whole(out, to_row, to_col)  # type: ignore[call-arg]
    for j0 in range(0, width, square):
        for i0 in range(max(0, j0 - lead) // square * square, height, square):
            if i0 + square <= height and j0 + square <= min(width, i0 + lead):
                _transpose_square(out, to_row + j0, to_col + i0, block, i0, j0, whole)
                continue
            for j in range(j0, min(j0 + square, width)):
                for i in range(max(i0, j + 1 - lead), min(i0 + square, height)):
                    out[to_row + j, to_col + i] = block[i, j]
