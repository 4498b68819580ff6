"""Kernels written to disk: tiles are computed in one buffer while those in another are written.

`write_gram` and `repair` call these functions.
"""

import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import KERNELS
from ntk_numba.compute.plan import BATCHES, Plan, refuse_larger
from ntk_numba.compute.sweep import make_kernel, sweep
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.tile import tile_table
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.grid import Grid, Part
from ntk_numba.inputs.source import Source
from ntk_numba.inputs.survey import Survey

# The number of threads that write, so that several tiles are on their way to the disk at once.
# Network file systems need that, and it is twice as fast on a local disk if tiles are small.
WRITERS = 4
# The number of batches that may be written and not yet durable. Waiting for each of them took 10 %
# of the time on a busy disk. One thread commits them, one after another.
COMMITS = 4


def contents_of(plan: Plan, x: Source, z: Source | None) -> Contents:
    """Return the contents of the file of a plan; this reads all rows that the plan needs.

    Raises
    ------
    ValueError
        If a row contains NaN or infinity, or has a norm above the `largest_norm` of the plan.
    """
    of_x, of_z = surveys_of(plan.grid, plan.part, x, z)
    for source, survey in ((x, of_x), (z, of_z)):
        if source and survey:
            refuse_larger(source, survey, plan.largest_norm)
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
    """Survey the rows of X and of Z that a part reads, with digests; None without Z."""
    pieces, tile = grid.pieces(part), grid.tile
    rows, columns = (
        [range(band.start * tile, min(band.stop * tile, length)) for band in bands]
        for bands, length in (
            ([piece.rows for piece in pieces], grid.rows),
            ([piece.columns for piece in pieces], grid.columns),
        )
    )
    if z is None:
        return x.survey(rows + columns, digest=True), None
    return x.survey(rows, digest=True), z.survey(columns, digest=True)


def prepare(plan: Plan, x: Source, z: Source | None) -> Kernel:
    """Return the compiled kernel of a plan, after a test on the longest samples.

    Raises
    ------
    ValueError
        If Σ(x,x) or Θ(x,x) of a sample is too large for the dtype.
    """
    kernel = make_kernel(plan, x, z)
    for source, survey in zip((x, z), surveys_of(plan.grid, plan.part, x, z), strict=True):
        if source and survey:
            samples = kernel.samples(source, survey.longest_row, survey.longest_row + 1, warn=False)
    # without tiles, this only compiles, before a file is begun
    kernel.compute(tile_table([], (0, 0)), samples, samples, *kernel.outputs(1, 1))
    return kernel


def stream_tiles(
    plan: Plan,
    kernel: Kernel,
    x: Source,
    z: Source | None,
    target: TileFile,
    *,
    done: NDArray[np.bool_] | None = None,
    check: Callable[[], object] | None = None,
    progress: bool = False,
) -> None:
    """Compute the tiles of a plan that are not done, and write them to `target` meanwhile.

    The last tiles are done after a further `commit` by the caller.

    done : (tiles down, tiles across), True for tiles to skip
    check : called before each batch; raises an error if the file is no longer ours
    """
    grid = plan.grid
    height, width = grid.chunk
    # A buffer holds slots of one tile below each other: two for each tile if the file stores mirror
    # images, else one.
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
                mirror = blocks[1] if blocks[1:] else None
                target.write(name, layer, i, j, blocks[0], mirror=mirror)

    before = 0 if done is None else int(np.count_nonzero(done))
    bar = tqdm(total=plan.count, initial=before, unit="tile", disable=not progress, smoothing=0.1)
    with (
        bar,
        ThreadPoolExecutor(1, "committer") as committer,
        ThreadPoolExecutor(WRITERS, "writer") as pool,
    ):
        writing: list[list[Future[None]]] = [[] for _ in range(BATCHES)]
        committing: deque[Future[None]] = deque()
        turn = 0
        try:
            # enumerate would keep a reference to the last batch
            for batch in sweep(plan, kernel.samples, x, z, done):
                stopping.check()
                if check:
                    check()
                for task in writing[turn]:
                    task.result()
                if len(committing) == COMMITS:
                    committing.popleft().result()
                to = [(k * slots * height, 0) for k in range(len(batch.indices))]
                mirrors = [
                    (row if i == j else row + height, 0)
                    if grid.symmetric and (slots == 2 or i == j)
                    else (-1, -1)
                    for (row, _), (i, j) in zip(to, batch.indices, strict=True)
                ]
                tiles = tile_table(batch.reads, to, mirrors)
                kernel.compute(tiles, batch.rows, batch.columns, *buffers[turn])
                writing[turn] = [
                    pool.submit(write, k, i, j, buffers[turn])
                    for k, (i, j) in enumerate(batch.indices)
                ]
                committing.append(committer.submit(target.commit))
                turn = (turn + 1) % BATCHES
                bar.update(len(batch.indices))
                del batch  # so that no more than two bands are in memory
            for task in chain(*writing, committing):
                task.result()
        except BaseException:
            for task in chain(*writing, committing):
                task.cancel()  # writes that have not begun are dropped, to stop soon
            raise
