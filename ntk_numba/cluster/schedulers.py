"""The executors that the command line names; what they need is imported only here."""

import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from ntk_numba.arguments import whole_number
from ntk_numba.cluster.workers import AnyExecutor, LocalPool, begin_rank
from ntk_numba.errors import InvalidValueError, MissingFileError, file_error
from ntk_numba.machine import threads_to_use

# For a scheduler that is started by the same script, which writes its file when it is ready. Dask's
# own client would wait for ever.
SCHEDULER_STARTS = 60.0  # s


@contextlib.contextmanager
def open_executor(
    text: str, threads: int | None
) -> Iterator[tuple[AnyExecutor | None, int | None]]:
    """The executor that the command line names, and the threads of each part.

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
    kind, colon, rest = text.partition(":")
    if kind in ("processes", "loky") and (rest.isdigit() or not colon):
        workers = whole_number(f"--executor {kind}", int(rest or 1))
        make = _optional("loky", "loky", kind).ProcessPoolExecutor if kind == "loky" else None
        yield partial(LocalPool, workers, make), max(1, threads_to_use(threads) // workers)
    elif kind == "dask" and rest:
        with _dask(rest) as executor:
            yield executor, threads
    elif text == "mpi":
        with _mpi() as executor:
            yield executor, threads if executor else None
    else:
        raise InvalidValueError(
            f"--executor {text!r} is unknown; take processes, processes:4, loky, loky:4, "
            "dask:tcp://HOST:PORT, dask:SCHEDULER.json or mpi"
        )


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
