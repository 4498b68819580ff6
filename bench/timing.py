"""Times taken in turn, so that a machine whose speed drifts drifts for all."""

import time
from collections.abc import Callable

# OpenBLAS's and OpenMP's idle threads spin for some tens of milliseconds after their work, which
# would be taken from whatever is timed next
PAUSE = 0.1


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, `repeats` times, after once for warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            time.sleep(PAUSE)
            times[name].append(seconds(work))
    return times
