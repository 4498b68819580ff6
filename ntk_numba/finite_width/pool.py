"""A pool of threads on which finite networks are computed, one independent piece on each thread.

A piece is a draw of a network, or a block of rows of one network's kernel. Its matrix products run
on one thread of BLAS, so its bits do not depend on how many pieces are computed at once. Results
are returned in order, so sums over them do not depend on it either.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from ntk_numba import pool
from ntk_numba.arguments import show_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.machine import available_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, in order, computed on up to `threads` threads.

    At most `threads` results are computed ahead of the one that is yielded, to limit memory.
    Floating-point warnings are off in ``function``; callers check that the results are finite.
    """

    @np.errstate(over="ignore", invalid="ignore")
    def quiet(item: Item) -> Result:
        return function(item)

    with blas_threads(1):
        yield from pool.in_order(quiet, items, threads, name="finite-width")


def fitting_threads(threads: int, fixed: int, each: int, what: str) -> int:
    """Return how many of `threads` threads can work at once in the free memory.

    fixed : bytes that are taken once
    each : bytes that each thread takes
    what : a name of the work, the subject of the error message

    Raises
    ------
    ValueError
        If the memory is not enough for one thread; the message says how many bytes it would take.
    """
    free = available_memory()
    if fixed + each > free:
        raise InvalidValueError(
            f"{what} would take {show_bytes(fixed + each)} ({fixed + each:,} bytes), and "
            f"{show_bytes(free)} of memory is free; take a smaller width or fewer samples"
        )
    return max(1, min(threads, (free - fixed) // max(each, 1)))
