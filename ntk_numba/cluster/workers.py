"""The workers' side of parts: what goes back, what a worker may use, and how it is asked to stop.

A part that is stopped is whole on disk as far as it went, and `StopRequested` never crosses a
scheduler, which would not know what to do with it.
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

from ntk_numba import machine, stopping


class Receipt(NamedTuple):
    """What comes back of a part, and all that does: a tile never passes through a scheduler.

    Attributes
    ----------
    part : int, as it was asked for
    path : str, its file
    tiles : int, of the part
    seconds : float
    host : str
    stopped : bool
        Whether it was asked to stop before its end.
    """

    part: int
    path: str
    tiles: int
    seconds: float
    host: str
    stopped: bool


Task = Callable[[int], Receipt]
AnyExecutor = Executor | Callable[[], Executor]  # or what makes one


@dataclass
class _Worker:
    """Keep the state of this process as a worker.

    busy : it computes a part
    replaceable : it ends once it was asked to stop, and its pool starts another one
    pool_ends : all workers of the pool were asked to stop; some pools kill the rest when one has
        left, so that none leaves by itself
    threads : that its parts may use; None if its pool has not said so
    neighbours : parts that are computed on this machine at once
    deadline : ends it when it takes too long to stop
    """

    busy: bool = False
    replaceable: bool = False
    pool_ends: bool = False
    threads: int | None = None
    neighbours: int = 1
    deadline: threading.Timer | None = None

    def stop(self) -> None:
        """React to a signal that asks to stop."""
        # an idle worker of a pool that ends may have lost the process that would end it
        if self.busy or self.pool_ends:
            self.deadline = stopping.leave_after(stopping.WORKER_PATIENCE)
        if self.busy:
            stopping.ask()
        elif self.replaceable and not self.pool_ends:
            stopping.leave()
        else:  # for the next part; what is raised here would end a rank that others wait for
            with stopping.gently():
                stopping.ask()

    def has_stopped(self) -> None:
        """Leave after a part that was stopped, or stay where the pool does not replace workers."""
        if self.replaceable and not self.pool_ends:
            stopping.leave()  # if it stayed, it would stop all further parts too
        if self.deadline and not self.replaceable:
            self.deadline.cancel()


_worker = _Worker()


class Share(NamedTuple):
    """What a pool computes at once on this machine, its workers knowing nothing of one another.

    parts : at once
    processes : whether each is in one of its own, which would use all cores
    """

    parts: int = 1
    processes: bool = False


_share = ContextVar("share", default=Share())  # noqa: B039 (it cannot be changed)


def attempt(task: Task, part: int, number: int, share: Share) -> Receipt:
    """``task(part)`` in a worker.

    `number` tells a try from those before it: to some schedulers the same call is the same result.
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
    """The threads that this worker's part may use; None if that is for the machine to say."""
    share = _share.get()
    if _worker.threads is None and share.processes:
        return max(1, machine.available_threads() // share.parts)
    return _worker.threads


def neighbours() -> int:
    """The parts that this machine computes at once, as far as is known here, sharing its memory.

    A worker of Dask computes as many in one process as it has threads. Their kernels take turns
    (`engine.kernel`), so each uses all of these threads in its turn, but has its own buffers.
    """
    return max(_worker.neighbours, _share.get().parts, machine.dask_threads() or 1)


class LocalPool(Executor):
    """Worker processes on this machine that stop when asked to, and when this process is gone.

    Each holds the reading end of a pipe whose other end is here alone: it is closed to have them
    stop, and by the system if this process is killed, so that no worker outlives it for long.

    Parameters
    ----------
    workers : int
    make : the class of the pool, by default the standard one
        Its workers are new processes and no forks: a fork dies in parallel code of GNU OpenMP.
    """

    def __init__(self, workers: int, make: Callable[..., Executor] | None = None) -> None:
        spawn = get_context("spawn")
        self._ear, self._line = spawn.Pipe(duplex=False)
        self._pool = (make or partial(ProcessPoolExecutor, mp_context=spawn))(
            max_workers=workers, initializer=_begin_process, initargs=(self._ear, workers)
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(fn, *args, **kwargs)

    def stop(self) -> None:
        """Ask the workers to stop; each ends within `stopping.WORKER_PATIENCE` seconds."""
        self._line.close()

    def shutdown(self, wait: bool = True, **options: Any) -> None:
        self._pool.shutdown(wait, **options)
        if wait:
            self._line.close()
            self._ear.close()


def _begin_process(ear: Connection, workers: int) -> None:
    """A worker of a `LocalPool` begins."""
    _worker.replaceable, _worker.neighbours = True, workers
    stopping.on_first_signal(_worker.stop)

    def listen() -> None:
        with suppress(EOFError, OSError):
            ear.poll(None)
        _worker.pool_ends = True
        os.kill(os.getpid(), signal.SIGTERM)  # what stops a part is raised on the main thread

    threading.Thread(target=listen, name="listen", daemon=True).start()


def begin_rank(threads: int, ranks: int) -> None:
    """A rank of MPI begins to serve, one of several on this machine."""
    _worker.threads, _worker.neighbours = threads, ranks
    machine.share_node(ranks)
    stopping.on_first_signal(_worker.stop)
