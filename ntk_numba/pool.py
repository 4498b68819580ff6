"""Independent pieces of work on several threads, whose results are returned in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    ahead: int | None = None,
    name: str = "worker",
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, in order, computed on up to `threads` threads.

    ahead : the number of results, at most, that are computed ahead of the one that is yielded; by
        default `threads`
    name : what the names of the threads begin with
    """
    most = threads if ahead is None else ahead
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, name) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
