"""The compiled kernels of one fitted network, with their scratch memory.

`compute` calls them; everything that runs on several threads passes through `Kernel`.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KERNELS
from ntk_numba.compiled.arrays import aligned
from ntk_numba.compiled.parallel import threads_now
from ntk_numba.engine.fitted import FittedNetwork
from ntk_numba.engine.pairs import Bands
from ntk_numba.engine.product_tile import WIDTH, ProductArguments, Side, multiply_tile
from ntk_numba.engine.products import empty_panels, panel_width
from ntk_numba.engine.recursion import Results
from ntk_numba.engine.rows import WORKING, as_data
from ntk_numba.engine.samples import (
    Samples,
    centre_of,
    find_underflow,
    layer_statistics,
    normalise,
)
from ntk_numba.engine.tile import (
    STRIP,
    Scratch,
    StripScratch,
    TileArguments,
    Tiles,
    compute_tile,
    tile_table,
)
from ntk_numba.errors import InvalidValueError, ProcessError, UnderflowWarning
from ntk_numba.inputs.source import Source

# The version of the arithmetic. It goes up whenever a bit of an entry changes, so that no file is
# begun with one version and finished with another.
NUMERICS = 6

# Numba's workqueue threading layer aborts when two threads of Python enter parallel code at once.
_one_at_a_time = threading.Lock()
_without_openmp = False


def _after_fork() -> None:
    """Make a forked child able to compute, or let it raise an error that says why it cannot.

    A thread of the parent that held the lock does not exist in the child, so the lock is replaced.
    The threads of GNU OpenMP do not exist either, and using them would end the process. The other
    threading layers start new threads.
    """
    global _one_at_a_time, _without_openmp
    _one_at_a_time = threading.Lock()
    with contextlib.suppress(ValueError):  # the parent had not started any threads
        if numba.threading_layer() == "omp":  # type: ignore[attr-defined]
            from numba.np.ufunc import omppool  # type: ignore[attr-defined]

            _without_openmp = omppool.openmp_vendor == "GNU"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Kernel:
    """The kernels of one network in one dtype, for tiles of one size.

    Parameters
    ----------
    fitted : FittedNetwork
        The network, fitted to all data.
    x : Source
        The data of the rows.
    z : Source, optional
        The data of the columns, x by default. The centre samples of both determine the centre of
        the unit vectors (see `samples`).
    kernels : sequence of str
        "nngp", "ntk" or both.
    layers : sequence of int
        The layers whose kernels are returned, counted from 1, in increasing order.
    dtype : float32 or float64
    tile : int
        The size T of a tile.
    threads : int
        The number of threads that compute.
    """

    def __init__(
        self,
        fitted: FittedNetwork,
        x: Source,
        z: Source | None = None,
        *,
        kernels: Sequence[str],
        layers: Sequence[int],
        dtype: np.dtype,
        tile: int,
        threads: int,
    ) -> None:
        self.kernels, self._kept = tuple(kernels), tuple(layers)
        self.dtype, self.tile, self.threads = dtype, tile, threads
        self.layers = len(layers)
        self._places = np.full(layers[-1], -1)
        self._places[np.array(layers) - 1] = np.arange(len(layers))
        self.features = x.shape[1]
        self._fitted = fitted
        self._warned = False
        self._numbers: SimpleQueue[int] = SimpleQueue()  # of threads without work of their own
        for number in range(threads):
            self._numbers.put(number)
        self._duals = as_data(fitted.duals, dtype)
        self._centre = self._parallel(centre_of, x, z, dtype)
        self._twice_centre = 2 * self._centre
        nngp, ntk = (aligned((threads, *shape), dtype) for shape in self._shapes(STRIP, tile))
        self._scratch = Scratch(
            StripScratch(
                product=aligned((threads, STRIP, tile), float),
                working=aligned((threads, WORKING, tile), dtype),
                vector=aligned((threads, 2 * self.features), dtype),
                distance=aligned((threads, 1, panel_width(dtype)), float),
            ),
            nngp=nngp,
            ntk=ntk,
        )

    def outputs(self, rows: int, columns: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return new arrays for (nngp, ntk): (layers, rows, columns), or empty if not wanted."""
        nngp, ntk = (aligned(shape, self.dtype) for shape in self._shapes(rows, columns))
        return nngp, ntk

    def _shapes(self, rows: int, columns: int) -> list[tuple[int, int, int]]:
        """Return the shapes of the arrays of (nngp, ntk), see `outputs`."""
        return [
            (self.layers, rows, columns) if name in self.kernels else (0, 1, 1) for name in KERNELS
        ]

    def samples(self, source: Source, start: int, stop: int, *, warn: bool = True) -> Samples:
        """Return samples start to stop - 1 of a source, padded with zeros.

        Their vectors, which take nearly all of the memory, are padded to whole panels, and all
        other numbers to whole tiles.

        Raises
        ------
        ValueError
            If Σ(x,x) or Θ(x,x) of a sample is too large for the dtype. If it is too small, there is
            an `UnderflowWarning`.
        """
        return self.samples_and_norms(source, start, stop, warn=warn)[0]

    def samples_and_norms(
        self, source: Source, start: int, stop: int, *, warn: bool = True
    ) -> tuple[Samples, NDArray[np.float64]]:
        """Return what `samples` does, and the norms |x| of the samples, padded with zeros, (R,)."""
        count = stop - start
        padded = -(-count // self.tile) * self.tile
        panels = empty_panels(count, self.features, self.dtype)
        spread, norm = np.zeros(padded), np.zeros(padded)
        for first, last in source.blocks(start, stop):
            rows = source.read(first, last)
            self._parallel(normalise, rows, first - start, self._centre, panels, spread, norm)
        # The check below finds overflow and names the row.
        with np.errstate(over="ignore", invalid="ignore"):
            statistics = layer_statistics(
                self._fitted.net.layers, self._fitted.duals, norm, self.features, self.dtype
            )
        samples = Samples(panels, spread, *statistics)
        for name, values in zip(KERNELS, self.diagonal(samples, count), strict=True):
            finite = np.isfinite(values).all(axis=(0, 2))
            if not finite.all():
                row = int(np.argmin(finite))
                raise InvalidValueError(
                    f"{source.name}: row {start + row} has norm {norm[row]:.3g}, and its {name} is "
                    f"too large for {self.dtype}; scale the data down"
                    + (" or use float64" if self.dtype == np.float32 else "")
                )
        if warn and not self._warned:
            self._warn_of_underflow(source, start, samples.std[:, :count], norm[:count])
        return samples, norm

    def _warn_of_underflow(
        self, source: Source, start: int, std: NDArray[Any], norm: NDArray[np.float64]
    ) -> None:
        """Warn, once for all bands, if results underflow; start is the first row of a band."""
        layers = self._fitted.net.layers
        if found := find_underflow(layers, std, norm, self.dtype, self._kept):
            self._warned, (row, text) = True, found
            warnings.warn(
                f"{source.name}: row {start + row} {text}", UnderflowWarning, stacklevel=2
            )

    def diagonal(
        self, samples: Samples, count: int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return Σ(x,x) and Θ(x,x) of the first `count` samples: (layers, count, 1), or empty."""
        outputs = self.outputs(count, 1)
        first = np.arange(0, count, STRIP)
        ones = np.ones_like(first)
        reads = np.column_stack([first, -ones, np.minimum(count - first, STRIP), ones])
        tiles = tile_table(reads, np.column_stack([first, 0 * first]))
        self._run(tiles, Bands(samples, samples), Results(*outputs, self._places))
        return outputs

    def compute(
        self,
        tiles: Tiles,
        rows: Samples,
        columns: Samples,
        nngp: NDArray[np.floating],
        ntk: NDArray[np.floating],
    ) -> None:
        """Compute a table of tiles (`tile.tile_table`) into arrays that `outputs` has made.

        rows, columns : the samples of the rows and of the columns
        """
        self._run(tiles, Bands(rows, columns), Results(nngp, ntk, self._places))

    def compute_alone(
        self,
        tiles: Tiles,
        rows: Samples,
        columns: Samples,
        nngp: NDArray[np.floating],
        ntk: NDArray[np.floating],
    ) -> None:
        """Compute a table of tiles, as `compute` does, on the calling thread.

        Several threads may call this at the same time. They take turns if there are more than
        `threads`. None may call any other function of this kernel meanwhile.
        """
        arguments = self._tile_arguments(
            tiles, Bands(rows, columns), Results(nngp, ntk, self._places)
        )
        number = self._numbers.get()
        try:
            compute_tile.alone(arguments, len(tiles), number)
        finally:
            self._numbers.put(number)

    def multiply(
        self, tiles: Tiles, rows: Samples, columns: Samples, down: Side, across: Side
    ) -> None:
        """Compute a table of tiles of one kernel, and add their products with vectors to totals.

        The tiles' places are those in the whole matrix; see `product_tile`.
        """
        results = Results(*self.outputs(0, 0), self._places)
        panels = max(len(down.vectors), len(across.vectors))
        sums = (
            aligned((self.threads, panels, height, WIDTH), float) for height in (STRIP, self.tile)
        )
        arguments = self._tile_arguments(tiles, Bands(rows, columns), results)
        self._parallel(multiply_tile, ProductArguments(arguments, down, across, *sums), len(tiles))

    def _run(self, tiles: Tiles, bands: Bands, results: Results) -> None:
        """Compute a table of tiles or the entries of a diagonal."""
        self._parallel(compute_tile, self._tile_arguments(tiles, bands, results), len(tiles))

    def _tile_arguments(self, tiles: Tiles, bands: Bands, results: Results) -> TileArguments:
        """Return the arguments that all loops over tiles have in common."""
        return TileArguments(
            tiles=tiles,
            bands=bands,
            twice_centre=self._twice_centre,
            duals=self._duals,
            outputs=results,
            scratch=self._scratch,
        )

    def _parallel(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function that is parallel and compiled on `self.threads` threads.

        Raises
        ------
        RuntimeError
            If the process was forked from one that had computed with GNU OpenMP.
        """
        if _without_openmp:
            raise ProcessError(
                "a process that was forked from one that had computed cannot compute with OpenMP; "
                "start processes by spawn, as "
                'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) does, '
                "or set NUMBA_THREADING_LAYER=workqueue"
            )
        with _one_at_a_time:
            before = threads_now()
            numba.set_num_threads(self.threads)
            try:
                return function(*arguments)
            finally:
                numba.set_num_threads(before)
