"""What a job takes, before it starts: tiles, bands, bytes of memory and of disk."""

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import DTypeLike

from ntk_numba.arguments import (
    Kernels,
    Layers,
    number_between,
    parse_bytes,
    parse_kernels,
    parse_layers,
    show_bytes,
)
from ntk_numba.engine.fitted import FittedNetwork, fit_network, needs_largest_norm
from ntk_numba.engine.rows import WORKING
from ntk_numba.engine.samples import STATISTICS_ROWS
from ntk_numba.engine.tile import STRIP
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Output
from ntk_numba.gramfile.storage import Storage
from ntk_numba.grid import Grid, Part, tile_size
from ntk_numba.inputs.source import (
    BLOCK_BYTES,
    EVENLY_LEAST,
    Source,
    result_dtype,
)
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.network import MLP, check_network

# Python, Numba and LLVM: 250 to 335 MiB resident, the most while compiling
INTERPRETER = 320 << 20
BATCH_BYTES = 64 << 20  # of finished tiles on their way to the disk
BATCHES = 2  # one is computed while the other is written
# Seconds of computing after which a job sees that it is to stop, whatever its features and layers
BATCH_SECONDS = 1.0
# Nanoseconds of an entry on one core: for each feature, each layer, and itself, twice what
# `bench growth` shows
ENTRY = 0.05, 1.2, 3.0
IN_MEMORY_BATCH = 128  # tiles a thread between two chances to be interrupted


@dataclass(frozen=True)
class Plan(Output):
    """A job, fully determined except for what its rows hold.

    Attributes
    ----------
    net : the network
    fitted : the network, fitted to the data
    features : n0
    threads : int
    memory : bytes that the job may take
    band : tile rows that are held in memory at a time, of rows and of columns
    batch : tiles computed at a time
    working : bytes that it will take, Python and libraries aside
    largest_norm : float or None
        Of all rows of X and Z, as measured or told; None where no activation depends on it.
    """

    net: MLP
    fitted: FittedNetwork
    features: int
    threads: int
    memory: int
    band: int
    batch: int
    working: int
    largest_norm: float | None

    @property
    def depth(self) -> int:
        """The depth L of the network."""
        return self.net.depth

    @property
    def pairs(self) -> int:
        """Entries that are computed, per kernel and layer; of a part, about."""
        n, m = self.grid.rows, self.grid.columns
        pairs = n * (n + 1) // 2 if self.grid.symmetric else n * m
        return pairs * self.count // self.grid.count

    def describe(self) -> dict[str, str]:
        """Say for people what is computed and what that takes."""
        grid, band = self.grid, self.band * self.grid.tile
        whole = band >= max(grid.rows, grid.columns)
        where = "all at once" if whole else f"two bands of {band:,}"
        return {
            "matrix": f"{grid.rows:,} × {grid.columns:,}{' symmetric' if grid.symmetric else ''}, "
            f"{', '.join(self.kernels)}, {self.layers} layer{'s' if self.all_layers else ''}",
            "network": str(self.net),
            "samples": f"{self.features:,} features, {self.dtype}, {where}",
            "tiles": f"{grid.count:,} of {grid.tile} × {grid.tile}",
            "memory": f"{show_bytes(self.working)} beside Python and its libraries, "
            f"{show_bytes(self.memory)} allowed",
        }

    def to_dict(self) -> dict[str, Any]:
        """For people and scripts, sizes in bytes."""
        return {
            "rows": self.grid.rows,
            "columns": self.grid.columns,
            "features": self.features,
            "symmetric": self.grid.symmetric,
            "net": self.net.to_dict(),
            "kernels": list(self.kernels),
            "layers": self.layers,
            "dtype": str(self.dtype),
            "layout": self.layout,
            "part": str(self.part or "1/1"),
            "tile": self.grid.tile,
            "tiles": self.count,
            "pairs": self.pairs,
            "threads": self.threads,
            "band_rows": self.band * self.grid.tile,
            "file_bytes": self.output_bytes,
            "memory_bytes": self.working,
            "memory_limit_bytes": self.memory,
        }


def find_largest_norm(
    net: MLP, x: Source, z: Source | None, told: float | None = None, *, digest: bool = False
) -> float | None:
    """Return the largest norm of all rows, if an activation depends on it; else None.

    Parameters
    ----------
    told : float, optional
        What the caller knows it to be. Without it all rows are read.
    digest : bool
        Whether a digest of the rows is wanted afterwards, so that it is made on the way.
    """
    if told:
        told = number_between("largest_norm", told, 0, math.inf)
    if not needs_largest_norm(net):
        return None
    if told is not None:
        return told
    return max(s.survey(digest=digest).largest_norm for s in (x, z) if s is not None)


def make_plan(
    net: MLP,
    x: Source,
    z: Source | None = None,
    *,
    kernels: Kernels = ("ntk",),
    layers: Layers = "last",
    dtype: DTypeLike | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    in_memory: bool = False,
    part: Part | None = None,
    largest_norm: float | None = None,
) -> Plan:
    """Lay out a job.

    Parameters
    ----------
    part : of the tiles, to be stored one after another
    memory : bytes or "2GiB"
        The job's bands, buffers and scratch stay below it, and so does the whole process as long as
        it is at least twice what Python and the libraries take (about 320 MiB). By default a
        quarter of what the process may use.
    in_memory : bool
        The result goes into arrays that the caller has: it takes no buffers and is not counted.
    largest_norm : see `find_largest_norm`

    Raises
    ------
    ValueError
        Data of different widths, or a job that cannot be done in that memory.
    """
    check_network(net)
    if z is not None and z.shape[1] != x.shape[1]:
        raise InvalidValueError(
            f"Z has {z.shape[1]} features but X has {x.shape[1]}; they must be of the same kind"
        )
    wanted, layers = parse_kernels(kernels), parse_layers(layers)
    real = result_dtype(dtype, x, z or x)
    n, m, features = x.shape[0], (z or x).shape[0], x.shape[1]
    limit = available_memory() // 4 if memory is None else parse_bytes(memory, "memory")
    count = threads_to_use(threads)
    matrices = len(wanted) * (net.depth if layers == "all" else 1)
    outputs = matrices * (2 if z is None else 1)
    tile = tile_size(n, m, features, real.itemsize, outputs)
    grid = Grid(n, m, z is None, tile)
    storage = Storage(grid, part)

    # of a sample: panel, spread and norm, std, weight and bias of every layer, traits
    largest_norm = find_largest_norm(net, x, z, largest_norm, digest=not in_memory)
    fitted = fit_network(net, largest_norm, features)
    row = (features + 3 * net.depth + fitted.coefficients) * real.itemsize + 2 * 8
    # of a thread: `tile.Scratch`
    scratch = count * (
        STRIP * tile * 8 + ((WORKING + STRIP * matrices) * tile + features) * real.itemsize
    )
    reading = 3 * max(BLOCK_BYTES, EVENLY_LEAST * features * 8)
    held = x.held + (z.held if z else 0)
    # in extended precision, and as an activation makes them
    statistics = STATISTICS_ROWS * (6 + 3 * fitted.coefficients) * 16
    fixed = scratch + reading + held + statistics
    slot = grid.chunk[0] * grid.chunk[1] * real.itemsize * matrices * storage.images
    budget = limit if in_memory else max(limit - INTERPRETER, limit // 2)
    if in_memory:
        batch, buffers = IN_MEMORY_BATCH * count, 0
    else:
        # a quarter of it for tiles on their way, or what else it takes to keep all threads busy
        room = (budget - fixed - 2 * tile * row) // (BATCHES * slot)
        feature, layer, itself = ENTRY
        seconds = 1e-9 * tile**2 * (feature * features + layer * net.depth + itself)
        soon = max(count, int(count * BATCH_SECONDS / seconds))
        wanted_batch = min(max(BATCH_BYTES // slot, 4 * count), storage.count, soon)
        batch = max(1, min(wanted_batch, max(budget // 4 // (BATCHES * slot), min(count, room))))
        buffers = BATCHES * batch * slot
    # all samples at once if they fit, else two bands at a time
    left = budget - fixed - buffers
    whole = max(
        len(piece.rows) + (0 if z is None and piece.rows == piece.columns else len(piece.columns))
        for piece in grid.pieces(part)
    )
    held_rows = whole if left >= whole * tile * row else 2 * (left // (2 * tile * row))
    if held_rows < min(2, whole):
        least = fixed + buffers + 2 * tile * row
        raise InvalidValueError(
            f"memory={show_bytes(limit)} is too little: this job takes at least "
            f"{show_bytes(least if in_memory else min(least + INTERPRETER, 2 * least))} "
            f"(tiles of {tile} × {tile}, {count} threads, {features} features)"
        )
    band = max(grid.down, grid.across) if held_rows == whole else held_rows // 2
    working = fixed + buffers + held_rows * tile * row
    return Plan(
        net=net,
        kernels=wanted,
        layers=layers,
        dtype=real,
        grid=grid,
        part=part,
        fitted=fitted,
        features=features,
        threads=count,
        memory=limit,
        band=band,
        batch=batch,
        working=working,
        largest_norm=largest_norm,
    )
