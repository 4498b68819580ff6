"""The plan of a job, made before it starts: tiles, bands, bytes of memory and of disk."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ntk_numba.arguments import (
    KernelName,
    Kernels,
    Layers,
    kept_layers,
    number_between,
    parse_bytes,
    parse_kernels,
    parse_layers,
    show_bytes,
)
from ntk_numba.engine.fitted import FittedNetwork, fit_network, needs_largest_norm
from ntk_numba.engine.products import panel_width
from ntk_numba.engine.rows import WORKING
from ntk_numba.engine.samples import find_underflow, numbers_at_once, roots_of_variances
from ntk_numba.engine.tile import STRIP
from ntk_numba.errors import InvalidValueError, UnderflowWarning
from ntk_numba.gramfile.contents import SAME_NORM, Output
from ntk_numba.grid import Grid, Part, tile_size
from ntk_numba.inputs.source import BLOCK_BYTES, Source, result_dtype
from ntk_numba.inputs.survey import Survey
from ntk_numba.machine import INTERPRETER, available_memory, job_memory, threads_to_use
from ntk_numba.network import MLP, check_network

BATCH_BYTES = 64 << 20  # of finished tiles that wait to be written
BATCHES = 2  # one is computed while the other is written
# Seconds of computing between two checks whether the job should stop, for any features and layers.
BATCH_SECONDS = 1.0
# Nanoseconds that an entry takes on one core: for each feature, for each layer, and in addition.
# They are twice those that `bench growth` shows.
ENTRY = 0.05, 1.2, 3.0
ROWS_AT_ONCE = 10  # rows of X in float64 that reading and normalising take, and the centre
IN_MEMORY_BATCH = 128  # tiles per thread between two checks whether to stop


@dataclass(frozen=True)
class Outline(Output):
    """The matrices of a job, which follow from shapes: no row of X is read for them.

    Attributes
    ----------
    net : the network
    """

    kernels: tuple[KernelName, ...]
    net: MLP

    @property
    def depth(self) -> int:
        """The depth L of the network."""
        return self.net.depth


@dataclass(frozen=True)
class Plan(Outline):
    """A job, fully determined except for the contents of its rows.

    Attributes
    ----------
    fitted : the network, fitted to the data
    features : n0
    threads : int
    memory : int
        The limit of the job's memory in bytes, see `make_plan`.
    band : int
        The number of tile rows, and of tile columns, whose samples are in memory at a time.
    batch : int
        The number of tiles computed at a time.
    working : int
        The bytes of memory that the job takes, without Python and its libraries.
    resident : bool
        Whether all samples of the job fit in memory together.
    largest_norm : float or None
        The largest norm of all rows of X and Z, computed or given by the caller; None if no
        activation depends on it.
    """

    fitted: FittedNetwork
    features: int
    threads: int
    memory: int
    band: int
    batch: int
    working: int
    resident: bool
    largest_norm: float | None

    @property
    def pairs(self) -> int:
        """The number of entries computed per kernel and layer; approximate for a part."""
        n, m = self.grid.rows, self.grid.columns
        pairs = n * (n + 1) // 2 if self.grid.symmetric else n * m
        return pairs * self.count // self.grid.count

    def describe(self) -> dict[str, str]:
        """Describe for people what is computed and how much memory it takes."""
        grid, band = self.grid, self.band * self.grid.tile
        whole = band >= max(grid.rows, grid.columns)
        where = "all at once" if whole else f"two bands of {band:,}"
        lines = {
            "matrix": f"{grid.rows:,} × {grid.columns:,}{' symmetric' if grid.symmetric else ''}, "
            f"{', '.join(self.kernels)}, {self.layers} layer{'s' if self.matrices > 1 else ''}",
            "network": str(self.net),
            "samples": f"{self.features:,} features, {self.dtype}, {where}",
            "tiles": f"{grid.count:,} of {grid.tile} × {grid.tile}",
            "memory": f"{show_bytes(self.working)} beside Python and its libraries, "
            f"{show_bytes(self.memory)} allowed",
        }
        nngp, ntk = self.fitted.error
        if nngp or ntk:
            lines["error"] = f"at most {nngp:.1e} of nngp, {ntk:.1e} of ntk, beside rounding"
        return lines

    def warn_of_underflow(self, *sources: Source) -> None:
        """Warn if results underflow, as the job will, from a sample of the rows."""
        for source in sources:
            with np.errstate(over="ignore", invalid="ignore"):
                norm = np.linalg.norm(source.centre_sample().astype(float), axis=1)
                roots = roots_of_variances(self.net.layers, norm, self.features)
                found = find_underflow(self.net.layers, roots, norm, self.dtype, self.kept)
            if found:
                warnings.warn(f"{source.name}: a row {found[1]}", UnderflowWarning, stacklevel=2)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a dictionary for scripts, with sizes in bytes."""
        return {
            "rows": self.grid.rows,
            "columns": self.grid.columns,
            "features": self.features,
            "symmetric": self.grid.symmetric,
            "net": self.net.to_dict(),
            "error": list(self.fitted.error),
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
    net: MLP, x: Source, z: Source | None, given: float | None = None, *, digest: bool = False
) -> float | None:
    """Return the largest norm of all rows if an activation depends on it, else None.

    Parameters
    ----------
    given : float, optional
        `up_to` of the caller, which is then the result. Without it all rows are read.
    digest : bool
        Whether the caller needs a digest of the rows later, which is then computed in the same
        pass.
    """
    if given:  # 0 is valid too, if all entries are 0
        given = number_between("up_to", given, 0, math.inf)
    if not needs_largest_norm(net):
        return None
    if given is not None:
        return given
    return max(s.survey(digest=digest).largest_norm for s in (x, z) if s is not None)


def refuse_larger(source: Source, survey: Survey, largest_norm: float | None) -> None:
    """Raise an error if a row is longer than the largest norm that activations are fitted to."""
    # Other processors may sum in another order, so norms may differ in the last bits.
    if largest_norm is not None and survey.largest_norm > largest_norm * (1 + SAME_NORM):
        raise InvalidValueError(
            f"{source.name}: row {survey.longest_row} has norm {survey.largest_norm!r}, more than "
            f"up_to={largest_norm!r}; give the largest norm of all rows of X and Z, or leave it out"
        )


def check_rows(source: Source, largest_norm: float | None) -> None:
    """Raise an error if a number is not finite, or a row longer than activations are fitted to."""
    source.check()
    if largest_norm is not None:
        refuse_larger(source, source.survey(), largest_norm)


def outline(
    net: MLP,
    x: Source,
    z: Source | None = None,
    *,
    kernels: Kernels = ("ntk",),
    layers: Layers = "last",
    dtype: DTypeLike | None = None,
    part: Part | None = None,
) -> Outline:
    """Return the matrices of a job; the arguments and errors are those of `make_plan`."""
    check_network(net)
    if z is not None and z.shape[1] != x.shape[1]:
        raise InvalidValueError(
            f"Z has {z.shape[1]} features but X has {x.shape[1]}; they must be of the same kind"
        )
    wanted, layers = parse_kernels(kernels), parse_layers(layers)
    real = result_dtype(dtype, x, z or x)
    n, m = x.shape[0], (z or x).shape[0]
    outputs = len(wanted) * len(kept_layers(layers, net.depth)) * (2 if z is None else 1)
    grid = Grid(n, m, z is None, tile_size(n, m, x.shape[1], real.itemsize, outputs))
    grid.size(part)  # raises an error if there are more parts than tiles
    return Outline(wanted, layers, real, grid, part, net)


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
    up_to: float | None = None,
    beside: Callable[[FittedNetwork], int] | None = None,
    vectors: int | None = None,
) -> Plan:
    """Plan a job: its tiles, bands and batches, its threads and its memory.

    Parameters
    ----------
    net, kernels, layers, dtype, threads : see `ntk_numba.gram`
    x, z : the data; without z, the matrix is that of x with itself
    part : Part, optional
        The part of the tiles to compute, which are stored one after another.
    memory : int or str such as "2GiB", optional
        A limit for the bands, buffers and scratch memory of the job. The whole process stays below
        it too if it is at least twice the memory of Python and the libraries (about 320 MiB). The
        default is a quarter of the memory that the process may use.
    in_memory : bool
        Whether the result is written to arrays of the caller. It then takes no buffers and is not
        counted.
    up_to : see `find_largest_norm`
    beside : optional
        A function of the fitted network that returns the bytes that the caller keeps of each
        sample, beside those of the kernels.
    vectors : int, optional
        The bytes that vectors take, for a matrix that is multiplied with them tile by tile and
        neither stored nor in memory; with `in_memory`.

    Raises
    ------
    ValueError
        If X and Z have different numbers of features, the memory is too small for the job, there
        are more parts than tiles, or another argument is out of range.
    """
    what = outline(net, x, z, kernels=kernels, layers=layers, dtype=dtype, part=part)
    if not in_memory and not isinstance(what.layers, str):
        raise InvalidValueError(
            f"layers={list(what.layers)}: a file holds the last layer or all of them; give 'all', "
            "or a network that ends with the layer, net.first(layer)"
        )
    if not in_memory and (text := what.excess):
        raise InvalidValueError(text)
    grid, storage, real, matrices = what.grid, what.storage, what.dtype, what.all_matrices
    n, m, features, tile = grid.rows, grid.columns, x.shape[1], grid.tile
    limit = available_memory() // 4 if memory is None else parse_bytes(memory, "memory")
    count = threads_to_use(threads)
    largest_norm = find_largest_norm(net, x, z, up_to, digest=not in_memory)
    fitted = fit_network(net, largest_norm, features)
    # bytes of the numbers of a sample beside its vector: std, weight and bias of each layer,
    # coefficients; spread and norm
    numbers = (3 * net.depth + fitted.coefficients) * real.itemsize + 2 * 8
    numbers += beside(fitted) if beside else 0
    panel = panel_width(real)

    def size_of(tiles: range, length: int) -> int:
        """Return the bytes of the samples of a run of tile rows."""
        rows = min(tiles.stop * tile, length) - tiles.start * tile
        padded = -(-rows // panel) * panel
        return padded * features * real.itemsize + len(tiles) * tile * numbers

    samples = size_of(range(1), max(n, m))  # of one tile row
    # bytes of the `tile.Scratch` of all threads
    scratch = count * (
        STRIP * tile * 8 + ((WORKING + STRIP * matrices) * tile + 2 * features) * real.itemsize
    )
    row = features * 8
    reading = 3 * BLOCK_BYTES + ROWS_AT_ONCE * row
    held = sum(s.held + s.overhead for s in (x, z) if s is not None)
    # extended numbers, including the temporary arrays of the activations
    statistics = 3 * 24 * numbers_at_once(max(n, m), fitted.coefficients)
    held += vectors or 0
    fixed = scratch + reading + held + statistics
    # before that: the rows that the centre is computed from, their panels, and their unit vectors
    centre = [s.centre_rows for s in (x, z) if s is not None]
    before = held + reading + sum(3 * c + -(-c // panel) * panel for c in centre) * row
    slot = grid.chunk[0] * grid.chunk[1] * real.itemsize * matrices * storage.images
    alone = in_memory and vectors is None  # beside a result, which is not counted
    budget = limit if alone else job_memory(limit)
    feature, layer, itself = ENTRY
    seconds = 1e-9 * tile**2 * (feature * features + layer * net.depth + itself)
    stoppable = max(count, int(count * BATCH_SECONDS / seconds))
    if in_memory:
        batch, buffers = IN_MEMORY_BATCH * count if alone else stoppable, 0
    else:
        # A quarter of the memory is for tiles that wait to be written, or more if all threads need
        # it.
        room = (budget - fixed - 2 * samples) // (BATCHES * slot)
        wanted_batch = min(max(BATCH_BYTES // slot, 4 * count), storage.count, stoppable)
        batch = max(1, min(wanted_batch, max(budget // 4 // (BATCHES * slot), min(count, room))))
        buffers = BATCHES * batch * slot
    # All samples are in memory if they fit, else two bands at a time.
    available = budget - fixed - buffers
    sizes = [
        size_of(piece.rows, n)
        + (0 if z is None and piece.rows == piece.columns else size_of(piece.columns, m))
        for piece in grid.pieces(part)
    ]
    whole = max(sizes)
    bands = 2 * (available // (2 * samples))  # tile rows, if not all samples fit
    if max(min(whole, 2 * samples) - available, before - budget) > 0:
        least = max(before, fixed + buffers + min(whole, 2 * samples))
        raise InvalidValueError(
            f"memory={show_bytes(limit)} is too little: this job takes at least "
            f"{show_bytes(least if alone else min(least + INTERPRETER, 2 * least))} "
            f"(tiles of {tile} × {tile}, {count} threads, {features} features)"
        )
    band = max(grid.down, grid.across) if available >= whole else bands // 2
    working = max(before, fixed + buffers + (whole if available >= whole else bands * samples))
    return Plan(
        net=net,
        kernels=what.kernels,
        layers=what.layers,
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
        resident=available >= sum(sizes),
        largest_norm=largest_norm,
    )
