"""Loops over a row of a tile that are compiled separately and called by their addresses.

The families of activations make a `DualLoop` each, and `engine.rows` calls them by `call_loop`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from ntk_numba.compiled.cache import keep_on_disk
from ntk_numba.compiled.intrinsics import as_arrays
from ntk_numba.compiled.policy import njit

carray: Any = numba.carray  # type: ignore[attr-defined]


def compile_by_address(
    function: Callable[..., None], signature: tuple[Any, Any], **options: Any
) -> Any:
    """Compile a function for a signature; `address` of the result is that of the machine code."""
    compiled: Any = CFunc(function, signature, {}, {"error_model": "numpy", **options})
    keep_on_disk(compiled, function)
    compiled.compile()
    return compiled


class Angles(NamedTuple):
    """The angles of a row of pairs, before and behind an activation: arrays (n,) of one dtype.

    z, w : sin²(θ/2) and cos²(θ/2)
    zk, wk, rate : z_K, w_K and the rate, which a `DualLoop` fills in
    """

    z: Any
    w: Any
    zk: Any
    wk: Any
    rate: Any


class Coefficients(NamedTuple):
    """The coefficients of the samples of a row of pairs: of sample i, and of samples j, j + 1, ….

    rows, columns : (coefficients, samples)
    first : the first row of both arrays that belongs to the loop
    """

    rows: Any
    i: int
    columns: Any
    j: int
    first: int


class DualLoop:
    """A loop over a row of pairs, compiled separately on first use and called by its address.

    The address is data for the code that calls it, which is therefore not compiled again for
    another loop.

    Parameters
    ----------
    function : (angles, row, columns, parameters) → None
        It fills the last three arrays of `Angles`. row[:, 0] are the loop's coefficients of sample
        i, columns[:, :n] those of samples j, j + 1, …; parameters is (·,).
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._compiled: dict[np.dtype, Any] = {}

    def address(self, dtype: np.dtype) -> int:
        """Return the address of the machine code for a dtype."""
        if dtype not in self._compiled:
            # `many` stands for lengths that nothing reads.
            inner, many = njit(self._function), 1 << 20

            def loop(
                z: Any, w: Any, zk: Any, wk: Any, rate: Any, n: int,
                row: Any, row_stride: int, columns: Any, stride: int, parameters: Any,
            ) -> None:  # fmt: skip
                angles = Angles(
                    carray(z, n), carray(w, n), carray(zk, n), carray(wk, n), carray(rate, n)
                )
                inner(
                    angles, carray(row, (many, row_stride)), carray(columns, (many, stride)),
                    carray(parameters, many),
                )  # fmt: skip

            loop.__qualname__ = f"{self._function.__module__}.{self._function.__qualname__}"
            a, k = types.CPointer(from_dtype(dtype)), types.intp
            signature = (a, a, a, a, a, k, a, k, a, k, a), types.void
            self._compiled[dtype] = compile_by_address(loop, signature)
        return int(self._compiled[dtype].address)


def _call_loop(
    typingctx: Any, address: Any, angles: Any, coefficients: Any, parameters: Any
) -> Any:
    """Call the `DualLoop` at an address with `Angles`, `Coefficients` and its parameters."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        def unpacked(k: int) -> list[Any]:
            values = cgutils.unpack_tuple(builder, args[k])
            return as_arrays(context, builder, signature.args[k].types, values)

        five = unpacked(1)
        rows, i, columns, j, first = unpacked(2)
        (numbers,) = as_arrays(context, builder, [parameters], [args[3]])

        def first_of(coefficients: Any, sample: ir.Value) -> tuple[ir.Value, ir.Value]:
            stride = cgutils.unpack_tuple(builder, coefficients.shape)[1]
            at = builder.add(builder.mul(first, stride), sample)
            return builder.gep(coefficients.data, [at]), stride

        n = cgutils.unpack_tuple(builder, five[0].shape)[0]
        passed = [
            *(array.data for array in five), n, *first_of(rows, i), *first_of(columns, j),
            numbers.data,
        ]  # fmt: skip
        function = ir.FunctionType(ir.VoidType(), [p.type for p in passed])
        builder.call(builder.inttoptr(args[0], function.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(types.intp, angles, coefficients, parameters), codegen


call_loop: Any = intrinsic(_call_loop)
