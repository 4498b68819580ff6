"""Times of several works in turn, so that a drift of the machine's speed affects them alike."""

import mmap
import time
from collections.abc import Callable

import numpy as np

# Seconds: idle threads of OpenBLAS and OpenMP spin for tens of milliseconds after their work, which
# would slow down what is timed next
PAUSE = 0.1

# Many virtual machines give memory that has been free for a second back to their host; touching it
# again takes 10 to 20 times as long. So that this is not measured, memory is used before.
FRESH_BYTES = 512 << 20


def seconds(work: Callable[[], object]) -> float:
    """Return how many seconds `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def refresh_memory(size: int = FRESH_BYTES) -> None:
    """Use and free `size` bytes of memory."""
    np.empty(size, np.uint8)[:: mmap.PAGESIZE] = 0


def in_turn(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of `repeats` runs of each work, after one run for warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            time.sleep(PAUSE)
            refresh_memory()
            times[name].append(seconds(work))
    return times
