"""Stand-ins for parts, and a program that runs them on a named executor.

A part writes a file, and does what its plan says: ``die`` kills its worker, ``full`` raises an
OSError, ``bad`` a ValueError, ``slow`` takes 60 seconds unless it is asked to stop. ``die 1`` does
so at its first start only; starts are counted on disk, as no other memory outlives a worker.
"""

import contextlib
import functools
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ntk_numba import stopping
from ntk_numba.cluster import executors
from ntk_numba.cluster.schedulers import open_executor
from ntk_numba.cluster.workers import Receipt, parts_on_this_host, worker_threads
from ntk_numba.machine import threads_to_use


def compute(folder: Path, plan: dict[int, str], part: int) -> Receipt:
    """One part."""
    with (folder / f"starts-{part}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.2)  # in mid-task
    what, _, times = plan.get(part, "").partition(" ")
    if not times or starts(folder, part) <= int(times):
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full":
            raise OSError(f"part {part}: the disk is full")
        if what == "bad":
            raise ValueError(f"part {part}: X is bad")
        if what == "slow":
            wait_for_a_stop(folder, part)
    path = folder / f"part-{part}"
    path.write_text(f"{part * part}")
    return Receipt(part, str(path), 1, 0.2, platform.node(), False)


def wait_for_a_stop(folder: Path, part: int) -> None:
    """60 seconds of work that looks now and then whether it is to stop, and then tidies up."""
    try:
        with stopping.gently():
            (folder / f"slow-{part}").touch()
            for _ in range(6000):
                stopping.check()
                time.sleep(0.01)
    except stopping.StopRequested:
        (folder / f"stopped-{part}").touch()
        raise


def deaf(part: int) -> Receipt:
    """Work that does not look whether it is to stop."""
    with stopping.gently():
        time.sleep(60)
    return Receipt(part, "", 0, 60.0, "", False)


def tell(folder: Path, part: int) -> Receipt:
    """How many threads a part has where it runs, and how many parts run there."""
    (folder / f"part-{part}").write_text(
        f"{threads_to_use(worker_threads())} {parts_on_this_host()}"
    )
    return Receipt(part, "", 0, 0.0, "", False)


def starts(folder: Path, part: int) -> int:
    """How often a part was begun."""
    path = folder / f"starts-{part}"
    return len(path.read_text().split()) if path.exists() else 0


def done(folder: Path) -> set[int]:
    """The parts whose file is there, and right."""
    parts = {int(path.name.removeprefix("part-")): path for path in folder.glob("part-*")}
    return {part for part, path in parts.items() if path.read_text() == str(part * part)}


@contextlib.contextmanager
def dask_cluster(text: str) -> Iterator[str]:
    """``2x3``: two workers with three threads each; its address."""
    import distributed

    workers, threads = map(int, text.split("x"))
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=threads, processes=True, host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@contextlib.contextmanager
def executor_of(kind: str) -> Iterator[Any]:
    """What `run_parts` is given; None on ranks that have served."""
    name, _, rest = kind.partition(" ")
    if name == "cluster":
        with dask_cluster(rest) as address, open_executor(f"dask:{address}", None) as (it, _):
            yield it
    elif name == "reusable":
        import loky

        yield loky.get_reusable_executor(max_workers=2)
    elif name == "process-instance":
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            yield pool
    else:
        with open_executor(kind, None) as (it, _):
            yield it


def main() -> int:
    """``stand_ins.py KIND FOLDER COUNT PLAN``: exit codes as the command line's."""
    kind, folder, count, plan = sys.argv[1:]
    executors.PAUSE, executors.SILENCE = 0.1, 0.0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.ask())
    if plan == "tell":
        task: Any = functools.partial(tell, Path(folder))
    else:
        task = functools.partial(
            compute, Path(folder), {int(k): v for k, v in json.loads(plan).items()}
        )
    try:
        with executor_of(kind) as executor:
            if executor is None:
                return 0
            receipts = executors.run_parts(executor, task, range(int(count)))
        print([receipt.part for receipt in receipts])
    except stopping.StopRequested as stop:
        print("stopped", getattr(stop, "__notes__", []), file=sys.stderr)
        return 3
    except OSError as error:
        print(type(error).__name__, error, file=sys.stderr)
        return 3
    except ValueError as error:
        print(type(error).__name__, error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
