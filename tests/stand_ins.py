"""Stand-ins for parts, and a program that runs them on a named executor.

A part writes a file and follows its plan: ``die`` kills its worker, ``outlive`` does so after the
parts 0 and 2 are done by another worker, ``full`` raises an OSError,
``bad`` raises a ValueError, ``slow`` takes 60 seconds unless it is asked to stop. ``die 1`` does so
at the first start only. Starts are counted on disk, since memory does not outlive a worker.
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
    """Do what the plan says for a part, and write its file."""
    with (folder / f"starts-{part}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.2)  # so that events happen in the middle of the task
    action, _, times = plan.get(part, "").partition(" ")
    if not times or starts(folder, part) <= int(times):
        if action == "outlive":
            while not {0, 2} <= done(folder):
                time.sleep(0.01)
        if action in ("die", "outlive"):
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "full":
            raise OSError(f"part {part}: the disk is full")
        if action == "bad":
            raise ValueError(f"part {part}: X is bad")
        if action == "slow":
            wait_for_a_stop(folder, part)
    path = folder / f"part-{part}"
    path.write_text(f"{part * part}")
    return Receipt(part, str(path), 1, 0.2, platform.node(), False)


def wait_for_a_stop(folder: Path, part: int) -> None:
    """Work for 60 seconds, checking whether to stop; leave a file ``stopped-<part>`` if so."""
    try:
        with stopping.gently():
            (folder / f"slow-{part}").touch()
            for _ in range(6000):
                stopping.check()
                time.sleep(0.01)
    except stopping.StopRequested:
        (folder / f"stopped-{part}").touch()
        raise


def ignore_stop(part: int) -> Receipt:
    """Work for 60 seconds without checking whether to stop."""
    with stopping.gently():
        time.sleep(60)
    return Receipt(part, "", 0, 60.0, "", False)


def write_threads(folder: Path, part: int) -> Receipt:
    """Write the number of threads of a part, and of the parts on its host, into its file."""
    (folder / f"part-{part}").write_text(
        f"{threads_to_use(worker_threads())} {parts_on_this_host()}"
    )
    return Receipt(part, "", 0, 0.0, "", False)


def starts(folder: Path, part: int) -> int:
    """Return how often a part was started."""
    path = folder / f"starts-{part}"
    return len(path.read_text().split()) if path.exists() else 0


def done(folder: Path) -> set[int]:
    """Return the parts whose files exist and are right."""
    parts = {int(path.name.removeprefix("part-")): path for path in folder.glob("part-*")}
    return {part for part, path in parts.items() if path.read_text() == str(part * part)}


@contextlib.contextmanager
def dask_cluster(text: str) -> Iterator[str]:
    """Start a cluster, for ``2x3`` of two workers with three threads, and yield its address."""
    import distributed

    workers, threads = map(int, text.split("x"))
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=threads, processes=True, host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@contextlib.contextmanager
def executor_of(kind: str) -> Iterator[Any]:
    """Open an executor for `run_parts`; yield None on ranks of MPI that have done their work."""
    name, _, size = kind.partition(" ")
    if name == "cluster":
        with dask_cluster(size) as address, open_executor(f"dask:{address}", None) as (it, _):
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
    """Run ``stand_ins.py KIND FOLDER COUNT PLAN``, with the exit codes of the command line."""
    kind, folder, count, plan = sys.argv[1:]
    executors.PAUSE, executors.SILENCE = 0.1, 0.0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.ask())
    if plan == "threads":
        task: Any = functools.partial(write_threads, Path(folder))
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
