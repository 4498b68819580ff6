"""The compiled kernels of one fitted network, with their scratch memory."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KERNELS
from ntk_numba.compiled.arrays import aligned
from ntk_numba.engine.fitted import FittedNetwork
from ntk_numba.engine.pairs import Bands
from ntk_numba.engine.products import empty_panels, panel_width
from ntk_numba.engine.recursion import Results
from ntk_numba.engine.rows import WORKING, as_data
from ntk_numba.engine.samples import (
    Samples,
    centre_of,
    layer_statistics,
    normalise,
)
from ntk_numba.engine.tile import STRIP, Scratch, Tiles, Work, compute_tile, tile_table
from ntk_numba.errors import InvalidValueError, ProcessError
from ntk_numba.inputs.source import Source

# The version of the arithmetic: one more whenever an entry's bits change, so that no file is begun
# with one and ended with another.
NUMERICS = 2

# Numba's workqueue threading layer aborts when two threads of Python enter parallel code at once.
_one_at_a_time = threading.Lock()
_without_openmp = False


def _after_fork() -> None:
    """Make a forked child able to compute, or to say that it is not.

    A thread of its parent's that held the lock does not exist here; nor do those of GNU OpenMP,
    which would end the process. The other layers start theirs anew.
    """
    global _one_at_a_time, _without_openmp
    _one_at_a_time = threading.Lock()
    with contextlib.suppress(ValueError):  # the parent had not started any
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
        The data; its middle becomes the centre of the unit vectors (see `samples`).
    kernels : those of "nngp", "ntk" that are wanted
    every : bool
        All layers, 1 to L, or the last only.
    dtype : float32 or float64
    tile : int
        T.
    threads : int
    """

    def __init__(
        self,
        fitted: FittedNetwork,
        x: Source,
        kernels: Sequence[str],
        every: bool,
        dtype: np.dtype,
        tile: int,
        threads: int,
    ) -> None:
        self.kernels, self.every = tuple(kernels), every
        self.dtype, self.tile, self.threads = dtype, tile, threads
        self.layers = fitted.net.depth if every else 1
        self.features = x.shape[1]
        self._fitted = fitted
        self._duals = as_data(fitted.duals, dtype)
        self._centre = self._parallel(centre_of, x, dtype)
        self._twice_centre = 2 * self._centre
        nngp, ntk = (aligned((threads, *shape), dtype) for shape in self._shapes(STRIP, tile))
        self._scratch = Scratch(
            aligned((threads, STRIP, tile), float),
            aligned((threads, WORKING, tile), dtype),
            nngp,
            ntk,
            aligned((threads, self.features), dtype),
            aligned((threads, 1, panel_width(dtype)), float),
        )

    def outputs(self, rows: int, columns: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """New arrays for (nngp, ntk), (layers, rows, columns) where wanted."""
        nngp, ntk = (aligned(shape, self.dtype) for shape in self._shapes(rows, columns))
        return nngp, ntk

    def _shapes(self, rows: int, columns: int) -> list[tuple[int, int, int]]:
        return [
            (self.layers, rows, columns) if name in self.kernels else (0, 1, 1) for name in KERNELS
        ]

    def samples(self, source: Source, start: int, stop: int) -> Samples:
        """The samples start to stop of a source, with empty rows up to a whole number of tiles.

        Raises
        ------
        ValueError
            A sample whose Σ(x,x) or Θ(x,x) is too large for the dtype.
        """
        count = stop - start
        padded = -(-count // self.tile) * self.tile
        panels = empty_panels(count, self.features, self.dtype, padded)
        spread, norm = np.zeros(padded), np.zeros(padded)
        for first, last in source.blocks(start, stop):
            rows = source.read(first, last)
            self._parallel(normalise, rows, first - start, self._centre, panels, spread, norm)
        # what overflows is found below, where the row can be named
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
        return samples

    def diagonal(
        self, samples: Samples, count: int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Σ(x,x) and Θ(x,x) of the first `count` samples, (layers, count, 1) where wanted."""
        outputs = self.outputs(count, 1)
        first = np.arange(0, count, STRIP)
        ones = np.ones_like(first)
        reads = np.column_stack([first, -ones, np.minimum(count - first, STRIP), ones])
        tiles = tile_table(reads, np.column_stack([first, 0 * first]))
        self._run(tiles, Bands(samples, samples), Results(*outputs, self.every))
        return outputs

    def compute(
        self,
        tiles: Tiles,
        rows: Samples,
        columns: Samples,
        nngp: NDArray[np.floating],
        ntk: NDArray[np.floating],
    ) -> None:
        """Compute a table of tiles (`tile.tile_table`) into the outputs."""
        self._run(tiles, Bands(rows, columns), Results(nngp, ntk, self.every))

    def _run(self, tiles: Tiles, bands: Bands, results: Results) -> None:
        """Compute a table of tiles, of a job or of the diagonal."""
        work = Work(tiles, bands, self._twice_centre, self._duals, results, self._scratch)
        self._parallel(compute_tile, work, len(tiles))

    def _parallel(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run compiled parallel code on our number of threads; all of it goes through here.

        Raises
        ------
        RuntimeError
            In a child of fork whose parent has computed with GNU OpenMP.
        """
        if _without_openmp:
            raise ProcessError(
                "a process that was forked from one that had computed cannot compute with OpenMP; "
                "start processes by spawn, as "
                'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) does, '
                "or set NUMBA_THREADING_LAYER=workqueue"
            )
        with _one_at_a_time:
            before = numba.get_num_threads()
            numba.set_num_threads(self.threads)
            try:
                return function(*arguments)
            finally:
                numba.set_num_threads(before)
