"""The order of a job: bands of samples are read, and all tiles between two of them are computed.

`gram` and `compute.stream` iterate over `sweep`.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compute.plan import Plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.inputs.source import Source

Band = TypeVar("Band")


class Batch(NamedTuple, Generic[Band]):
    """A batch of tiles whose samples are in memory.

    indices : the (i, j) of the tiles in the grid
    reads : the samples that the tiles read, see `tile_table`
    rows, columns : the bands of samples that `reads` refers to
    """

    indices: list[tuple[int, int]]
    reads: list[tuple[int, int, int, int]]
    rows: Band
    columns: Band


def make_kernel(plan: Plan, x: Source, z: Source | None) -> Kernel:
    """Return the compiled kernel of a plan for data x and, in the columns, z."""
    return Kernel(
        plan.fitted,
        x,
        z,
        kernels=plan.kernels,
        layers=plan.kept,
        dtype=plan.dtype,
        tile=plan.grid.tile,
        threads=plan.threads,
    )


def sweep(
    plan: Plan,
    read: Callable[[Source, int, int], Band],
    x: Source,
    z: Source | None,
    done: NDArray[np.bool_] | None = None,
) -> Iterator[Batch[Band]]:
    """Yield the tiles of a plan, at most `plan.batch` at a time.

    The outer loop is over bands of rows, the inner one over bands of columns. At most two bands are
    in memory, if the caller deletes each `Batch` before it asks for the next one.

    Parameters
    ----------
    read : (source, start, stop) → samples
        It reads samples start to stop - 1 of a source, as `Kernel.samples` does.
    done : (tiles down, tiles across), optional
        True for tiles to skip. Bands that only these tiles need are not read.
    """
    grid, tile = plan.grid, plan.grid.tile

    def load(source: Source, band: range, length: int) -> Band:
        # `Source.read` refuses rows that are not those of the survey
        return read(source, band.start * tile, min(band.stop * tile, length))

    todo = plan.storage.mask if done is None else plan.storage.mask & ~done
    held: range | None = None
    columns: Band | None = None
    for piece in grid.pieces(plan.part):
        for down in grid.bands(piece.rows, plan.band):
            rows: Band | None = None
            for across in grid.bands(piece.columns, plan.band):
                tiles = (t for t in grid.tiles(down, across) if todo[t])
                indices = list(islice(tiles, plan.batch))
                if not indices:
                    continue  # all are above the diagonal, of another part, or done
                if rows is None:
                    rows = load(x, down, grid.rows)
                if z is None and across == down:
                    columns, held = rows, across
                elif held != across:
                    columns = None  # freed before the next band is read
                    columns, held = load(x if z is None else z, across, grid.columns), across
                assert columns is not None
                while indices:
                    reads = [
                        (
                            (i - down.start) * tile, (j - across.start) * tile,
                            grid.height(i), grid.width(j),
                        )
                        for i, j in indices
                    ]  # fmt: skip
                    yield Batch(indices, reads, rows, columns)
                    indices = list(islice(tiles, plan.batch))
            if z is None:
                columns = held = None  # this may be the band of rows, which is freed now
            del rows
