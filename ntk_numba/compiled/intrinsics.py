"""Operations that Numba does not offer, as intrinsics that write LLVM code."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


def as_arrays(context: Any, builder: ir.IRBuilder, value_types: Any, values: Any) -> list[Any]:
    """Return values of the code that is being generated, with arrays as structures of fields."""
    return [
        context.make_array(t)(context, builder, v) if isinstance(t, types.Array) else v
        for t, v in zip(value_types, values, strict=True)
    ]


def arrays_of(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """Return the arguments of an intrinsic, with arrays as structures of fields."""
    return as_arrays(context, builder, signature.args, args)


def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a·b + c with one rounding, the same on all machines (``llvm.fma`` vectorises)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.fma(*args)

    return a(a, a, a), codegen


fma: Any = intrinsic(_fma)


def _take_number(typingctx: Any, counter: Any) -> Any:
    """Increase counter[0] by one atomically, and return its value before."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        first = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", first, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), codegen


take_number: Any = intrinsic(_take_number)


def _lock(typingctx: Any, locks: Any, i: Any) -> Any:
    """Wait until locks[i] is 0, and set it to 1, so that no other thread passes before `unlock`.

    It is meant for a few thousand instructions: a thread that waits keeps its core busy.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        word = ir.IntType(64)
        array = context.make_array(signature.args[0])(context, builder, args[0])
        at = builder.gep(array.data, [args[1]])
        wait, done = builder.append_basic_block("wait"), builder.append_basic_block("locked")
        builder.branch(wait)
        builder.position_at_end(wait)
        before = builder.atomic_rmw("xchg", at, word(1), "acquire")
        builder.cbranch(builder.icmp_unsigned("==", before, word(0)), done, wait)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(locks, types.intp), codegen


def _unlock(typingctx: Any, locks: Any, i: Any) -> Any:
    """Set locks[i] to 0, after all that this thread has written since `lock`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        at = builder.gep(array.data, [args[1]])
        builder.atomic_rmw("xchg", at, ir.IntType(64)(0), "release")
        return context.get_dummy_value()

    return types.void(locks, types.intp), codegen


lock: Any = intrinsic(_lock)
unlock: Any = intrinsic(_unlock)


def _extreme(comparison: str) -> Any:
    """Make an intrinsic that returns the smaller or the larger of two numbers.

    Neither may be NaN; a loop that had to handle NaN would not vectorise.
    """

    def extreme(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            flags = ("nnan", "nsz")
            first = builder.fcmp_ordered(comparison, *args, flags=flags)
            return builder.select(first, *args, flags=flags)

        return a(a, a), codegen

    return intrinsic(extreme)


smaller: Any = _extreme("<")
larger: Any = _extreme(">")


def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """Return 2^n of the float n + 1.5·2^(bits of the mantissa), whose last bits are n."""
    bits = 23 if shifted == types.float32 else 52

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        integer = ir.IntType(32 if bits == 23 else 64)
        one = ((1 << (7 if bits == 23 else 10)) - 1) << bits  # the bits of 1.0
        n = builder.shl(builder.bitcast(args[0], integer), integer(bits))
        return builder.bitcast(builder.add(n, integer(one)), args[0].type)

    return shifted(shifted), codegen


power_of_two: Any = intrinsic(_power_of_two)


def _exponent_of(typingctx: Any, x: Any) -> Any:
    """Return n of a positive normal float64 from 2^n to 2^(n+1), as a float64."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        integer = ir.IntType(64)
        bits = builder.lshr(builder.bitcast(args[0], integer), integer(52))
        return builder.sitofp(builder.sub(bits, integer(1023)), ir.DoubleType())

    return types.float64(types.float64), codegen


exponent_of: Any = intrinsic(_exponent_of)


def polynomial(coefficients: tuple[float, ...], chains: int = 1) -> Any:
    """Make an intrinsic that evaluates a polynomial by Horner's rule, in the dtype of its argument.

    The operations are written out one by one. A loop over the coefficients would give the same, but
    LLVM does not unroll a long one, and then does not vectorise the loop around it.

    coefficients : highest power first
    chains : see `_horner`
    """

    @intrinsic
    def horner(typingctx: Any, x: Any) -> Any:
        real = np.float32 if x == types.float32 else np.float64

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            constants = [ir.Constant(args[0].type, float(real(c))) for c in coefficients]
            return _horner(builder, args[0], constants[::-1], chains)

        return x(x), codegen

    return horner


def sample_polynomial(double: int, single: int, chains: int) -> Any:
    """Make an intrinsic that evaluates a polynomial whose coefficients are those of a sample.

    The intrinsic takes (x, coefficients, first, j). The coefficient of x^m is
    coefficients[first + m, j].

    double, single : the numbers of terms in float64 and in float32
    chains : see `_horner`
    """

    @intrinsic
    def horner(typingctx: Any, x: Any, coefficients: Any, first: Any, j: Any) -> Any:
        count = single if x == types.float32 else double

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            x, coefficients, first, j = arrays_of(context, builder, signature, args)
            stride = cgutils.unpack_tuple(builder, coefficients.shape)[1]
            at = [builder.gep(coefficients.data, [builder.add(builder.mul(first, stride), j)])]
            for _ in range(count - 1):
                at.append(builder.gep(at[-1], [stride]))
            return _horner(builder, x, [builder.load(a) for a in at], chains)

        return x(x, coefficients, types.intp, types.intp), codegen

    return horner


def _horner(
    builder: ir.IRBuilder, x: ir.Value, coefficients: list[ir.Value], chains: int
) -> ir.Value:
    """Return Σ c_m x^m by Horner's rule in x^chains, for each of `chains` parts of the sum.

    Each operation of a chain waits for the one before it. In a long chain the processor waits too,
    since it cannot look far enough ahead to work on other columns meanwhile.
    """
    power = x
    for _ in range(chains - 1):
        power = builder.fmul(power, x)
    parts = []
    for first in range(chains):
        part = coefficients[first::chains]
        value = part[-1]
        for c in part[-2::-1]:
            value = builder.fma(value, power, c)
        parts.append(value)
    value = parts[-1]
    for part in parts[-2::-1]:
        value = builder.fma(value, x, part)
    return value


def stack_array(rows: int, columns: int) -> Any:
    """Make an intrinsic that returns an array on the stack, for functions that cannot allocate.

    The dtype of the array is that of the argument of the intrinsic.
    """

    @intrinsic
    def on_stack(typingctx: Any, like: Any) -> Any:
        array_type = types.Array(like, 2, "C")

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            number, size = args[0].type, context.get_abi_sizeof(args[0].type)
            data = cgutils.alloca_once(
                builder, number, size=context.get_constant(types.intp, rows * columns)
            )
            data.align = 64
            array = context.make_array(array_type)(context, builder)
            index = context.get_constant
            populate_array(
                array, data, [index(types.intp, n) for n in (rows, columns)],
                [index(types.intp, n * size) for n in (columns, 1)],
                index(types.intp, size), None,
            )  # fmt: skip
            return array._getvalue()

        return array_type(like), codegen

    return on_stack


def _wide_vectors(typingctx: Any) -> Any:
    """Let the loops of the calling function use the widest vectors of the processor.

    By default LLVM uses 256 bits at most on some processors with AVX-512, since early ones lowered
    their clock rate for 512.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        # llvmlite checks names against a list that has no attributes with values, so it is
        # bypassed.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


wide_vectors: Any = intrinsic(_wide_vectors)


def divided_differences(coefficients: tuple[float, ...]) -> Any:
    """Make an intrinsic that returns p(x) of a polynomial and three of its divided differences.

    It takes x and three numbers y, which may equal x. A divided difference is
    (p(x) − p(y))/(x − y).

    coefficients : highest power first
    """

    @intrinsic
    def differences(typingctx: Any, x: Any, first: Any, second: Any, third: Any) -> Any:
        real = np.float32 if x == types.float32 else np.float64
        out = types.UniTuple(x, 4)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            x, *others = args
            constants = [ir.Constant(x.type, float(real(c))) for c in coefficients]
            value, slopes = constants[0], [ir.Constant(x.type, 0.0)] * 3
            for c in constants[1:]:
                slopes = [builder.fma(s, y, value) for s, y in zip(slopes, others, strict=True)]
                value = builder.fma(value, x, c)
            return context.make_tuple(builder, out, [value, *slopes])

        return out(x, first, second, third), codegen

    return differences
