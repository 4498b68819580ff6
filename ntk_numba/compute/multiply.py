"""A kernel matrix that is computed whenever it is needed, and never stored: `ComputedMatrix`.

`operators.computed` makes an operator of it, and the tiles that a factorisation reads.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba import stopping
from ntk_numba.arguments import KERNELS, KernelName, one_of, parse_bytes
from ntk_numba.compute.plan import ENTRY, Plan, check_rows, make_plan
from ntk_numba.compute.stream import surveys_of
from ntk_numba.compute.sweep import make_kernel, sweep
from ntk_numba.digest import Digest
from ntk_numba.engine.kernel import NUMERICS, Kernel
from ntk_numba.engine.product_tile import NO_TOTALS, NO_VECTORS, WIDTH, Side
from ntk_numba.engine.samples import Samples
from ntk_numba.engine.tile import STRIP, tile_table
from ntk_numba.grid import LARGEST_TILE, Grid, Part
from ntk_numba.inputs.source import Source, open_sources
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.network import MLP, check_network
from ntk_numba.sums import BITS, Sums, balanced, unbalanced

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]

NOTHING = np.zeros(0)
MULTIPLYING = 0.2  # nanoseconds for an entry and a column, as `plan.ENTRY`


class ComputedMatrix:
    """A kernel matrix of (net, X) or (net, X, Z) that is computed whenever it is needed.

    The fitted network, the survey of the data, the compiled kernel and, if they fit in memory, the
    samples are prepared once and kept. Each call looks whether a file has changed meanwhile.

    Parameters
    ----------
    net, X, Z, kernel, dtype, memory, threads, up_to
        See `ntk_numba.kernel_operator`.
    roots : (N,) and (M,), optional
        √K(x,x) of all samples, which another process has found when it checked the data. The data
        is then not checked here, and only the rows that a product takes are read.

    Attributes
    ----------
    net : MLP
    kernel : "nngp" or "ntk"
    data, limits : X and Z, memory and threads, as they were given
    plan : Plan
        The plan of a product with one vector.
    """

    def __init__(
        self,
        net: MLP,
        X: Any,
        Z: Any = None,
        *,
        kernel: KernelName = "ntk",
        dtype: DTypeLike | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
        up_to: float | None = None,
        roots: tuple[Doubles, Doubles] | None = None,
    ) -> None:
        self.net = check_network(net)
        self.kernel: KernelName = one_of("kernel", kernel, KERNELS)
        self.data, self.limits = (X, Z), (memory, threads)
        self._x, self._z = open_sources(X, Z, memory)
        # found once: the samples that are kept are no longer available
        self._memory = available_memory() // 4 if memory is None else parse_bytes(memory, "memory")
        self._threads, self._dtype, self._up_to = threads, dtype, up_to
        self._plans: dict[tuple[int, Part | None], Plan] = {}
        self.plan = self._plan_for(1, None)
        self._up_to = self.plan.largest_norm  # so that no other plan has to find it
        if roots is None:
            for source in self._sources:
                check_rows(source, self.plan.largest_norm)
        else:
            self.bounds = roots
        self._compiled = make_kernel(self.plan, self._x, self._z)
        # samples by whether they are of Z, the first and the one after the last, of `_kept_part`
        self._kept: dict[tuple[bool, int, int], Samples] = {}
        self._kept_part: Part | None = None
        self._reading = threading.Lock()
        # of blocks of so many tiles, those that `load` may compute at the same time
        self._turns: dict[int, threading.Semaphore] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M)."""
        return self.plan.grid.rows, self.plan.grid.columns

    @property
    def grid(self) -> Grid:
        """The tiles."""
        return self.plan.grid

    @property
    def symmetric(self) -> bool:
        """Whether the matrix is that of one data set with itself."""
        return self._z is None

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the entries."""
        return self.plan.dtype

    @property
    def tile(self) -> int:
        """The edge of a tile."""
        return self.plan.grid.tile

    @property
    def resident(self) -> bool:
        """Whether the samples stay in memory between the passes, beside one vector."""
        return self.plan.resident

    @property
    def _sources(self) -> list[Source]:
        """X and, if there is one, Z."""
        return [s for s in (self._x, self._z) if s is not None]

    @cached_property
    def identity(self) -> str:
        """A hex digest of all that the entries follow from; the first call reads the data."""
        facts = [
            json.dumps(self.net.to_dict(), sort_keys=True),
            self.kernel,
            str(self.dtype),
            repr(self.plan.largest_norm),
            str(NUMERICS),
            *(digest.hex for digest in self.digests()),
        ]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def digests(self, part: Part | None = None) -> tuple[Digest, ...]:
        """Return the digests of the rows of X, and of Z, that a part needs; by default all.

        Raises
        ------
        ValueError
            If a number is not finite.
        """
        if part is None:
            return tuple(source.survey(digest=True).digest for source in self._sources)
        surveys = surveys_of(self.grid, part, self._x, self._z)
        return tuple(survey.digest for survey in surveys if survey)

    def sums(self, columns: Doubles, transpose: bool = False) -> tuple[Sums, NDArray[np.int64]]:
        """Return the sums, all 0, that a product with columns is added to, and exponents.

        The product is ``numpy.ldexp(sums.result(), exponents)``. The bounds of the sums follow from
        |K_ij| ≤ √(K_ii K_jj).
        """
        return self._scaled(columns, transpose)[1:]

    def multiply(self, columns: Doubles, transpose: bool = False) -> Doubles:
        """Return K @ columns, or Kᵀ @ columns, in float64.

        columns : (M, K) finite float64; (N, K) with `transpose`
        """
        sums, exponents = self.multiply_part(columns, None, transpose)
        return unbalanced(sums.result(), exponents)

    def multiply_part(
        self, columns: Doubles, part: Part | None, transpose: bool = False
    ) -> tuple[Sums, NDArray[np.int64]]:
        """Return the sums over the tiles of a part, and the exponents, see `sums`.

        The sums of all parts, merged, have the bits of the sum without parts.

        Raises
        ------
        ValueError
            If there are more parts than tiles, or the memory is too little.
        OSError
            If the data has changed since it was opened.
        """
        scaled, sums, exponents = self._scaled(columns, transpose)
        self.add_part(scaled, part, sums, transpose)
        return sums, exponents

    def add_part(
        self, scaled: Doubles, part: Part | None, sums: Sums, transpose: bool = False
    ) -> None:
        """Add the products of the tiles of a part with columns that `sums.balanced` has scaled.

        scaled : only the rows that the part needs have to be there, see `operators.passes.rows_of`
        sums : with the `bounds` of the rows of the product, and 1 for each column
        """
        plan = self._plan_for(scaled.shape[1], part)
        read = self._reader(plan)
        if not scaled.shape[1]:
            return
        padded = (plan.grid.across, plan.grid.down)[transpose] * self.tile
        side = self._side(_panels(scaled, padded), sums)
        nothing = Side(NO_VECTORS, NO_TOTALS, NO_TOTALS, NOTHING, np.zeros(0, np.int64))
        down, across = (nothing, side) if transpose else (side, nothing)
        if self.symmetric:
            down = across = side
        for batch in sweep(plan, read, self._x, self._z):
            stopping.check()
            to = np.array(batch.indices) * self.tile
            mirrors = to[:, ::-1] if self.symmetric else (-1, -1)
            tiles = tile_table(batch.reads, to, mirrors)
            self._compiled.multiply(tiles, batch.rows, batch.columns, down, across)
            del batch  # so that no more than two bands are in memory
        # No total exceeds its bound by a factor of 2, as Cauchy and Schwarz prove, so none wraps.

    def _plan_for(self, columns: int, part: Part | None) -> Plan:
        """Return the plan of a product of the tiles of a part with a number of vectors."""
        key = columns, part
        if key not in self._plans:
            plan = make_plan(
                self.net,
                self._x,
                self._z,
                kernels=self.kernel,
                dtype=self._dtype,
                memory=self._memory,
                threads=self._threads,
                in_memory=True,
                part=part,
                up_to=self._up_to,
                vectors=self._bytes_of(columns),
            )
            feature, layer, itself = ENTRY
            entry = feature * plan.features + layer * plan.depth + itself
            slower = 1 + MULTIPLYING * columns / entry
            batch = max(plan.threads, int(plan.batch / slower))
            self._plans[key] = replace(plan, batch=batch)
        return self._plans[key]

    def _bytes_of(self, columns: int) -> int:
        """Return the bytes that a product with K columns takes: V, sums and the result."""
        n, m = self._x.shape[0], self._sources[-1].shape[0]
        padded = -(-columns // WIDTH) * WIDTH
        # V, scaled and in panels; the sums, and what the result is made of
        numbers = max(
            rows * (2 * columns + padded) + 6 * (n + m - rows) * columns for rows in (n, m)
        )
        threads = threads_to_use(self._threads)
        tiles = LARGEST_TILE + threads * (STRIP + LARGEST_TILE)
        return 8 * (numbers + tiles * padded)

    def _reader(self, plan: Plan) -> Callable[[Source, int, int], Samples]:
        """Return the function that reads samples, and keeps them if all fit in memory.

        Raises
        ------
        OSError
            If a file has changed since it was opened.
        """
        for source in self._sources:
            source.refuse_changed()
        with self._reading:
            if not plan.resident or plan.part != self._kept_part:
                self._kept.clear()
            self._kept_part = plan.part

        def read(source: Source, start: int, stop: int) -> Samples:
            with self._reading:
                if not plan.resident:
                    return self._compiled.samples(source, start, stop)
                key = source is self._z, start, stop
                if key not in self._kept:
                    self._kept[key] = self._compiled.samples(source, start, stop)
                return self._kept[key]

        return read

    def _side(self, vectors: Doubles, sums: Sums) -> Side:
        """Return what the compiled loop takes for a product with panels of vectors."""
        rows, columns = sums.exponents
        with np.errstate(over="ignore"):  # of rows that the part does not need, with bounds of 0
            scale = np.ldexp(1.0, BITS - rows - columns[0])  # `balanced` makes all columns equal
        locks = np.zeros(-(-len(rows) // self.tile), np.int64)
        return Side(vectors, sums.totals.T, sums.rests.T, scale, locks)

    def _scaled(self, columns: Doubles, transpose: bool) -> tuple[Doubles, Sums, NDArray[np.int64]]:
        """Return columns that are scaled by powers of two, sums for them, and the exponents."""
        rows, weights = self.bounds[:: -1 if transpose else 1]
        scaled, exponents = balanced(columns, weights)
        return scaled, Sums(rows, np.ones(columns.shape[1])), exponents

    @cached_property
    def bounds(self) -> tuple[Doubles, Doubles]:
        """Bounds r (N,) and c (M,), |K_ij| ≤ r_i c_j: √K(x,x) of the rows and of the columns.

        Where K(x,x) has underflowed, other entries of the row may not have.
        """
        least = np.finfo(self.dtype).tiny
        rows, columns = (np.sqrt(np.maximum(self._diagonals[k], least)) for k in (0, -1))
        return rows, columns

    def diagonal(self) -> Doubles:
        """Return the diagonal of a symmetric matrix, (N,), with the bits of `ntk_numba.gram`."""
        return self._diagonals[0].copy()

    @cached_property
    def _diagonals(self) -> list[Doubles]:
        """K(x,x) of the samples of X and, if there is one, of Z."""
        read, found = self._reader(self.plan), []
        for source in self._sources:
            # those that are kept are read as a whole, which the first product needs too
            runs = [(0, source.shape[0])] if self.resident else source.blocks()
            parts = [
                self._chosen(self._compiled.diagonal(read(source, *run), run[1] - run[0]))[:, 0]
                for run in runs
            ]
            found.append(np.concatenate(parts).astype(float))
        return found

    def columns(self, indices: NDArray[np.intp]) -> Doubles:
        """Return K[:, indices] in float64, with the bits of the entries of `ntk_numba.gram`.

        indices : (m,) from 0 to M − 1, in any order, with repeats
        """
        unique, inverse = np.unique(indices, return_inverse=True)
        found = np.empty((self.shape[0], len(indices)))
        if not len(indices):
            return found
        read, grid, tile = self._reader(self.plan), self.plan.grid, self.tile
        source, count = self._sources[-1], len(unique)
        columns = self._compiled.samples(Source(source.name, source.take(unique)), 0, count)
        across = range(0, count, tile)
        together = max(1, self.plan.threads * 4 // len(across))
        for band in grid.bands(range(grid.down), self.plan.band):
            rows = read(self._x, band.start * tile, min(band.stop * tile, grid.rows))
            for some in grid.bands(band, together):
                stopping.check()
                start, stop = some.start * tile, min(some.stop * tile, grid.rows)
                outputs = self._compiled.outputs(stop - start, count)
                places = [(i, j) for i in some for j in across]
                tiles = tile_table(
                    [
                        ((i - band.start) * tile, j, grid.height(i), min(tile, count - j))
                        for i, j in places
                    ],
                    [(i * tile - start, j) for i, j in places],
                )
                self._compiled.compute(tiles, rows, columns, *outputs)
                found[start:stop] = self._chosen(outputs)[:, inverse]
            del rows  # before the next band is read
        return found

    def _chosen(self, outputs: tuple[Floats, Floats]) -> Floats:
        """Return the matrix of our kernel of what `Kernel.outputs` has made."""
        matrix: Floats = outputs[KERNELS.index(self.kernel)][0]
        return matrix

    def load(self, places: Sequence[tuple[int, int]], out: Floats, tile: int) -> None:
        """Fill blocks of a symmetric matrix, see `operators.tiles.MatrixTiles`.

        One block is computed on the calling thread, and several threads may load blocks at the same
        time; several blocks of one call are computed on all threads.
        """
        read = self._reader(self.plan)
        direct = out.dtype == self.dtype and out.flags.c_contiguous
        outputs = list(self._compiled.outputs(0 if direct else len(places) * tile, tile))
        which, size = KERNELS.index(self.kernel), self.shape[0]
        if direct:
            outputs[which] = out.reshape(1, -1, tile)
        blocks = outputs[which].reshape(-1, tile, tile)
        table = []
        for n, (i, j) in enumerate(places):
            blocks[n, size - i * tile :] = 0
            blocks[n, :, size - j * tile :] = 0
            table += self._tiles_of(n, i, j, tile)
        compute = (self._compiled.compute, self._alone.compute_alone)[len(places) == 1]
        if self.plan.resident:
            samples = read(self._x, 0, size)
            compute(tile_table(*zip(*table, strict=True)), samples, samples, *outputs)
        elif len(places) > 1:
            for n, place in enumerate(places):
                self.load([place], blocks[n : n + 1], tile)
        else:
            self._load_in_bands(places[0], table, read, tile, outputs)
        if not direct:
            out[:] = blocks

    def _load_in_bands(
        self,
        place: tuple[int, int],
        table: list[tuple[tuple[int, ...], ...]],
        read: Callable[[Source, int, int], Samples],
        tile: int,
        outputs: list[Floats],
    ) -> None:
        """Compute the tiles of a block whose samples are read.

        As in a product, the samples of two bands of the plan, at most, are in memory: of several
        blocks together, or of some of the tiles of a block.
        """
        many, band = tile // self.tile, self.plan.band
        with self._reading:
            turns = self._turns.setdefault(many, threading.Semaphore(max(1, band // many)))
        step, size, (i, j) = min(band, many) * self.tile, self.shape[0], place
        with turns:
            for a in range(i * tile, min((i + 1) * tile, size), step):
                rows = read(self._x, a, min(a + step, size))
                for b in range(j * tile, min((j + 1) * tile, a + step), step):
                    some = [
                        ((row - a, column - b, *size), to, mirror)
                        for (row, column, *size), to, mirror in table
                        if row in range(a, a + step) and column in range(b, b + step)
                    ]
                    columns = rows if a == b else read(self._x, b, min(b + step, size))
                    tiles = tile_table(*zip(*some, strict=True))
                    self._alone.compute_alone(tiles, rows, columns, *outputs)
                    del columns  # before the next band is read

    def _tiles_of(self, n: int, i: int, j: int, tile: int) -> list[tuple[tuple[int, ...], ...]]:
        """Return the tiles of block (i, j), the n-th of an output, as `tile_table` takes them."""
        grid, own = self.plan.grid, self.tile
        found: list[tuple[tuple[int, ...], ...]] = []
        many = tile // own
        for a in range(i * many, min((i + 1) * many, grid.down)):
            for b in range(j * many, min((j + 1) * many, a + 1)):
                down, right = (a - i * many) * own, (b - j * many) * own
                mirror = (n * tile + right, down) if i == j else (-1, -1)
                reads = a * own, b * own, grid.height(a), grid.width(b)
                found.append((reads, (n * tile + down, right), mirror))
        return found

    @cached_property
    def _alone(self) -> Kernel:
        """The kernel that computes single blocks, on threads of the caller."""
        return make_kernel(self.plan, self._x, self._z)


def _panels(columns: Doubles, rows: int) -> Doubles:
    """Return columns in panels of `WIDTH`, with zeros up to `rows`: (panels, rows, WIDTH)."""
    count, width = columns.shape
    panels = np.zeros((-(-width // WIDTH), rows, WIDTH))
    for p, panel in enumerate(panels):
        some = columns[:, p * WIDTH : (p + 1) * WIDTH]
        panel[:count, : some.shape[1]] = some
    return panels
