"""How everything in this package is compiled: one policy, stated once.

``error_model="numpy"`` lets a division by zero give inf, as NumPy does; the checks of Python's
model would keep LLVM from vectorising. No ``fastmath`` by default: the compiler may neither
reassociate nor contract, so an entry's bits depend neither on where in a vector it stands nor on
the vector's length.

Functions called from compiled code count no references to arrays: each view would cost two atomic
operations on a counter that all threads share, 4 to 7 % of a job. They cannot allocate.
"""

import contextlib
import glob
import hashlib
import pickle
import sys
import uuid
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

njit: Any = partial(numba.njit, nogil=True, error_model="numpy", _nrt=False, forceinline=True)

ENDING = f".{sys.implementation.cache_tag}.nbc"  # of files with code, of one version of Python


@cache
def source_digest() -> str:
    """SHA-256 of the sources that end up in compiled code."""
    package = Path(__file__).parent
    sources = [
        path
        for pattern in ("activations/*.py", "engine/*.py", "jit.py", "row.py")
        for path in package.glob(pattern)
    ]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class PackageCache(FunctionCache):
    """Numba's cache on disk, valid for one state of all our compiled sources.

    Numba itself looks only at the file of the compiled function. A mended formula in another file
    would go unnoticed, and the old one would go on being used.

    Notes
    -----
    A folder that cannot be written, or is full, costs the time to compile and stops nothing.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # now, and not when something is compiled: by then another version may be installed
        self._state = source_digest()
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._cache_file: Any = _Entries(Path(self.cache_path), name, self._state)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._state)

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _Entries:
    """What is kept of one function: a file for each key, named by it, whole or not at all.

    Numba numbers its files, in an index. Two processes that compile for two dtypes, or on two kinds
    of processors that share a home, may take the same number at the same time: from then on the
    index leads one of them to the other's code. Here no two keys share a file, and there is no
    index. A file begins with the SHA-256 of the rest, since a crash may leave it cut.

    Parameters
    ----------
    folder : where they are
    name : the function's
    state : of our sources; when one of this state is kept, those of others go
    """

    def __init__(self, folder: Path, name: str, state: str) -> None:
        self._folder, self._name, self._state = folder, name, state[:16]

    def _path(self, key: Any) -> Path:
        """The file of a key: signature, processor, bytecode, sources; and of this Numba."""
        digest = hashlib.sha256(repr((key, numba.__version__)).encode()).hexdigest()[:32]
        return self._folder / f"{self._name}-{self._state}-{digest}{ENDING}"

    def load(self, key: Any) -> Any:
        """What was saved with the key; None if that is nothing, or damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        found, data = pickle.loads(content[32:])
        return data if found == key else None

    def save(self, key: Any, data: Any) -> None:
        """Keep compiled code, in place of what has the same key."""
        content = dumps((key, data))
        path = self._path(key)
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            new.write_bytes(hashlib.sha256(content).digest() + content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        mine = f"{self._name}-{self._state}-"
        for old in self._folder.glob(f"{glob.escape(self._name)}-*{ENDING}*"):
            if not old.name.startswith(mine):
                old.unlink(missing_ok=True)


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that Python calls: as `njit`, and kept on disk for other processes."""

    def compile(function: Callable[..., Any]) -> Any:
        dispatcher = njit(_nrt=True, forceinline=False, **options)(function)
        with contextlib.suppress(RuntimeError):  # there is no folder to keep it in
            dispatcher._cache = PackageCache(function)
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


def polynomial(coefficients: tuple[float, ...], chains: int = 1) -> Any:
    """Horner's rule in the dtype of the argument, highest power first, written out in full.

    A loop over the coefficients would do the same, but LLVM leaves a long one rolled, and then does
    not vectorise the loop around it. By several chains, see `_horner`.
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
    """The same with coefficients that are a sample's: traits[first + m, j] of x^m.

    With so many terms in float64 and in float32.
    """

    @intrinsic
    def horner(typingctx: Any, x: Any, traits: Any, first: Any, j: Any) -> Any:
        count = single if x == types.float32 else double

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            x, traits, first, j = arrays_of(context, builder, signature, args)
            stride = cgutils.unpack_tuple(builder, traits.shape)[1]
            at = [builder.gep(traits.data, [builder.add(builder.mul(first, stride), j)])]
            for _ in range(count - 1):
                at.append(builder.gep(at[-1], [stride]))
            return _horner(builder, x, [builder.load(a) for a in at], chains)

        return x(x, traits, types.intp, types.intp), codegen

    return horner


def _horner(
    builder: ir.IRBuilder, x: ir.Value, coefficients: list[ir.Value], chains: int
) -> ir.Value:
    """Σ c_m x^m by Horner's rule in x^chains, of so many parts.

    One chain is a sequence of operations that wait for one another; in a long one, a processor
    waits, as it cannot look far enough ahead to work at other columns meanwhile.
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
    """Working memory of a function that cannot allocate: an array of the dtype of its argument."""

    @intrinsic
    def on_stack(typingctx: Any, like: Any) -> Any:
        kind = types.Array(like, 2, "C")

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            number, size = args[0].type, context.get_abi_sizeof(args[0].type)
            data = cgutils.alloca_once(
                builder, number, size=context.get_constant(types.intp, rows * columns)
            )
            data.align = 64
            array = context.make_array(kind)(context, builder)
            index = context.get_constant
            populate_array(
                array, data, [index(types.intp, n) for n in (rows, columns)],
                [index(types.intp, n * size) for n in (columns, 1)],
                index(types.intp, size), None,
            )  # fmt: skip
            return array._getvalue()

        return kind(like), codegen

    return on_stack


def _wide_vectors(typingctx: Any) -> Any:
    """The loops of this function are to use the widest vectors that there are.

    LLVM keeps to 256 bits on processors whose first ones with 512 slowed down when they were used.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        # llvmlite knows attributes without values only
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


wide_vectors: Any = intrinsic(_wide_vectors)


def divided_differences(coefficients: tuple[float, ...]) -> Any:
    """p(x) of a polynomial, highest power first, and its divided differences (p(x) − p(y))/(x − y)
    with two y, which may be x.
    """

    @intrinsic
    def differences(typingctx: Any, x: Any, first: Any, second: Any) -> Any:
        real = np.float32 if x == types.float32 else np.float64
        out = types.UniTuple(x, 3)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            x, *others = args
            constants = [ir.Constant(x.type, float(real(c))) for c in coefficients]
            value, slopes = constants[0], [ir.Constant(x.type, 0.0)] * 2
            for c in constants[1:]:
                slopes = [builder.fma(s, y, value) for s, y in zip(slopes, others, strict=True)]
                value = builder.fma(value, x, c)
            return context.make_tuple(builder, out, [value, *slopes])

        return out(x, first, second), codegen

    return differences
