"""The order of a job: bands of samples are read, and all tiles between two of them computed."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compute.plan import Plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.samples import Samples
from ntk_numba.inputs.source import Source


class Work(NamedTuple):
    """Some tiles whose samples are in memory.

    indices : the tiles' (i, j) in the grid
    reads : where they read, as `tile_table` takes it; where they write is for the caller to say
    """

    indices: list[tuple[int, int]]
    reads: list[tuple[int, int, int, int]]
    rows: Samples
    columns: Samples


def make_kernel(plan: Plan, x: Source) -> Kernel:
    """The compiled kernel of a plan."""
    return Kernel(
        plan.fitted,
        x,
        kernels=plan.kernels,
        every=plan.all_layers,
        dtype=plan.dtype,
        tile=plan.grid.tile,
        threads=plan.threads,
    )


def sweep(
    plan: Plan,
    kernel: Kernel,
    x: Source,
    z: Source | None,
    done: NDArray[np.bool_] | None = None,
) -> Iterator[Work]:
    """The tiles of a plan, `plan.batch` at a time: bands of rows, for each the bands of columns.

    Two bands are in memory at most, if the caller lets go of each `Work` before it asks for more.

    Parameters
    ----------
    done : (tiles down, tiles across), those to leave out; of their samples no more are read than
        the others need.
    """
    grid, tile = plan.grid, plan.grid.tile

    def load(source: Source, band: range, length: int) -> Samples:
        samples = kernel.samples(source, band.start * tile, min(band.stop * tile, length))
        source.refuse_changed()  # before any tile is made of it
        return samples

    todo = grid.mask(plan.part)
    if done is not None:
        todo &= ~done
    held: range | None = None
    columns: Samples | None = None
    for piece in grid.pieces(plan.part):
        for down in grid.bands(piece.rows, plan.band):
            rows: Samples | None = None
            for across in grid.bands(piece.columns, plan.band):
                tiles = (t for t in grid.tiles(down, across) if todo[t])
                some = list(islice(tiles, plan.batch))
                if not some:
                    continue  # above the diagonal, another part's, or done
                if rows is None:
                    rows = load(x, down, grid.rows)
                if z is None and across == down:
                    columns, held = rows, across
                elif held != across:
                    columns = None  # before the next is made
                    columns, held = load(x if z is None else z, across, grid.columns), across
                assert columns is not None
                while some:
                    reads = [
                        (
                            (i - down.start) * tile, (j - across.start) * tile,
                            grid.height(i), grid.width(j),
                        )
                        for i, j in some
                    ]  # fmt: skip
                    yield Work(some, reads, rows, columns)
                    some = list(islice(tiles, plan.batch))
            if z is None:
                columns = held = None  # the band of rows, which goes now
            del rows
