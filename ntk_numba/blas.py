"""A limit on the threads of BLAS, which has one number of threads for the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from threadpoolctl import ThreadpoolController

_lock = Lock()
_limits: list[int] = []  # of all contexts that are open, on all threads
_controller: ThreadpoolController | None = None
_before: list[int] = []  # the numbers of threads before the first of them was opened


@contextmanager
def blas_threads(limit: int) -> Iterator[None]:
    """Let matrix products and LAPACK use at most `limit` threads within this context.

    Of several contexts that are open, on any threads, the smallest limit holds. The last to close
    restores the numbers of threads that were set before.
    """
    global _controller, _before
    with _lock:
        if not _limits:
            _controller = ThreadpoolController().select(user_api="blas")
            _before = [library.num_threads for library in _controller.lib_controllers]
        _limits.append(limit)
        _set()
    try:
        yield
    finally:
        with _lock:
            _limits.remove(limit)
            _set()


def _set() -> None:
    """Set the numbers of threads that the open contexts allow; none exceeds the one before."""
    assert _controller is not None
    for library, before in zip(_controller.lib_controllers, _before, strict=True):
        library.set_num_threads(min([before, *_limits]))
