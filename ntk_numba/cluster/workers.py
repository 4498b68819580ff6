"""The worker's side of a part: its receipt, its share of the machine, and requests to stop it.

`executors.run_parts` submits `attempt` to the workers. The tiles of a stopped part that are done
are safe on disk. `StopRequested` never passes through a scheduler, which could not handle it.
"""

import os
import platform
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ntk_numba import machine, stopping, streams


class Receipt(NamedTuple):
    """The record of a part that a worker returns; tiles never pass through a scheduler.

    Attributes
    ----------
    part : int
        The number of the part.
    path : str
        The file of the part.
    tiles : int
        The number of tiles of the part.
    seconds : float
    host : str
    stopped : bool
        Whether the worker was asked to stop before the part was done.
    """

    part: int
    path: str
    tiles: int
    seconds: float
    host: str
    stopped: bool


Task = Callable[[int], Receipt]
AnyExecutor = Executor | Callable[[], Executor]  # an executor, or a function that makes one


@dataclass
class _Worker:
    """The state of this process as a worker.

    busy : whether it computes a part
    replaceable : whether it ends once it was asked to stop, so that its pool starts another one
    pool_ends : whether all workers of the pool were asked to stop; none then leaves by itself,
        since some pools kill the others when one has left
    threads : the number of threads of its parts; None if its pool has not set it
    parts_on_this_host : the number of parts that are computed on this machine at once
    deadline : a timer that ends the process if it takes too long to stop
    """

    busy: bool = False
    replaceable: bool = False
    pool_ends: bool = False
    threads: int | None = None
    parts_on_this_host: int = 1
    deadline: threading.Timer | None = None

    def stop(self) -> None:
        """React to a signal that asks to stop."""
        # the process that would end an idle worker of a pool that ends may be gone
        if self.busy or self.pool_ends:
            self.deadline = stopping.leave_after(stopping.WORKER_PATIENCE)
        if self.busy:
            stopping.ask()
        elif self.replaceable and not self.pool_ends:
            stopping.leave()
        else:  # stop the next part; an exception here would end a rank that others wait for
            with stopping.gently():
                stopping.ask()

    def has_stopped(self) -> None:
        """End this process after a stopped part, unless its pool would not replace it."""
        if self.replaceable and not self.pool_ends:
            stopping.leave()  # a worker that stayed would stop all further parts too
        if self.deadline and not self.replaceable:
            self.deadline.cancel()


_worker = _Worker()


class Share(NamedTuple):
    """The number of parts that a pool computes at once here, for workers that do not know it.

    parts : the number of parts at once
    processes : whether each part has a process of its own, which would use all cores
    """

    parts: int = 1
    processes: bool = False


_share = ContextVar("share", default=Share())  # noqa: B039 (a Share is immutable)


def attempt(task: Task, part: int, number: int, share: Share) -> Receipt:
    """Run ``task(part)`` in a worker.

    number : the number of the try; some schedulers would return the earlier result of an equal call
    share : see `Share`
    """
    _worker.busy = True
    token = _share.set(share)
    try:
        stopping.check()
        receipt = task(part)
    except stopping.StopRequested:
        receipt = Receipt(
            part=part, path="", tiles=0, seconds=0.0, host=platform.node(), stopped=True
        )
    finally:
        _worker.busy = False
        _share.reset(token)
    if receipt.stopped:
        _worker.has_stopped()
    return receipt


def worker_threads() -> int | None:
    """Return the number of threads that a part may use here; None for all of the machine."""
    share = _share.get()
    if _worker.threads is None and share.processes:
        return max(1, machine.available_threads() // share.parts)
    return _worker.threads


def parts_on_this_host() -> int:
    """Return the number of parts that share this machine's memory, as far as it is known here.

    A worker of Dask computes as many parts in one process as it has threads. Their kernels take
    turns (`engine.kernel`), so each part uses all of these threads in its turn, but has its own
    buffers.
    """
    return max(_worker.parts_on_this_host, _share.get().parts, machine.dask_threads() or 1)


class LocalPool(Executor):
    """Worker processes on this machine that stop when asked to, or when this process is gone.

    Each worker holds the receiving end of a pipe; only this process holds the sending end. Closing
    it asks the workers to stop. If this process is killed, the system closes it, so that no worker
    outlives this process for long.

    Parameters
    ----------
    workers : the number of workers
    make : the class of the pool, by default the standard one
        The workers are new processes, not forks: a fork dies in parallel code of GNU OpenMP.
    """

    def __init__(self, workers: int, make: Callable[..., Executor] | None = None) -> None:
        spawn = get_context("spawn")
        self._stop_receiver, self._stop_sender = spawn.Pipe(duplex=False)
        self._pool = (make or partial(ProcessPoolExecutor, mp_context=spawn))(
            max_workers=workers,
            initializer=_begin_process,
            initargs=(self._stop_receiver, workers),
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(fn, *args, **kwargs)

    def stop(self) -> None:
        """Ask the workers to stop; each ends within `stopping.WORKER_PATIENCE` seconds."""
        self._stop_sender.close()

    def shutdown(self, wait: bool = True, **options: Any) -> None:
        self._pool.shutdown(wait, **options)
        if wait:
            self._stop_sender.close()
            self._stop_receiver.close()


def _begin_process(stop_receiver: Connection, workers: int) -> None:
    """Set up this process as a worker of a `LocalPool`."""
    streams.occupy()
    _worker.replaceable, _worker.parts_on_this_host = True, workers
    stopping.on_first_signal(_worker.stop)

    def wait_for_stop() -> None:
        with suppress(EOFError, OSError):
            stop_receiver.poll(None)
        _worker.pool_ends = True
        os.kill(os.getpid(), signal.SIGTERM)  # StopRequested is raised on the main thread

    threading.Thread(target=wait_for_stop, name="wait-for-stop", daemon=True).start()


def begin_rank(threads: int, ranks: int) -> None:
    """Set up this process as a rank of MPI, one of `ranks` on this machine."""
    streams.occupy()
    _worker.threads, _worker.parts_on_this_host = threads, ranks
    machine.share_node(ranks)
    stopping.on_first_signal(_worker.stop)
