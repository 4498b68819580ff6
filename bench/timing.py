"""Times taken in turn, so that a machine whose speed drifts drifts for all."""

import mmap
import time
from collections.abc import Callable

import numpy as np

# OpenBLAS's and OpenMP's idle threads spin for some tens of milliseconds after their work, which
# would be taken from whatever is timed next
PAUSE = 0.1

# Memory that has been free for a second, many virtual machines give back to their host; to touch it
# again takes 10 to 20 times as long. That is not what is measured here, so some is used before.
FRESH_BYTES = 512 << 20


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def refresh_memory() -> None:
    """Make the machine have FRESH_BYTES that are free and were in use just now."""
    np.empty(FRESH_BYTES, np.uint8)[:: mmap.PAGESIZE] = 0


def in_turn(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, `repeats` times, after once for warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            time.sleep(PAUSE)
            refresh_memory()
            times[name].append(seconds(work))
    return times
