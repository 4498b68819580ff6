"""Kinds of executors: what is known of each, and how the command line opens it.

A new scheduler is one class here, with its place in `KINDS`. What a package provides is imported
only when it is opened; of an executor that a user has made, its class is recognised by its name.
"""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from ntk_numba.arguments import whole_number
from ntk_numba.cluster.workers import AnyExecutor, LocalPool, Share, begin_rank
from ntk_numba.errors import InvalidTypeError, InvalidValueError, MissingFileError, file_error
from ntk_numba.machine import threads_to_use

# For a scheduler that is started by the same script, which writes its file when it is ready. Dask's
# own client would wait for ever.
SCHEDULER_STARTS = 60.0  # s

Opened = tuple[AnyExecutor | None, int | None]


class Pool:
    """An executor of any kind; a context that ends it if it was made here.

    This base class serves executors of which nothing else is known.

    Parameters
    ----------
    executor : Executor
    make : function that makes another one, if there is one
    ours : whether it was made here

    Attributes
    ----------
    word, forms : how the command line names the kind, and what it may look like there
    classes : the beginnings of the full names of the classes of such executors
    """

    word: ClassVar[str] = ""
    forms: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, executor: Executor, make: Callable[[], Executor] | None, *, ours: bool
    ) -> None:
        self.executor, self._make, self._ours = executor, make, ours

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        """Whether the command line may give this argument after a colon; None is none."""
        return argument is None

    @classmethod
    def open(
        cls, argument: str | None, threads: int | None
    ) -> contextlib.AbstractContextManager[Opened]:
        """Return a context of an executor, and of the threads of each part."""
        raise NotImplementedError

    @property
    def can_renew(self) -> bool:
        """Whether another executor can take the place of one that is broken."""
        return self._make is not None

    def renew(self) -> None:
        """Make another one; the workers of the broken one are gone before it begins."""
        assert self._make is not None
        self.executor.shutdown(wait=True)
        self.executor = self._make()

    def share(self, parts: int) -> Share:
        """Return what it computes at once on this machine, if its workers do not know."""
        return Share()

    def check(self) -> None:
        """Raise an error if the executor is gone, where those who wait may not be told."""

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error of a part says that the workers that had it were lost."""
        return False

    def stop(self) -> bool:
        """Ask the workers to stop; False if they are of a kind that does not listen."""
        return False

    def shutdown(self, *, wait: bool) -> None:
        """End the executor."""
        self.executor.shutdown(wait=wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ours:
            self.shutdown(wait=error is None)


class Threads(Pool):
    """The standard pool of threads."""

    classes = (f"{ThreadPoolExecutor.__module__}.ThreadPoolExecutor",)

    def share(self, parts: int) -> Share:
        return Share(_workers_of(self.executor, parts))


class StandardProcesses(Pool):
    """The standard pool of processes, each of which would use all cores."""

    classes: ClassVar[tuple[str, ...]] = (f"{ProcessPoolExecutor.__module__}.ProcessPoolExecutor",)

    def share(self, parts: int) -> Share:
        workers = _workers_of(self.executor, parts)
        return Share(workers, workers > 1)


class Processes(Pool):
    """Our own pool of processes, which know of one another and listen when they are to stop."""

    word, forms = "processes", ("processes", "processes:4")
    classes = (f"{LocalPool.__module__}.LocalPool",)
    executor: LocalPool

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        return argument is None or argument.isdigit()

    @classmethod
    def open(
        cls, argument: str | None, threads: int | None
    ) -> contextlib.AbstractContextManager[Opened]:
        return contextlib.nullcontext(_local_pool(cls.word, argument, threads, make=None))

    def stop(self) -> bool:
        self.executor.stop()
        return True

    def shutdown(self, *, wait: bool) -> None:
        self.executor.shutdown(wait=True)


class Loky(StandardProcesses):
    """A pool of loky, or the reusable one, which loky makes again when it is broken."""

    word, forms = "loky", ("loky", "loky:4")
    classes = ("loky.", "joblib.externals.loky.")

    def __init__(
        self, executor: Executor, make: Callable[[], Executor] | None, *, ours: bool
    ) -> None:
        home = type(executor).__module__
        if make is None and home.endswith("loky.reusable_executor"):
            make = partial(sys.modules[home].get_reusable_executor, reuse=True)
        super().__init__(executor, make, ours=ours)

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        return Processes.understands(argument)

    @classmethod
    def open(
        cls, argument: str | None, threads: int | None
    ) -> contextlib.AbstractContextManager[Opened]:
        make = _optional("loky", "loky", "loky").ProcessPoolExecutor
        return contextlib.nullcontext(_local_pool(cls.word, argument, threads, make=make))


class Dask(Pool):
    """A client of Dask."""

    word, forms = "dask", ("dask:tcp://HOST:PORT", "dask:SCHEDULER.json")
    classes = ("distributed.",)

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        return bool(argument)

    @classmethod
    @contextlib.contextmanager
    def open(cls, argument: str | None, threads: int | None) -> Iterator[Opened]:
        assert argument
        with _dask(argument) as executor:
            yield executor, threads

    def check(self) -> None:
        self.executor.submit(os.getpid).cancel()  # raises what a client says that was closed

    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, sys.modules["distributed"].KilledWorker)


class Mpi(Pool):
    """The ranks of MPI."""

    word, forms = "mpi", ("mpi",)

    @classmethod
    @contextlib.contextmanager
    def open(cls, argument: str | None, threads: int | None) -> Iterator[Opened]:
        with _mpi() as executor:
            yield executor, threads if executor else None


KINDS: tuple[type[Pool], ...] = (Processes, Loky, Dask, Mpi, Threads, StandardProcesses)


def pool_of(executor: AnyExecutor) -> Pool:
    """Return an executor, or one that a function makes, as a pool of its kind.

    Raises
    ------
    TypeError
        It is neither.
    """
    given, make = executor, None
    if not isinstance(executor, Executor) and callable(executor):
        make = executor
        executor = make()
    if not isinstance(executor, Executor):
        raise InvalidTypeError(
            "executor must be a concurrent.futures.Executor or a function that makes one, not "
            f"{given!r}; a Client of Dask gives one: client.get_executor(pure=False)"
        )
    names = [f"{c.__module__}.{c.__qualname__}" for c in type(executor).__mro__]
    for kind in KINDS:
        if any(name.startswith(kind.classes) for name in names):
            return kind(executor, make, ours=make is not None)
    return Pool(executor, make, ours=make is not None)


def _workers_of(executor: Executor, parts: int) -> int:
    """Return how many parts of so many a pool computes at once.

    How many workers it has, only its private attribute knows.
    """
    return min(getattr(executor, "_max_workers", 1), parts)


def _local_pool(
    kind: str, argument: str | None, threads: int | None, *, make: Callable[..., Executor] | None
) -> Opened:
    """Return what makes a pool of our own, and the threads of each of its parts."""
    workers = whole_number(f"--executor {kind}", int(argument or 1))
    return partial(LocalPool, workers, make), max(1, threads_to_use(threads) // workers)


@contextlib.contextmanager
def open_executor(text: str, threads: int | None) -> Iterator[Opened]:
    """Open the executor that the command line names, and say how many threads each part has.

    Parameters
    ----------
    text : str
        ``processes`` or ``processes:4``: new processes on this machine, which share its threads. By
        default one, since a part keeps all cores busy by itself, writes while it computes, and
        shares its samples with no other.
        ``loky``, ``loky:4``: the same by loky.
        ``dask:tcp://host:8786``, ``dask:scheduler.json``: a cluster of Dask that is there; for the
        file of one that is only starting we wait up to `SCHEDULER_STARTS`.
        ``mpi``: the ranks of mpiexec or srun; rank 0 hands out the parts, the others compute.
    threads : int or None
        At most, of ``processes`` and ``loky`` together, else for each part. None for all: then a
        part asks `workers.worker_threads`.

    Yields
    ------
    (executor, threads)
        (None, None) on all ranks of MPI but 0, after they have served.

    Raises
    ------
    ValueError
        A name that is none of these; a package that is not installed; MPI with one rank.
    OSError
        A cluster of Dask that does not answer.
    """
    word, colon, rest = text.partition(":")
    argument = rest if colon else None
    for kind in KINDS:
        if kind.word == word and word and kind.understands(argument):
            with kind.open(argument, threads) as opened:
                yield opened
            return
    *some, last = [form for kind in KINDS for form in kind.forms]
    raise InvalidValueError(f"--executor {text!r} is unknown; take {', '.join(some)} or {last}")


def _optional(module: str, package: str, extra: str) -> Any:
    """A module of a package that is needed only here."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InvalidValueError(
            f"--executor {extra} needs the package {package}: pip install 'ntk_numba[{extra}]'"
        ) from None
    except RuntimeError as error:  # as mpi4py says that it finds no library
        raise InvalidValueError(f"--executor {extra}: {error}") from None


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    distributed = _optional("distributed", "distributed", "dask")
    place = {"address": address}
    if address.endswith(".json"):
        deadline = time.monotonic() + SCHEDULER_STARTS
        while not Path(address).is_file():
            if time.monotonic() > deadline:
                raise MissingFileError(
                    f"--executor dask: there is no scheduler file {address}, "
                    f"after {SCHEDULER_STARTS:g} s of waiting for one"
                )
            time.sleep(0.1)
        place = {"scheduler_file": address}
    try:
        client = distributed.Client(**place)
    except (OSError, ValueError) as error:
        raise file_error(error, f"--executor dask: no scheduler at {address}: {error}") from None
    with client:
        yield client.get_executor(pure=False)  # else a part that failed would not be tried again


@contextlib.contextmanager
def _mpi() -> Iterator[Executor | None]:
    mpi = _optional("mpi4py.MPI", "mpi4py", "mpi")
    futures = _optional("mpi4py.futures", "mpi4py", "mpi")
    world = mpi.COMM_WORLD
    if world.size == 1:
        raise InvalidValueError(
            "--executor mpi needs several ranks, one to hand out the parts: mpiexec -n 4 ntk-numba "
            "…; leave --executor out to compute in this process"
        )
    # a rank that is bound to cores has them alone; those that are not share what they may use
    cores = os.sched_getaffinity(0)
    node = world.Split_type(mpi.COMM_TYPE_SHARED).allgather((world.rank, cores))
    workers = [theirs for rank, theirs in node if rank != 0]
    sharing = sum(1 for theirs in workers if theirs & cores)
    if world.rank != 0:
        begin_rank(max(1, len(cores) // sharing), len(workers))
    with futures.MPICommExecutor(world, root=0) as pool:
        yield pool
