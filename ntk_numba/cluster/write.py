"""`write_gram`: a job to disk, whole, one part of it, or all parts by an executor."""

import contextlib
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from numpy.typing import DTypeLike

from ntk_numba import stopping
from ntk_numba.arguments import (
    Data,
    Kernels,
    Layers,
    Layout,
    Policy,
    parse_bytes,
    whole_number,
)
from ntk_numba.cluster.cover import merged, part_path
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.merge import merge
from ntk_numba.cluster.workers import Receipt, neighbours, worker_threads
from ntk_numba.compute.plan import Plan, make_plan
from ntk_numba.compute.stream import contents_of, prepare, stream_tiles
from ntk_numba.engine.kernel import NUMERICS
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.reader import GramFile, existing, open_gram
from ntk_numba.gramfile.storage import parse_layout
from ntk_numba.gramfile.writer import GramWriter, check_folder, output_path
from ntk_numba.grid import Part, parse_part
from ntk_numba.inputs.source import Source, open_sources
from ntk_numba.machine import available_memory
from ntk_numba.network import MLP


@dataclass(frozen=True)
class Job:
    """The arguments of `write_gram` that say what is computed, and of what."""

    net: MLP
    x: Data | Source
    z: Data | Source | None
    kernels: Kernels
    layers: Layers
    dtype: DTypeLike | None
    memory: int | str | None
    threads: int | None
    largest_norm: float | None

    def plan(self, x: Source, z: Source | None, part: Part | None) -> Plan:
        """Of the whole job, or of a part."""
        return make_plan(
            self.net,
            x,
            z,
            kernels=self.kernels,
            layers=self.layers,
            dtype=self.dtype,
            memory=self.memory,
            threads=self.threads,
            part=part,
            largest_norm=self.largest_norm,
        )


def write_gram(
    net: MLP,
    X: Data,
    path: str | os.PathLike[str],
    *,
    Z: Data | None = None,
    kernels: Kernels = ("ntk",),
    layers: Layers = "last",
    dtype: DTypeLike | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    part: tuple[int, int] | str | None = None,
    parts: int | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    layout: Layout = "full",
    overwrite: bool = False,
    progress: bool = False,
    largest_norm: float | None = None,
) -> GramFile:
    """The kernels of `gram`, bit for bit, written to an HDF5 file, for any N and M.

    Parameters
    ----------
    net, X, Z, kernels, layers, dtype, threads : see `gram`
        Arrays are read in place, maps, .npy and HDF5 files in runs of rows; .npz and .csv files
        whole.
    path : the file to write
        One that is complete and of the same contents is left as it is; one of other contents is
        refused. It appears when it is complete; until then it is ``<path>.partial``, which the same
        call goes on with, however an earlier one ended.
    memory : int or str
        Bytes, or "2GiB": what the process may take, see `jobs.plan.make_plan`. By default a quarter
        of what it may use.
    part : (i, n) or "i/n"
        Compute the i-th of n parts only, counted from 1, into ``<stem>.part-<i>-of-<n>.h5`` beside
        `path`, and return that file. Parts have equally many tiles, up to one; each reads the
        rows of X that it needs, on average about 2/√(2n) of them. `merge` puts them together. A
        part that was merged and deleted is not computed again; what is returned then is the file
        that has its tiles, complete or not.
    parts, executor : int; concurrent.futures.Executor, or a function that makes one
        Compute so many parts, each by a call that the executor runs, and merge them; X and Z have
        to be paths that its workers can read, and `path` one that they can write. A part whose
        worker is lost is tried again, up to three times. Without an executor, here, one part
        after another.
    layout : str
        "full", the matrix, or "lower": of a symmetric one only the tiles on and below the diagonal,
        half of the bytes; ``f.ntk[i, j]`` answers everywhere all the same.
    overwrite : bool
        Replace what is there when the job is complete, and the beginning of any other job at once.
    progress : bool
        Show tiles, rate and remaining time on standard error.
    largest_norm : float, optional
        The largest Euclidean norm of all rows of X and Z, where it is known. Activations that are
        series (tanh, silu, …) or of elu's kind are fitted to it, and without it each part reads all
        rows to find it; other networks make no use of it. All parts of a job need the same; with
        `parts` it is found once and handed on. A row of a larger norm is refused; a number that is
        too large gives a valid result of other bits, whose bound is in the file.

    Returns
    -------
    GramFile
        Open for reading.

    Raises
    ------
    ValueError, TypeError
        As `gram`; an output, or the beginning of one, that exists with other contents; too little
        memory; a part that there is not.
    OSError
        An output folder that is missing or cannot be written, not enough disk, another process
        writing the same file.
    StoppedError
        An OSError: the disk, a quota or the memory failed later, or parts could not be computed;
        the text names them. What is done is kept, and the same call goes on.
    """
    job = Job(
        net=net,
        x=X,
        z=Z,
        kernels=kernels,
        layers=layers,
        dtype=dtype,
        memory=memory,
        threads=threads,
        largest_norm=largest_norm,
    )
    policy = Policy(overwrite, progress)
    stored = parse_layout(layout, Z is None)
    target = output_path(path)
    if part is not None:
        if stored:
            raise InvalidValueError(
                "a part has no layout: say layout='lower' when parts are merged"
            )
        if parts is not None or executor is not None:
            raise InvalidValueError(
                "part computes one part, parts and executor all of them: give either"
            )
        return _write_one(job, target, parse_part(part), policy)
    if parts is not None:
        count = whole_number("parts", parts)
        return _write_parts(job, target, count, policy, executor=executor, layout=layout)
    if executor is not None:
        raise InvalidValueError("an executor computes parts: say how many, as parts=16")
    return _write(job, target, stored, policy)


def _write(
    job: Job,
    target: Path,
    part: Part | None,
    policy: Policy,
    *,
    whole: Path | None = None,
) -> GramFile:
    """Compute a file here.

    whole : of a part, the file that it is merged into, and perhaps was, and then deleted. Parts
        have an owner who deletes what he wants anew: of the same contents they are never replaced.
    """
    x, z = open_sources(job.x, job.z)
    plan = job.plan(x, z, part)
    _check_target(target, x, z, overwrite=policy.overwrite)
    contents = contents_of(plan, x, z)
    if target.exists():
        if not policy.overwrite:
            return existing(target, contents)
        if whole is not None:
            with contextlib.suppress(ValueError):
                return existing(target, contents)
    elif whole is not None and (found := merged(whole, contents, NUMERICS, policy)):
        return open_gram(found, incomplete=True)
    try:
        with stopping.gently():
            kernel = prepare(plan, x, z)
            with GramWriter(target, contents, NUMERICS, policy) as writer:
                tiles, done, progress = writer.tiles, writer.done, policy.progress
                stream_tiles(plan, kernel, x, z, tiles, done=done, progress=progress)
    except FileExistsError:  # another job has completed it since we looked
        return existing(target, contents)
    return open_gram(target)


def _write_one(job: Job, target: Path, part: Part, policy: Policy) -> GramFile:
    """Compute one part of a file here."""
    return _write(job, part_path(target, part), part, policy, whole=target)


def _check_target(target: Path, x: Source, z: Source | None, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, or that is the data itself."""
    check_folder(target, write=overwrite or not target.exists())
    for source in (x, z):
        if source and source.file and target.exists() and target.samefile(source.file):
            raise InvalidValueError(f"{target} is the data itself; choose another output")


def _write_parts(
    job: Job,
    target: Path,
    count: int,
    policy: Policy,
    *,
    executor: Executor | Callable[[], Executor] | None,
    layout: Layout,
) -> GramFile:
    """Compute all parts, here or by an executor, and merge them."""
    x, z = open_sources(job.x, job.z)
    plan = job.plan(x, z, parse_layout(layout, z is None))
    plan.grid.size(Part(1, count))  # refuses more parts than tiles
    _check_target(target, x, z, overwrite=policy.overwrite)
    job = replace(job, largest_norm=plan.largest_norm)
    if executor is None:
        job = replace(job, x=x, z=z)  # what one part has read of them, the next one knows
    else:
        job = replace(
            job,
            x=_absolute("X", job.x),
            z=None if job.z is None else _absolute("Z", job.z),
        )
        target = target.absolute()
    paths = [part_path(target, Part(number, count)) for number in range(1, count + 1)]
    if target.exists() and not policy.overwrite:
        file = existing(target, contents_of(plan, x, z))
        if any(path.exists() for path in paths):  # a kill came between the last two steps
            with contextlib.suppress(ValueError):  # they are another job's
                merge(paths, target, layout=layout, delete_parts=True).close()
        return file
    task = partial(compute_part, job, target, count, replace(policy, progress=False))
    if executor is None:
        with stopping.gently():
            for number in range(1, count + 1):
                task(number)
                stopping.check()
    else:
        run_parts(executor, task, range(1, count + 1), progress=policy.progress)
    return merge(
        paths,
        target,
        layout=layout,
        delete_parts=True,
        overwrite=policy.overwrite,
        progress=policy.progress,
    )


def _absolute(name: str, data: Data | Source) -> str:
    """Return the absolute path of data that the workers of an executor have to read."""
    if not isinstance(data, str | os.PathLike):
        raise InvalidTypeError(
            f"{name} is read by every worker of the executor: give the path of a file, "
            f"not {type(data).__name__}"
        )
    return os.path.abspath(data)  # noqa: PTH100


def compute_part(job: Job, target: Path, count: int, policy: Policy, number: int) -> Receipt:
    """Compute one part, wherever this runs; one that is there already costs reading its rows."""
    start, part = time.monotonic(), Part(number, count)
    if job.threads is None:
        job = replace(job, threads=worker_threads())
    if (sharing := neighbours()) > 1:
        all_of_it = (
            available_memory() // 4 if job.memory is None else parse_bytes(job.memory, "memory")
        )
        job = replace(job, memory=all_of_it // sharing)
    tiles, stopped = 0, False
    try:
        with _write_one(job, target, part, policy) as file:
            tiles = file.contents.grid.size(part)
    except stopping.StopRequested:  # is nothing that a scheduler can carry
        stopped = True
    seconds, path = time.monotonic() - start, part_path(target, part)
    return Receipt(
        part=number,
        path=str(path),
        tiles=tiles,
        seconds=seconds,
        host=platform.node(),
        stopped=stopped,
    )
