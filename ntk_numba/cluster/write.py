"""`write_gram`: computing a job into a file, as a whole, one part, or all parts by an executor."""

import contextlib
import os
import platform
import time
from collections.abc import Iterable
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
from ntk_numba.cluster.cover import find_merged, part_path
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.merge import merge
from ntk_numba.cluster.workers import AnyExecutor, Receipt, parts_on_this_host, worker_threads
from ntk_numba.compiled.processor import processor
from ntk_numba.compute.plan import Outline, Plan, find_largest_norm, make_plan, outline
from ntk_numba.compute.stream import contents_of, prepare, stream_tiles
from ntk_numba.engine.kernel import NUMERICS
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.place import (
    check_folder,
    check_space,
    is_taken,
    output_path,
    partial_of,
    refuse_inputs,
)
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.gramfile.storage import parse_layout
from ntk_numba.gramfile.stored import existing
from ntk_numba.gramfile.writer import TileWriter
from ntk_numba.grid import Part, parse_part
from ntk_numba.inputs.source import Source, open_sources
from ntk_numba.machine import available_memory
from ntk_numba.network import MLP


@dataclass(frozen=True)
class Job:
    """The arguments of `write_gram` that determine what is computed, and from which data."""

    net: MLP
    x: Data | Source
    z: Data | Source | None
    kernels: Kernels
    layers: Layers
    dtype: DTypeLike | None
    memory: int | str | None
    threads: int | None
    up_to: float | None

    def measured(self, x: Source, z: Source | None) -> "Job":
        """Return the job with the largest norm of its data, if an activation depends on it.

        A plan finds it too, but together with a digest, which takes three times as long.
        """
        return replace(self, up_to=find_largest_norm(self.net, x, z, self.up_to))

    def outline(self, x: Source, z: Source | None, part: Part | None) -> Outline:
        """Return the matrices of the job, or of a part of it, without reading a row."""
        return outline(
            self.net,
            x,
            z,
            kernels=self.kernels,
            layers=self.layers,
            dtype=self.dtype,
            part=part,
        )

    def plan(self, x: Source, z: Source | None, part: Part | None) -> Plan:
        """Plan the whole job, or a part of it."""
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
            up_to=self.up_to,
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
    executor: AnyExecutor | None = None,
    layout: Layout = "full",
    overwrite: bool = False,
    progress: bool = False,
    up_to: float | None = None,
) -> GramFile:
    """Write the kernels of `gram`, bit for bit the same, to an HDF5 file, for any N and M.

    Parameters
    ----------
    net, X, Z, kernels, layers, dtype, threads : see `gram`
        By default only Θ is computed, of the last layer; a file holds the last layer or all of
        them, and no list of layers. Arrays are read in place; memory maps, .npy, HDF5 and
        Parquet files are read in runs of rows; .npz and .csv files are read as a whole.
    path : str or path
        The file to write. A complete file with the same contents is left as it is; a file with
        other contents raises an error. The file appears when it is complete. Until then it is
        called ``<path>.partial``, and the same call continues it, however an earlier call ended.
    memory : int or str
        The memory that the process may take, in bytes or as "2GiB", see `compute.plan.make_plan`.
        The default is a quarter of the memory that is available to it.
        Data that a file would put into memory as a whole counts, and is refused before it is read.
    part : (i, n) or "i/n"
        Compute the i-th of n parts only, counted from 1, into ``<stem>.part-<i>-of-<n>.h5`` beside
        `path`, and return that file. The numbers of tiles of the parts differ by at most one; each
        part reads the rows of X that it needs, on average about 2/√(2n) of them. `merge` combines
        the parts. A part that was merged and deleted is not computed again; in that case the merged
        file that contains its tiles is returned, which may still be incomplete.
    parts, executor : int; concurrent.futures.Executor, or a function that makes one
        Compute this number of parts on the workers of the executor, and merge them. X and Z have to
        be paths that the workers can read, and `path` one that they can write. A part is tried up
        to three times if its worker is lost. Without an executor, the parts are computed in this
        process, one after another.
    layout : str
        "full" for the whole matrix, or "lower" to store only the tiles of a symmetric matrix on and
        below the diagonal, which take half of the bytes; ``f.ntk[i, j]`` can still be read for all
        i and j.
    overwrite : bool
        Replace an existing file when the job is complete, and an unfinished file of another job at
        once.
    progress : bool
        Show tiles, rate and remaining time on standard error.
    up_to : float, optional
        See `gram`: the largest Euclidean norm that a row of X or Z may have. Without it, each part
        reads all rows to find the largest norm, if an activation is fitted to it. It has to be the
        same for all parts of a job; with `parts` it is measured once and passed on. A number that
        is larger than necessary gives a valid result with other bits, whose error bound is in the
        file.

    Returns
    -------
    GramFile
        The file, open for reading.

    Raises
    ------
    ValueError, TypeError
        As `gram`; a complete or unfinished file with other contents exists; the memory is too
        small; there is no such part.
    OSError
        The output folder is missing or cannot be written, the disk has not enough space, or another
        process writes the same file.
    StoppedError
        An OSError: the disk, a quota or the memory failed later, or parts could not be computed;
        the text names them. Finished tiles are kept, and the same call continues.
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
        up_to=up_to,
    )
    policy = Policy(overwrite, progress)
    stored = parse_layout(layout, Z is None)
    target = output_path(path)
    if part is not None:
        if stored:
            raise InvalidValueError(
                "a part has no layout: give layout='lower' when parts are merged"
            )
        if parts is not None or executor is not None:
            raise InvalidValueError(
                "part computes one part, parts and executor all of them: give one or the other"
            )
        return _write_part(job, target, parse_part(part), policy)
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
    """Compute a file in this process.

    whole : for a part, the file into which it is merged, which may already have its tiles. A part
        with the same contents is never replaced, even with `overwrite`: to compute it again, the
        user deletes it.
    """
    _check_folder(target, policy)
    x, z = open_sources(job.x, job.z, job.memory)
    _refuse_data(target, x, z)
    begun = [target] if whole is None else [target, whole]
    _check_space(target, job.outline(x, z, part), begun, policy)
    plan = job.plan(x, z, part)
    contents = contents_of(plan, x, z)
    if is_taken(target):
        if not policy.overwrite:
            return existing(target, contents, open_gram)
        if whole is not None:
            with contextlib.suppress(ValueError):
                return existing(target, contents, open_gram)
    elif whole is not None and (found := find_merged(whole, contents, NUMERICS, policy)):
        return open_gram(found, incomplete=True)
    try:
        with stopping.gently():
            kernel = prepare(plan, x, z)
            with TileWriter(target, contents, NUMERICS, policy, processor=processor()) as writer:
                stream_tiles(
                    plan, kernel, x, z, writer.tiles, done=writer.done, check=writer.check,
                    progress=policy.progress,
                )  # fmt: skip
    except FileExistsError:  # another job has completed it since the check above
        return existing(target, contents, open_gram)
    return open_gram(target)


def _write_part(job: Job, target: Path, part: Part, policy: Policy) -> GramFile:
    """Compute one part of a file in this process."""
    return _write(job, part_path(target, part), part, policy, whole=target)


def _check_folder(target: Path, policy: Policy) -> None:
    """Raise an error if an output cannot be written; this is before X is opened."""
    check_folder(target, write=policy.overwrite or not target.exists())


def _refuse_data(target: Path, x: Source, z: Source | None) -> None:
    """Raise an error if an output is the data itself."""
    refuse_inputs(target, x.paths | (z.paths if z else set()), "the data itself")


def _check_space(target: Path, output: Outline, begun: Iterable[Path], policy: Policy) -> None:
    """Raise an error if the disk is too small for an output; this is before X is read.

    begun : files that, if one of them or its unfinished form exists, may already have the space
    """
    there = [path for path in begun if partial_of(path).exists() or path.exists()]
    if not there or (policy.overwrite and there == [target] and not partial_of(target).exists()):
        check_space(target, output)


def _write_parts(
    job: Job,
    target: Path,
    count: int,
    policy: Policy,
    *,
    executor: AnyExecutor | None,
    layout: Layout,
) -> GramFile:
    """Compute all parts, in this process or on an executor, and merge them."""
    _check_folder(target, policy)
    x, z = open_sources(job.x, job.z, job.memory)
    _refuse_data(target, x, z)
    whole = job.outline(x, z, parse_layout(layout, z is None))
    whole.grid.size(Part(1, count))  # raises an error if there are more parts than tiles
    paths = [part_path(target, Part(number, count)) for number in range(1, count + 1)]
    check_folder(paths[0], write=False)  # its name is longer
    _check_space(target, whole, [target, *paths], policy)
    plan = job.plan(x, z, whole.part)
    job = replace(job, up_to=plan.largest_norm)
    if executor is None:
        # an open source keeps the survey of its rows for the next part
        job = replace(job, x=x, z=z)
    else:
        job = replace(
            job,
            x=shared_path("X", job.x),
            z=None if job.z is None else shared_path("Z", job.z),
        )
    if is_taken(target) and not policy.overwrite:
        file = existing(target, contents_of(plan, x, z), open_gram)
        # parts are left if an earlier call was killed before it deleted them
        if any(path.exists() for path in paths):
            with contextlib.suppress(ValueError):  # the parts are of another job
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


def shared_path(name: str, data: Data | Source) -> str:
    """Return the absolute path of data that the workers of an executor have to read."""
    if not isinstance(data, str | os.PathLike):
        raise InvalidTypeError(
            f"{name} is read by every worker of the executor: give the path of a file, "
            f"not {type(data).__name__}"
        )
    return os.path.abspath(data)  # noqa: PTH100


def compute_part(job: Job, target: Path, count: int, policy: Policy, number: int) -> Receipt:
    """Compute one part in this process; of a part that exists, only the rows are read."""
    start, part = time.monotonic(), Part(number, count)
    if job.threads is None:
        job = replace(job, threads=worker_threads())
    if (sharing := parts_on_this_host()) > 1:
        total = available_memory() // 4 if job.memory is None else parse_bytes(job.memory, "memory")
        job = replace(job, memory=total // sharing)
    tiles, stopped = 0, False
    try:
        with _write_part(job, target, part, policy) as file:
            tiles = file.contents.grid.size(part)
    except stopping.StopRequested:  # a scheduler could not pass it on
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
