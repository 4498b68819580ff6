"""Kernels to disk: tiles are computed in one buffer while those of the other are written."""

import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import KERNELS
from ntk_numba.compute.plan import BATCHES, Plan
from ntk_numba.compute.sweep import make_kernel, sweep
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.tile import tile_table
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import SAME_NORM, Contents
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.grid import Grid, Part
from ntk_numba.inputs.source import Source
from ntk_numba.inputs.survey import Survey

# Threads that wait for the disk, so that it has several tiles in hand: file systems across a
# network need that, and it is twice as fast on a local disk where tiles are small
WRITERS = 4
# Batches that may be written and not yet durable: to wait for each took 10 % where the disk is busy
COMMITS = 4


def contents_of(plan: Plan, x: Source, z: Source | None) -> Contents:
    """Return what the file of a plan holds. Reads all of the rows that it is made of.

    Raises
    ------
    ValueError
        A row with NaN or infinity, or a larger norm than the plan was told.
    """
    of_x, of_z = surveys_of(plan.grid, plan.part, x, z)
    for source, survey in ((x, of_x), (z, of_z)):
        if source and survey:
            _refuse_larger(source, survey, plan.largest_norm)
    return Contents(
        network=json.dumps(plan.net.to_dict()),
        kernels=plan.kernels,
        layers=plan.layers,
        dtype=plan.dtype,
        grid=plan.grid,
        part=plan.part,
        x=of_x.digest,
        z=of_z.digest if of_z else None,
        error=plan.fitted.error,
        largest_norm=plan.largest_norm,
    )


def surveys_of(
    grid: Grid, part: Part | None, x: Source, z: Source | None
) -> tuple[Survey, Survey | None]:
    """Return what there is to know of the rows of X, and of Z, that a part reads."""
    pieces, tile = grid.pieces(part), grid.tile
    rows, columns = (
        [range(side.start * tile, min(side.stop * tile, length)) for side in sides]
        for sides, length in (
            ([piece.rows for piece in pieces], grid.rows),
            ([piece.columns for piece in pieces], grid.columns),
        )
    )
    if z is None:
        return x.survey(rows + columns, digest=True), None
    return x.survey(rows, digest=True), z.survey(columns, digest=True)


def _refuse_larger(source: Source, survey: Survey, largest_norm: float | None) -> None:
    """Refuse rows that the activations are not fitted to."""
    # a sum in another order, as other processors have it, is no other norm
    if largest_norm is not None and survey.largest_norm > largest_norm * (1 + SAME_NORM):
        raise InvalidValueError(
            f"{source.name}: row {survey.longest_row} has norm {survey.largest_norm!r}, more than "
            f"largest_norm={largest_norm!r}; give the largest norm of all rows of X and Z, or "
            "leave it out"
        )


def prepare(plan: Plan, x: Source, z: Source | None) -> Kernel:
    """The kernel of a plan, compiled and tried on the longest samples.

    Raises
    ------
    ValueError
        A sample whose Σ(x,x) or Θ(x,x) is too large for the dtype.
    """
    kernel = make_kernel(plan, x)
    for source, survey in zip((x, z), surveys_of(plan.grid, plan.part, x, z), strict=True):
        if source and survey:
            samples = kernel.samples(source, survey.longest_row, survey.longest_row + 1)
    kernel.compute(tile_table([], (0, 0)), samples, samples, *kernel.outputs(1, 1))
    return kernel


def stream_tiles(
    plan: Plan,
    kernel: Kernel,
    x: Source,
    z: Source | None,
    writer: TileFile,
    *,
    done: NDArray[np.bool_] | None = None,
    progress: bool = False,
) -> None:
    """Compute the tiles of a plan that are not done, and write them meanwhile."""
    grid = plan.grid
    height, width = grid.chunk
    # slots of one tile each below one another, two to a tile where there is a mirror image
    slots = plan.storage.images
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
        total=plan.count, initial=before, unit="tile", disable=not progress, smoothing=0.1
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
                to = [(k * slots * height, 0) for k in range(len(work.indices))]
                mirrors = [
                    (row if i == j else row + height, 0)
                    if grid.symmetric and (slots == 2 or i == j)
                    else (-1, -1)
                    for (row, _), (i, j) in zip(to, work.indices, strict=True)
                ]
                tiles = tile_table(work.reads, to, mirrors)
                kernel.compute(tiles, work.rows, work.columns, *buffers[turn])
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
