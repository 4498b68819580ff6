"""How finite networks use all cores: independent pieces of work, each on one thread.

A piece is a draw of a network, or a block of rows of one network's kernel. Its matrix products run
on one thread of BLAS, so its bits do not depend on how many pieces are done at once; results are
handed on in order, so neither do sums over them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError
from ntk_numba.machine import available_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


_lock = Lock()
_inside = 0  # contexts that are open now, on any thread
_limits: Any = None


@contextmanager
def one_thread_products() -> Iterator[None]:
    """A context in which matrix products stay on the thread that calls them.

    BLAS has one number of threads for the whole process, so the first to enter sets it and the last
    to leave sets it back, whichever threads they are on.
    """
    global _inside, _limits
    with _lock:
        _inside += 1
        if _inside == 1:
            _limits = threadpool_limits(1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _limits.restore_original_limits()


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """``function`` of each item, in the order of the items, a few more under way than handed on.

    Floating point does not warn in it: whoever uses a result looks whether it is finite.
    """

    @np.errstate(over="ignore", invalid="ignore")
    def quiet(item: Item) -> Result:
        return function(item)

    waiting: deque[Future[Result]] = deque()
    with one_thread_products(), ThreadPoolExecutor(threads, "finite-width") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(quiet, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def fitting_threads(threads: int, fixed: int, each: int, what: str) -> int:
    """How many of `threads` workers have memory enough, `each` bytes a worker beside `fixed`.

    Raises
    ------
    ValueError
        Not even one, with the bytes it would take; `what` says whose.
    """
    free = available_memory()
    if fixed + each > free:
        raise InvalidValueError(
            f"{what} would take {show_bytes(fixed + each)} ({fixed + each:,} bytes), and "
            f"{show_bytes(free)} of memory is free; take a smaller width or fewer samples"
        )
    return max(1, min(threads, (free - fixed) // max(each, 1)))
