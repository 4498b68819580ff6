"""Vectors of columns, for intrinsics that keep sums in registers.

LLVM vectorises a loop over columns that contains one over terms only if it unrolls the inner one.
It then reads the coefficients of each column from as many places as there are terms, and checks
before the loop that none of them overlaps the results.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

from ntk_numba.compiled.policy import njit

# The bytes of a block of columns, of which a few sums are in registers at once
BLOCK_BYTES = 256 if llvm.get_host_cpu_features().get("avx512f") else 128
VECTOR_BYTES = 32  # the same for rows shorter than a block


class Vectors:
    """Operations on vectors of a dtype, for the code that an intrinsic generates.

    size : the bytes of a vector, if that is at least one number
    """

    def __init__(self, builder: ir.IRBuilder, dtype: Any, size: int) -> None:
        single = dtype == types.float32
        self._builder = builder
        self.real = ir.FloatType() if single else ir.DoubleType()
        self.item = 4 if single else 8
        self.width = max(1, size // self.item)
        self.type = ir.VectorType(self.real, self.width)
        self.zero = ir.Constant(self.type, [0.0] * self.width)

    def variable(self) -> ir.Value:
        """Return a place for a vector, which LLVM keeps in registers."""
        return cgutils.alloca_once(self._builder, self.type)

    def load(self, data: ir.Value, at: ir.Value) -> ir.Value:
        """Return the vector that begins with a number of an array."""
        return self._builder.load(self._place(data, at), align=self.item)

    def store(self, vector: ir.Value, data: ir.Value, at: ir.Value) -> None:
        """Write a vector to an array."""
        self._builder.store(vector, self._place(data, at), align=self.item)

    def _place(self, data: ir.Value, at: ir.Value) -> ir.Value:
        builder = self._builder
        return builder.bitcast(builder.gep(data, [at]), self.type.as_pointer())

    def in_all_lanes(self, data: ir.Value, at: ir.Value) -> ir.Value:
        """Return a vector whose numbers are all the same one of an array."""
        builder, lane = self._builder, ir.IntType(32)
        value = builder.load(builder.gep(data, [at]))
        value = builder.insert_element(self.type(ir.Undefined), value, lane(0))
        first = ir.Constant(ir.VectorType(lane, self.width), [0] * self.width)
        return builder.shuffle_vector(value, self.type(ir.Undefined), first)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a·b + c with one rounding."""
        return self._builder.call(self._library("fma", self.type, 3), [a, b, c])

    def magnitudes(self, vector: ir.Value) -> ir.Value:
        """Return |v| of all numbers v."""
        return self._builder.call(self._library("fabs", self.type, 1), [vector])

    def largest(self, vector: ir.Value) -> ir.Value:
        """Return the largest number; none may be NaN."""
        function = self._library("vector.reduce.fmax", self.real, 1)
        return self._builder.call(function, [vector], fastmath=("nnan",))

    def _library(self, name: str, result: Any, arguments: int) -> Any:
        of_type = ir.FunctionType(result, [self.type] * arguments)
        full = f"llvm.{name}.v{self.width}f{8 * self.item}"
        return cgutils.get_or_insert_function(self._builder.module, of_type, full)


@contextlib.contextmanager
def blocks(builder: ir.IRBuilder, n: ir.Value, width: int) -> Iterator[ir.Value]:
    """Generate code for each block of columns, from the number of its first one.

    There must be at least one block. The last one ends with the last column; it computes again the
    columns that it shares with the block before.
    """
    index = n.type
    last = builder.sub(n, index(width))
    with cgutils.for_range_slice(builder, index(0), n, index(width)) as (begin, _):
        yield builder.select(builder.icmp_signed("<", begin, last), begin, last)


def for_any_length(make: Callable[[int], Any]) -> Callable[..., None]:
    """Return a compiled function of a row of any length, from one of rows of at least a vector.

    make : size → an intrinsic whose first argument is a row of at least `size` bytes, or of at
        least one number
    """
    by_blocks, by_vectors, one_by_one = make(BLOCK_BYTES), make(VECTOR_BYTES), make(1)

    @njit
    def any_length(first: Any, *others: Any) -> None:
        if first.nbytes >= BLOCK_BYTES:
            by_blocks(first, *others)
        elif first.nbytes >= VECTOR_BYTES:
            by_vectors(first, *others)
        else:
            one_by_one(first, *others)

    return any_length
