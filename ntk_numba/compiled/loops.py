"""A loop over a row of a tile that is compiled by itself and called by its address."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from ntk_numba.compiled.cache import keep_on_disk
from ntk_numba.compiled.intrinsics import arrays_of
from ntk_numba.compiled.policy import njit

carray: Any = numba.carray  # type: ignore[attr-defined]


def compile_by_address(
    function: Callable[..., None], signature: tuple[Any, Any], **options: Any
) -> Any:
    """Compile a function for a signature; its `address` is that of the machine code."""
    compiled: Any = CFunc(function, signature, {}, {"error_model": "numpy", **options})
    keep_on_disk(compiled, function)
    compiled.compile()
    return compiled


class Row:
    """A loop over a row of a tile, compiled by itself on first use and called by its address.

    Whoever calls it need not be compiled anew for another one: the address is data.

    Parameters
    ----------
    function : (z, w, zk, wk, rate, mine, theirs, parameters) → None
        Of arrays of one dtype: (n,) the first five, of which three are filled; (traits, ·) the next
        two, of which mine[:, 0] and theirs[:, :n] may be read; (·,) the last.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._compiled: dict[np.dtype, Any] = {}

    def address(self, dtype: np.dtype) -> int:
        """Of the machine code for a dtype."""
        if dtype not in self._compiled:
            inner, many = njit(self._function), 1 << 20  # the shapes are never looked at

            def row(
                z: Any, w: Any, zk: Any, wk: Any, rate: Any, n: int,
                mine: Any, mine_stride: int, theirs: Any, theirs_stride: int, parameters: Any,
            ) -> None:  # fmt: skip
                inner(
                    carray(z, n), carray(w, n), carray(zk, n), carray(wk, n), carray(rate, n),
                    carray(mine, (many, mine_stride)), carray(theirs, (many, theirs_stride)),
                    carray(parameters, many),
                )  # fmt: skip

            row.__qualname__ = f"{self._function.__module__}.{self._function.__qualname__}"
            a, k = types.CPointer(from_dtype(dtype)), types.intp
            signature = (a, a, a, a, a, k, a, k, a, k, a), types.void
            self._compiled[dtype] = compile_by_address(row, signature)
        return int(self._compiled[dtype].address)


def _call_row(
    typingctx: Any, address: Any, z: Any, w: Any, zk: Any, wk: Any, rate: Any,
    mine: Any, i: Any, theirs: Any, j: Any, first: Any, parameters: Any,
) -> Any:  # fmt: skip
    """Call a `Row` with the traits from number `first` on, of sample i and of samples j, …"""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        address, z, w, zk, wk, rate, mine, i, theirs, j, first, parameters = arrays_of(
            context, builder, signature, args
        )

        def traits(of: Any, sample: ir.Value) -> tuple[ir.Value, ir.Value]:
            stride = cgutils.unpack_tuple(builder, of.shape)[1]
            at = builder.add(builder.mul(first, stride), sample)
            return builder.gep(of.data, [at]), stride

        n = cgutils.unpack_tuple(builder, z.shape)[0]
        passed = [
            *(array.data for array in (z, w, zk, wk, rate)), n,
            *traits(mine, i), *traits(theirs, j), parameters.data,
        ]  # fmt: skip
        kind = ir.FunctionType(ir.VoidType(), [p.type for p in passed])
        builder.call(builder.inttoptr(address, kind.as_pointer()), passed)
        return context.get_dummy_value()

    k = types.intp
    return types.void(k, z, w, zk, wk, rate, mine, k, theirs, k, k, parameters), codegen


call_row: Any = intrinsic(_call_row)
