"""The options with which all functions of this package are compiled, stated once.

``error_model="numpy"`` lets a division by zero give inf, as NumPy does; the checks of Python's
model would keep LLVM from vectorising. ``fastmath`` is off: the compiler may neither reassociate
nor contract, so an entry's bits depend neither on where in a vector it stands nor on the vector's
length.

Functions that compiled code calls do not count references to arrays: each view would cost two
atomic operations on a counter that all threads share, 4 to 7 % of a job. So they cannot allocate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

from ntk_numba.compiled.cache import keep_on_disk

njit: Any = partial(numba.njit, nogil=True, error_model="numpy", _nrt=False, forceinline=True)


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that Python calls, as `njit` does, and keep its code on disk."""

    def compile(function: Callable[..., Any]) -> Any:
        dispatcher = njit(_nrt=True, forceinline=False, **options)(function)
        keep_on_disk(dispatcher, function)
        return dispatcher

    return compile


def per_dtype(name: str, factory: Callable[[type], Callable[..., Any]]) -> Callable[..., Any]:
    """Make a jitted scalar function from ``factory(real)``, for float32 and for float64.

    ``real`` is ``np.float32`` or ``np.float64``, the type of the first argument. Numba turns
    ``x * 0.5`` into float64 whatever x is, so a formula that must stay in float32 has to write its
    constants as ``real(0.5)``.
    """

    def scalar(*args: Any) -> Any:
        raise NotImplementedError("this function exists inside jitted code only")

    scalar.__name__ = name

    @overload(scalar, strict=False)
    def choose(*args: Any) -> Callable[..., Any]:
        return factory(np.float32 if args[0] == types.float32 else np.float64)

    return scalar
