"""Kernels to disk: tiles are computed in one buffer while those of the other are written."""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.engine.kernel import NUMERICS, Kernel
from ntk_numba.engine.tile import MIRROR_COLUMN, MIRROR_ROW, TILE_FIELDS, TO_COLUMN, TO_ROW
from ntk_numba.files.gram_file import GramFile, open_gram
from ntk_numba.files.layout import Contents
from ntk_numba.files.source import Source, open_source
from ntk_numba.files.store import GramWriter, check_folder, tidy
from ntk_numba.files.tiles import TileFile
from ntk_numba.jobs.plan import BATCHES, Plan, make_plan
from ntk_numba.jobs.sweep import make_kernel, sweep
from ntk_numba.network import KERNELS, MLP

# Threads that wait for the disk, so that it has several tiles in hand: file systems across a
# network need that, and it is twice as fast on a local disk where tiles are small
WRITERS = 4
# Batches that may be written and not yet durable: to wait for each took 10 % where the disk is busy
COMMITS = 4


def write_gram(
    net: MLP,
    X: Any,
    path: str | os.PathLike[str],
    Z: Any = None,
    kernels: str | Sequence[str] = ("ntk",),
    layers: str = "last",
    dtype: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
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
    overwrite : bool
        Replace what is there when the job is complete, and the beginning of any other job at once.
    progress : bool
        Show tiles, rate and remaining time on standard error.

    Returns
    -------
    GramFile
        Open for reading.

    Raises
    ------
    ValueError, TypeError
        As `gram`; an output, or the beginning of one, that exists with other contents; too little
        memory.
    OSError
        An output folder that is missing or cannot be written, not enough disk, another process
        writing the same file.
    StoppedError
        An OSError: the disk, a quota or the memory failed later. What is done is kept, and the same
        call goes on.
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()  # write where the link leads, as users of scratch disks expect
    x = open_source(X, "X")
    z = None if Z is None else open_source(Z, "Z")
    plan = make_plan(net, x, z, kernels, layers, dtype, memory, threads)
    check_folder(target, overwrite or not target.exists())
    for source in (x, z):
        if source and source.file and target.exists() and target.samefile(source.file):
            raise ValueError(f"{target} is the data itself; choose another output")
    contents = contents_of(plan, x, z)
    if target.exists() and not overwrite:
        return _existing(target, contents)
    try:
        with stopping.gently():
            kernel = prepare(plan, x, z)
            with GramWriter(target, contents, NUMERICS, overwrite, progress) as writer:
                stream_tiles(plan, kernel, x, z, writer.tiles, writer.done, progress)
    except FileExistsError:  # another job has completed it since we looked
        return _existing(target, contents)
    return open_gram(target)


def contents_of(plan: Plan, x: Source, z: Source | None) -> Contents:
    """What the file of a plan holds. Reads all of the data, for its digest."""
    return Contents(
        plan.net, plan.kernels, plan.every, plan.dtype, plan.grid,
        x.digest, z.digest if z is not None else "",
    )  # fmt: skip


def _existing(target: Path, contents: Contents) -> GramFile:
    """The complete file that is there, if it has these contents."""
    mend = "Choose another output, or overwrite it"
    try:
        existing = open_gram(target)
    except ValueError as error:
        raise ValueError(f"{error}. {mend}") from None
    if differences := contents.differences(existing.contents):
        existing.close()
        raise ValueError(f"{target} exists with other contents: {'; '.join(differences)}. {mend}")
    tidy(target)
    return existing


def prepare(plan: Plan, x: Source, z: Source | None) -> Kernel:
    """The kernel of a plan, compiled and tried on the longest samples.

    Raises
    ------
    ValueError
        A sample whose Σ(x,x) or Θ(x,x) is too large for the dtype.
    """
    kernel = make_kernel(plan, x)
    for source in (x,) if z is None else (x, z):
        samples = kernel.samples(source, source.longest, source.longest + 1)
    none = np.empty((0, TILE_FIELDS), np.int64)
    kernel.compute(none, samples, samples, *kernel.outputs(1, 1))
    return kernel


def stream_tiles(
    plan: Plan,
    kernel: Kernel,
    x: Source,
    z: Source | None,
    writer: TileFile,
    done: NDArray[np.bool_] | None = None,
    progress: bool = False,
) -> None:
    """Compute the tiles of a plan that are not done, and write them meanwhile."""
    grid = plan.grid
    height, width = grid.chunk
    # slots of one tile each below one another, two to a tile where there is a mirror image
    slots = 2 if grid.symmetric else 1
    buffers = [kernel.outputs(plan.batch * slots * height, width) for _ in range(BATCHES)]

    def write(k: int, i: int, j: int, outputs: tuple[NDArray[Any], ...]) -> None:
        places = [(i, j), (j, i)][: 1 if i == j else slots]
        for name, output in zip(KERNELS, outputs, strict=True):
            for layer in range(output.shape[0]):
                first = k * slots * height
                blocks = []
                for slot, (a, b) in enumerate(places):
                    block = output[layer, first + slot * height : first + (slot + 1) * height]
                    block[grid.height(a) :] = 0
                    block[:, grid.width(b) :] = 0
                    blocks.append(block)
                writer.write(name, layer, i, j, blocks[0], blocks[1] if blocks[1:] else None)

    before = 0 if done is None else int(np.count_nonzero(done))
    bar = tqdm(
        total=grid.count, initial=before, unit="tile", disable=not progress, smoothing=0.1
    )  # fmt: skip
    with bar, ThreadPoolExecutor(WRITERS + 1, "writer") as pool:
        writing: list[list[Future[None]]] = [[] for _ in range(BATCHES)]
        committing: deque[Future[None]] = deque()
        turn = 0
        try:
            for work in sweep(plan, kernel, x, z, done):  # not enumerate: it would keep the last
                stopping.check()
                for task in writing[turn]:
                    task.result()
                if len(committing) == COMMITS:
                    committing.popleft().result()
                for k, (t, (i, j)) in enumerate(zip(work.table, work.indices, strict=True)):
                    t[TO_ROW], t[TO_COLUMN] = k * slots * height, 0
                    if grid.symmetric:
                        t[MIRROR_ROW] = t[TO_ROW] + (height if i != j else 0)
                        t[MIRROR_COLUMN] = 0
                kernel.compute(work.table, work.rows, work.columns, *buffers[turn])
                writing[turn] = [
                    pool.submit(write, k, i, j, buffers[turn])
                    for k, (i, j) in enumerate(work.indices)
                ]
                committing.append(pool.submit(writer.commit))
                turn = (turn + 1) % BATCHES
                bar.update(len(work.indices))
                del work
            for task in chain(*writing, committing):
                task.result()
        except BaseException:
            for task in chain(*writing, committing):
                task.cancel()  # what is not yet being written is dropped, to leave soon
            raise
