"""Kinds of executors: how each one behaves, and how the command line opens it.

To add a scheduler, write one class here and add it to `KINDS`. The package of a scheduler is
imported only when it is opened; an executor that a user has made is recognised by the name of its
class.
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
from ntk_numba.machine import allowed_cores, threads_to_use

# Seconds to wait for the file of a scheduler that the same script starts, and that writes the file
# when it is ready. Dask's own client would wait for ever.
SCHEDULER_STARTS = 60.0

# An executor, and the number of threads of a part; see `open_executor`
ExecutorAndThreads = tuple[AnyExecutor | None, int | None]


class Pool:
    """An executor of any kind; a context that ends the executor if `pool_of` made it.

    This base class serves executors of an unknown kind.

    Parameters
    ----------
    executor : Executor
    make : the function that has made the executor and can make another one; None if it was given

    Attributes
    ----------
    word, forms : the name of the kind on the command line, and examples of its arguments
    classes : the beginnings of the full names of the classes of such executors
    """

    word: ClassVar[str] = ""
    forms: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, executor: Executor, make: Callable[[], Executor] | None) -> None:
        self.executor, self._make = executor, make
        self._ours = make is not None  # it has to be ended here

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        """Return whether this kind accepts the text after a colon; None stands for no colon."""
        return argument is None

    @classmethod
    def open(
        cls, argument: str | None, threads: int | None
    ) -> contextlib.AbstractContextManager[ExecutorAndThreads]:
        """Return a context that yields an executor, and the number of threads of each part."""
        raise NotImplementedError

    @property
    def can_renew(self) -> bool:
        """Whether a broken executor can be replaced by another one."""
        return self._make is not None

    def renew(self) -> None:
        """Replace the executor, after all workers of the broken one have ended."""
        assert self._make is not None
        self.executor.shutdown(wait=True)
        self.executor = self._make()

    def share(self, parts: int) -> Share:
        """Return the number of parts computed at once here, for workers that do not know it."""
        return Share()

    def check(self) -> None:
        """Raise an error if the executor is gone but its futures would not show it."""

    def is_lost(self, error: BaseException) -> bool:
        """Return whether an error of a part says that its workers were lost."""
        return False

    def stop(self) -> bool:
        """Ask the workers to stop; return False if this kind of workers cannot be asked."""
        return False

    def shutdown(self, *, wait: bool) -> None:
        """End the executor."""
        self.executor.shutdown(wait=wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
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
    """The standard pool of processes, each of which would use all cores by default."""

    classes: ClassVar[tuple[str, ...]] = (f"{ProcessPoolExecutor.__module__}.ProcessPoolExecutor",)

    def share(self, parts: int) -> Share:
        workers = _workers_of(self.executor, parts)
        return Share(workers, workers > 1)


class Processes(Pool):
    """Our own pool of processes, which know their number and can be asked to stop."""

    word, forms = "processes", ("processes", "processes:4")
    classes = (f"{LocalPool.__module__}.LocalPool",)
    executor: LocalPool

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        return argument is None or argument.isdigit()

    @classmethod
    def open(
        cls, argument: str | None, threads: int | None
    ) -> contextlib.AbstractContextManager[ExecutorAndThreads]:
        return contextlib.nullcontext(_local_pool(cls.word, argument, threads, make=None))

    def stop(self) -> bool:
        self.executor.stop()
        return True

    def shutdown(self, *, wait: bool) -> None:
        self.executor.shutdown(wait=True)


class Loky(StandardProcesses):
    """A pool of loky, or its reusable pool, which loky itself replaces when it is broken."""

    word, forms = "loky", ("loky", "loky:4")
    classes = ("loky.", "joblib.externals.loky.")

    def __init__(self, executor: Executor, make: Callable[[], Executor] | None) -> None:
        super().__init__(executor, make)
        home = type(executor).__module__
        if make is None and home.endswith("loky.reusable_executor"):
            self._make = partial(sys.modules[home].get_reusable_executor, reuse=True)

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        return Processes.understands(argument)

    @classmethod
    def open(
        cls, argument: str | None, threads: int | None
    ) -> contextlib.AbstractContextManager[ExecutorAndThreads]:
        make = _optional("loky", "loky", "loky").ProcessPoolExecutor
        return contextlib.nullcontext(_local_pool(cls.word, argument, threads, make=make))


class Dask(Pool):
    """The executor of a client of Dask."""

    word, forms = "dask", ("dask:tcp://HOST:PORT", "dask:SCHEDULER.json")
    classes = ("distributed.",)

    @classmethod
    def understands(cls, argument: str | None) -> bool:
        return bool(argument)

    @classmethod
    @contextlib.contextmanager
    def open(cls, argument: str | None, threads: int | None) -> Iterator[ExecutorAndThreads]:
        assert argument
        with _dask(argument) as executor:
            yield executor, threads

    def check(self) -> None:
        self.executor.submit(os.getpid).cancel()  # raises an error if the client is closed

    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, sys.modules["distributed"].KilledWorker)


class Mpi(Pool):
    """The ranks of MPI, of which rank 0 hands out the parts."""

    word, forms = "mpi", ("mpi",)

    @classmethod
    @contextlib.contextmanager
    def open(cls, argument: str | None, threads: int | None) -> Iterator[ExecutorAndThreads]:
        with _mpi() as executor:
            yield executor, threads if executor else None


KINDS: tuple[type[Pool], ...] = (Processes, Loky, Dask, Mpi, Threads, StandardProcesses)


def pool_of(executor: AnyExecutor) -> Pool:
    """Return an executor, or the executor that a function makes, as a pool of its kind.

    Raises
    ------
    TypeError
        `executor` is neither an executor nor a function that makes one.
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
            return kind(executor, make)
    return Pool(executor, make)


def _workers_of(executor: Executor, parts: int) -> int:
    """Return how many of `parts` parts a pool computes at once.

    Its number of workers is a private attribute.
    """
    return min(getattr(executor, "_max_workers", 1), parts)


def _local_pool(
    word: str, argument: str | None, threads: int | None, *, make: Callable[..., Executor] | None
) -> ExecutorAndThreads:
    """Return a function that makes a `LocalPool`, and the number of threads of each part."""
    workers = whole_number(f"--executor {word}", int(argument or 1))
    return partial(LocalPool, workers, make), max(1, threads_to_use(threads) // workers)


@contextlib.contextmanager
def open_executor(text: str, threads: int | None) -> Iterator[ExecutorAndThreads]:
    """Open the executor that the command line names, and yield it with the threads of a part.

    Parameters
    ----------
    text : str
        ``processes`` or ``processes:4``: new processes on this machine, which share its threads.
        The default is one process, since a part keeps all cores busy by itself, writes while it
        computes, and shares its samples with no other part.
        ``loky``, ``loky:4``: the same with processes of loky.
        ``dask:tcp://host:8786``, ``dask:scheduler.json``: a running cluster of Dask; the file of a
        cluster that is just starting is waited for, up to `SCHEDULER_STARTS`.
        ``mpi``: the ranks of mpiexec or srun; rank 0 hands out the parts, the others compute.
    threads : int or None
        The largest number of threads, in total for ``processes`` and ``loky``, else for each part.
        None for all; then a part calls `workers.worker_threads`.

    Yields
    ------
    (executor, threads)
        (None, None) on all ranks of MPI except 0, after they have computed their parts.

    Raises
    ------
    ValueError
        The name is none of these; the package is not installed; MPI has only one rank.
    OSError
        The cluster of Dask does not answer.
    """
    word, colon, after_colon = text.partition(":")
    argument = after_colon if colon else None
    for kind in KINDS:
        if kind.word == word and word and kind.understands(argument):
            with kind.open(argument, threads) as opened:
                yield opened
            return
    *forms, last = [form for kind in KINDS for form in kind.forms]
    raise InvalidValueError(f"--executor {text!r} is unknown; take {', '.join(forms)} or {last}")


def _optional(module: str, package: str, extra: str) -> Any:
    """Import a module of an optional package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InvalidValueError(
            f"--executor {extra} needs the package {package}: pip install 'ntk_numba[{extra}]'"
        ) from None
    except RuntimeError as error:  # raised by mpi4py if it finds no MPI library
        raise InvalidValueError(f"--executor {extra}: {error}") from None


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """Connect to a cluster of Dask, by its address or its file, and yield its executor."""
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
        yield client.get_executor(pure=False)  # pure: a part that failed would not be tried again


@contextlib.contextmanager
def _mpi() -> Iterator[Executor | None]:
    """Yield an executor on rank 0 of MPI; on the others compute parts first, and yield None."""
    mpi = _optional("mpi4py.MPI", "mpi4py", "mpi")
    futures = _optional("mpi4py.futures", "mpi4py", "mpi")
    world = mpi.COMM_WORLD
    if world.size == 1:
        raise InvalidValueError(
            "--executor mpi needs several ranks, one to hand out the parts: mpiexec -n 4 ntk-numba "
            "…; leave --executor out to compute in this process"
        )
    # a rank that is bound to cores has them alone; ranks that are not share the cores they may use
    cores = allowed_cores()
    node = world.Split_type(mpi.COMM_TYPE_SHARED).allgather((world.rank, cores))
    cores_of_workers = [rank_cores for rank, rank_cores in node if rank != 0]
    sharing = sum(1 for rank_cores in cores_of_workers if rank_cores & cores)
    if world.rank != 0:
        begin_rank(max(1, len(cores) // sharing), len(cores_of_workers))
    with futures.MPICommExecutor(world, root=0) as pool:
        yield pool
