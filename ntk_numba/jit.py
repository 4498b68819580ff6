"""How everything in this package is compiled: one policy, stated once.

``error_model="numpy"`` lets a division by zero give inf, as NumPy does; the checks of Python's
model would keep LLVM from vectorising. No ``fastmath`` by default: the compiler may neither
reassociate nor contract, so an entry's bits depend neither on where in a vector it stands nor on
the vector's length.

Functions called from compiled code count no references to arrays: each view would cost two atomic
operations on a counter that all threads share, 4 to 7 % of a job. They cannot allocate.
"""

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, overload

njit: Any = partial(numba.njit, nogil=True, error_model="numpy", _nrt=False, forceinline=True)


@cache
def source_digest() -> str:
    """SHA-256 of the sources that end up in compiled code."""
    package = Path(__file__).parent
    sources = [*package.glob("activations/*.py"), *package.glob("engine/*.py"), Path(__file__)]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _PackageCache(FunctionCache):
    """Numba's cache on disk, valid for one state of all our compiled sources.

    Numba itself looks only at the file of the compiled function. A mended formula in another file
    would go unnoticed, and the old one would go on being used.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), source_digest())  # type: ignore[no-untyped-call]


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that Python calls: as `njit`, and kept on disk for other processes."""

    def compile(function: Callable[..., Any]) -> Any:
        dispatcher = njit(_nrt=True, forceinline=False, **options)(function)
        dispatcher._cache = _PackageCache(function)  # type: ignore[no-untyped-call]
        return dispatcher

    return compile


def per_dtype(name: str, factory: Callable[[type], Callable[..., Any]]) -> Callable[..., Any]:
    """Make a jitted scalar function of ``factory(real)``, compiled for float32 and float64 alike.

    ``real`` is ``np.float32`` or ``np.float64``, the type of the first argument. Numba turns
    ``x * 0.5`` into float64 whatever x is, so a formula that is to stay in float32 has to write its
    constants as ``real(0.5)``; this gives it ``real``.
    """

    def scalar(*args: Any) -> Any:
        raise NotImplementedError("this function exists inside jitted code only")

    scalar.__name__ = name

    @overload(scalar, strict=False)
    def choose(*args: Any) -> Callable[..., Any]:
        return factory(np.float32 if args[0] == types.float32 else np.float64)

    return scalar


def arrays_of(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """The arguments of an intrinsic, its arrays with their fields, in the making of its code."""
    return [
        context.make_array(t)(context, builder, a) if isinstance(t, types.Array) else a
        for t, a in zip(signature.args, args, strict=True)
    ]


def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c with one rounding, the same on every machine (``llvm.fma``, which vectorises)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.fma(*args)

    return a(a, a, a), codegen


fma: Any = intrinsic(_fma)


def _take_number(typingctx: Any, counter: Any) -> Any:
    """counter[0] before it is raised by one, for one thread alone: whose turn it is."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        first = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", first, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), codegen


take_number: Any = intrinsic(_take_number)


def _extreme(comparison: str) -> Any:
    """Of a and b the smaller or the larger; they may not be NaN, so that a loop vectorises."""

    def extreme(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            flags = ("nnan", "nsz")
            first = builder.fcmp_ordered(comparison, *args, flags=flags)
            return builder.select(first, *args, flags=flags)

        return a(a, a), codegen

    return intrinsic(extreme)


smaller: Any = _extreme("<")
larger: Any = _extreme(">")


def polynomial(coefficients: tuple[float, ...]) -> Any:
    """Horner's rule in the dtype of the argument, highest power first, written out in full.

    A loop over the coefficients would do the same, but LLVM leaves a long one rolled, and then does
    not vectorise the loop around it.
    """

    @intrinsic
    def horner(typingctx: Any, x: Any) -> Any:
        real = np.float32 if x == types.float32 else np.float64

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            constants = [ir.Constant(args[0].type, float(real(c))) for c in coefficients]
            value = constants[0]
            for c in constants[1:]:
                value = builder.fma(value, args[0], c)
            return value

        return x(x), codegen

    return horner
