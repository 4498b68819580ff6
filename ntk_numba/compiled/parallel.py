"""Parallel loops whose body is compiled separately and called by its address.

Numba's own parallel loop optimises its body five times: as a function, as the body of the loop, in
two wrappers of it, and in the caller. The loop here receives two addresses, of its body and of the
arguments. It is compiled once for all bodies and dtypes, and a body once for each dtype.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

from ntk_numba.compiled.intrinsics import take_number
from ntk_numba.compiled.loops import compile_by_address
from ntk_numba.compiled.policy import kernel
from ntk_numba.errors import ProcessError

# Numba's workqueue threading layer ends the process when two threads of Python enter it at once.
_one_at_a_time = threading.Lock()


def _after_fork() -> None:
    """Replace the lock in a forked child, which has no thread that could release it."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads_now() -> int:
    """Return the number of threads that Numba is set to use; its first call starts them.

    Raises
    ------
    RuntimeError
        If Numba cannot load the threading layer that NUMBA_THREADING_LAYER names.
    """
    try:
        return int(numba.get_num_threads())
    except ValueError as error:
        layer = numba.config.THREADING_LAYER  # type: ignore[attr-defined]
        raise ProcessError(
            f"the environment variable NUMBA_THREADING_LAYER={layer} names a threading layer that "
            f"cannot be loaded ({' '.join(str(error).split())}); unset it"
        ) from None


class ParallelLoop:
    """A parallel loop, whose body is compiled separately for each type of its arguments.

    Parameters
    ----------
    body : (pointer, thread, k) → None
        The body, which is called once for each k = 0 … count − 1 with the number of the calling
        thread. It gets its arguments from `arguments_at(pointer)`, and it must not allocate.
    """

    def __init__(self, body: Callable[[Any, int, int], None]) -> None:
        self._body = body
        self._compiled: dict[Any, Any] = {}  # by type of the arguments
        self._addresses: dict[Any, int] = {}  # by the form of the arguments, see `_flatten`

    def __call__(self, arguments: tuple[Any, ...], count: int) -> None:
        """Run the loop on the threads that Numba is set to use.

        Several threads of Python may call this at the same time; they take turns.

        arguments : a NamedTuple of arrays, integers, bools and other such tuples
        """
        words: list[int] = []
        address = self._address(_flatten(arguments, words), arguments)
        flat, counter = np.array(words, np.int64), np.zeros(1, np.int64)
        with _one_at_a_time:
            _in_parallel(address, flat.ctypes.data, counter, count, threads_now())

    def alone(self, arguments: tuple[Any, ...], count: int, thread: int) -> None:
        """Run the loop on the calling thread, with the number that the body gets for it.

        Several threads of Python may call this at the same time.
        """
        words: list[int] = []
        address = self._address(_flatten(arguments, words), arguments)
        flat = np.array(words, np.int64)
        _in_order(address, flat.ctypes.data, count, thread)

    def _address(self, form: Any, arguments: tuple[Any, ...]) -> int:
        """Return the address of the machine code for arguments of a form; compile it if needed."""
        if form not in self._addresses:
            numba_type = numba.typeof(arguments)
            if numba_type not in self._compiled:
                signature = (types.CPointer(numba_type), types.int64, types.int64), types.void
                self._compiled[numba_type] = compile_by_address(self._body, signature, _nrt=False)
            self._addresses[form] = int(self._compiled[numba_type].address)
        return self._addresses[form]


def _flatten(value: Any, words: list[int]) -> Any:
    """Append the numbers that a value consists of, as `arguments_at` reads them; return its form.

    Values of the same form have the same type in Numba. Finding that type takes several times as
    long as finding the form.
    """
    if isinstance(value, np.ndarray):
        words.append(value.ctypes.data)
        words.extend(value.shape)
        words.extend(value.strides)
        return value.dtype, value.ndim, value.flags.num
    if isinstance(value, tuple):
        return type(value), *[_flatten(item, words) for item in value]
    words.append(int(value))
    return type(value)


def _arguments_at(typingctx: Any, pointer: Any) -> Any:
    """Return the arguments of a `ParallelLoop` from the pointer that its body receives."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        word = ir.IntType(64)
        words, read = builder.bitcast(args[0], word.as_pointer()), 0

        def take() -> ir.Value:
            nonlocal read
            read += 1
            return builder.load(builder.gep(words, [word(read - 1)]))

        def value(numba_type: Any) -> ir.Value:
            if hasattr(numba_type, "types"):
                return context.make_tuple(
                    builder, numba_type, [value(item) for item in numba_type.types]
                )
            if not isinstance(numba_type, types.Array):
                return builder.trunc(take(), context.get_value_type(numba_type))
            array = context.make_array(numba_type)(context, builder)
            size = context.get_abi_sizeof(context.get_data_type(numba_type.dtype))
            populate_array(
                array, builder.inttoptr(take(), array.data.type),
                [take() for _ in range(numba_type.ndim)], [take() for _ in range(numba_type.ndim)],
                context.get_constant(types.intp, size), None,
            )  # fmt: skip
            return array._getvalue()

        return value(pointer.dtype)

    return pointer.dtype(pointer), codegen


arguments_at: Any = intrinsic(_arguments_at)


def _call_body(typingctx: Any, address: Any, arguments: Any, thread: Any, k: Any) -> Any:
    """Call the body of a `ParallelLoop`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        address, arguments, thread, k = args
        pointer = builder.inttoptr(arguments, cgutils.voidptr_t)
        function = ir.FunctionType(ir.VoidType(), [pointer.type, thread.type, k.type])
        builder.call(builder.inttoptr(address, function.as_pointer()), [pointer, thread, k])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.int64, types.int64), codegen


call_body: Any = intrinsic(_call_body)


@kernel(parallel=True)
def _in_parallel(
    address: int, arguments: int, counter: NDArray[np.int64], count: int, threads: int
) -> None:
    """Call the body at an address for 0 … count − 1; a thread that is free takes the next number.

    counter : (1,), zero
    """
    # Numba's own loop assigns tiles to threads in advance, which loses 5 to 10 %, since tiles
    # differ in cost.
    for index in numba.prange(threads):
        thread = np.int64(index)  # the index of prange is unsigned
        k = take_number(counter)
        while k < count:
            call_body(address, arguments, thread, k)
            k = take_number(counter)


@kernel()
def _in_order(address: int, arguments: int, count: int, thread: int) -> None:
    """Call the body at an address for 0 … count − 1."""
    for k in range(count):
        call_body(address, arguments, np.int64(thread), np.int64(k))
