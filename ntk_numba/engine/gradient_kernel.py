"""The compiled derivatives of the kernels of one network, tile by tile.

`compute.gradients` calls them. A tile's derivatives are written to arrays, or multiplied by weights
and summed. All arithmetic is in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KERNELS, KernelName
from ntk_numba.compiled.arrays import aligned
from ntk_numba.compiled.parallel import ParallelLoop, arguments_at
from ntk_numba.compiled.policy import njit
from ntk_numba.engine.fitted import FittedNetwork
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.pairs import Bands, Pairs
from ntk_numba.engine.recursion import cosine
from ntk_numba.engine.rows import TAU, Duals, W, Z
from ntk_numba.engine.samples import Samples
from ntk_numba.engine.tangents import (
    BLOCK,
    SHARED,
    Doubles,
    Turns,
    all_tangents,
    first_layers,
    turns_of_samples,
)
from ntk_numba.engine.tile import (
    STRIP,
    StripScratch,
    Tiles,
    angles_of_row,
    is_on_diagonal,
    multiply_strip,
    write_strip,
)
from ntk_numba.function import Floats
from ntk_numba.inputs.source import Source


class Wanted(NamedTuple):
    """What becomes of the derivatives of a call.

    nngp, ntk : (P, N, M) the outputs, C-contiguous; (0, 1, 1) where not wanted
    weights : (N, N) of the entries, C-contiguous; (0, 0) if there is no sum
    of_ntk : whether the sum is of the derivatives of Θ, or of those of Σ
    sums : (tiles, P) the sums of tiles
    """

    nngp: Floats
    ntk: Floats
    weights: Doubles
    of_ntk: bool
    sums: Doubles


class GradientScratch(NamedTuple):
    """The scratch memory of each thread.

    product, working, vector, distance : see `tile.Scratch`
    memory : (threads, SHARED + 2P, BLOCK), see `tangents`
    nngp, ntk : (threads, P, STRIP, T) finished strips; (threads, 0, 1, 1) if not wanted
    """

    product: Doubles
    working: Floats
    vector: Floats
    distance: Doubles
    memory: Doubles
    nngp: Floats
    ntk: Floats


class GradientArguments(NamedTuple):
    """The arguments of `differentiate_tile`, which are the same for all tiles of a call."""

    tiles: Tiles
    bands: Bands
    turns: tuple[Turns, Turns]
    first: NDArray[np.int64]
    twice_centre: Doubles
    duals: Duals
    wanted: Wanted
    scratch: GradientScratch


@njit(fastmath={"reassoc", "contract"})
def _weighted_sum(factors: Doubles, slope: Doubles, value: Doubles, own: float, others: Doubles
                  ) -> float:  # fmt: skip
    """Return Σ_j factors[j] (slope[j] + (own + others[j]) value[j]), reassociated."""
    total = 0.0
    for j in range(slope.size):
        total += factors[j] * (slope[j] + (own + others[j]) * value[j])
    return total


@njit
def _finish(
    out: Floats, scale: float, scales: Doubles, slope: Doubles, value: Doubles,
    own: float, others: Doubles,
) -> None:  # fmt: skip
    """Fill the derivatives of a row of entries from those of cosθ or τ."""
    for j in range(slope.size):
        out[j] = (scale * scales[j]) * (slope[j] + (own + others[j]) * value[j])


@ParallelLoop
def differentiate_tile(arguments_address: Any, thread: int, k: int) -> None:
    """Compute the derivatives of tile k of `GradientArguments` with the scratch of a thread."""
    arguments: GradientArguments = arguments_at(arguments_address)
    t, bands, scratch = arguments.tiles[k], arguments.bands, arguments.scratch
    wanted, first_of = arguments.wanted, arguments.first
    own = StripScratch(
        scratch.product[thread], scratch.working[thread],
        scratch.vector[thread], scratch.distance[thread],
    )  # fmt: skip
    working, memory = own.working, scratch.memory[thread]
    nngp, ntk, count = scratch.nngp[thread], scratch.ntk[thread], first_of.size
    summed, depth = wanted.weights.shape[0] > 0, bands.rows.std.shape[0]
    if summed:
        wanted.sums[k, :] = 0.0
    for top in range(0, t.height, STRIP):
        height, across = multiply_strip(own.product, bands, t, top)
        for r in range(height):
            row, obtuse = angles_of_row(own, bands, t, top + r, arguments.twice_centre)
            # the slope of cosθ is −2 dz
            for begin in range(0, row.n, BLOCK):
                n, j0 = min(BLOCK, row.n - begin), row.j0 + begin
                if begin > 0:
                    for j in range(n):
                        working[Z, j], working[W, j] = working[Z, begin + j], working[W, begin + j]
                pairs = Pairs(bands, row.i, j0, n)
                all_tangents(
                    working, memory, pairs, obtuse, arguments.duals, arguments.turns, first_of
                )
                z, w, tau = working[Z, :n], working[W, :n], working[TAU, :n]
                value = memory[0, :n]  # the shared numbers are not used any more
                for j in range(n):
                    value[j] = cosine(z[j], w[j])
                std, stds = bands.rows.std[depth - 1, row.i], bands.columns.std[depth - 1]
                scales = stds[j0 : j0 + n]
                factors = memory[1, :n]
                if summed:
                    weights = wanted.weights[t.to_row + top + r]
                    column = t.to_column + begin
                    for j in range(n):
                        factors[j] = (2 * std) * scales[j] * weights[column + j]
                    if is_on_diagonal(t) and begin + n == row.n:
                        factors[n - 1] *= 0.5
                for p in range(count):
                    dz, dtau = memory[SHARED + p, :n], memory[SHARED + count + p, :n]
                    for j in range(n):
                        dz[j] *= -2
                    mine = arguments.turns[0].log_root[p, row.i]
                    others = arguments.turns[1].log_root[p, j0 : j0 + n]
                    if summed:
                        if wanted.of_ntk:
                            part = _weighted_sum(factors, dtau, tau, mine, others)
                        else:
                            part = _weighted_sum(factors, dz, value, mine, others)
                        wanted.sums[k, p] += part
                    if nngp.shape[0] > 0:
                        out = nngp[p, r, begin : begin + n]
                        _finish(out, std, scales, dz, value, mine, others)
                    if ntk.shape[0] > 0:
                        out = ntk[p, r, begin : begin + n]
                        _finish(out, std, scales, dtau, tau, mine, others)
        write_strip(wanted.nngp, nngp, t, top, height, across)
        write_strip(wanted.ntk, ntk, t, top, height, across)


class GradientSamples(NamedTuple):
    """The samples of a band, and their norms, from which their derivatives follow."""

    samples: Samples
    norm: Doubles


class GradientKernel(Kernel):
    """The derivatives of the kernels of one network, in directions of its parameters.

    Parameters
    ----------
    fitted, x, z, tile, threads
        See `Kernel`.
    kernels : sequence of str
        The kernels whose derivatives are written to arrays; may be empty.
    dtype : float32 or float64
        That of these arrays.
    directions : (P, 2, L) float64
        The coefficients of the derivatives by log σ_w and by log β of each layer.
    """

    def __init__(
        self,
        fitted: FittedNetwork,
        x: Source,
        z: Source | None = None,
        *,
        kernels: Sequence[KernelName],
        dtype: np.dtype,
        directions: Doubles,
        tile: int,
        threads: int,
    ) -> None:
        super().__init__(
            fitted, x, z, kernels=(), all_layers=False, dtype=np.dtype(float), tile=tile,
            threads=threads,
        )  # fmt: skip
        self._directions, count = directions, len(directions)
        strips = [
            (threads, count, STRIP, tile) if name in kernels else (threads, 0, 1, 1)
            for name in KERNELS
        ]
        nngp, ntk = (aligned(shape, dtype) for shape in strips)
        self._gradient_scratch = GradientScratch(
            product=self._scratch.product,
            working=self._scratch.working,
            vector=self._scratch.vector,
            distance=self._scratch.distance,
            memory=aligned((threads, SHARED + 2 * count, BLOCK), float),
            nngp=nngp,
            ntk=ntk,
        )

    def band(self, source: Source, start: int, stop: int) -> GradientSamples:
        """Return samples start to stop - 1 of a source, see `Kernel.samples`."""
        return GradientSamples(*self.samples_and_norms(source, start, stop))

    def differentiate(
        self, tiles: Tiles, rows: GradientSamples, columns: GradientSamples, wanted: Wanted
    ) -> None:
        """Compute the derivatives of a table of tiles, see `Wanted`."""
        layers = self._fitted.net.layers
        own = turns_of_samples(layers, rows.norm, self.features, self._directions)
        others = own
        if columns is not rows:
            others = turns_of_samples(layers, columns.norm, self.features, self._directions)
        arguments = GradientArguments(
            tiles=tiles,
            bands=Bands(rows.samples, columns.samples),
            turns=(own, others),
            first=first_layers(self._directions),
            twice_centre=self._twice_centre,
            duals=self._duals,
            wanted=wanted,
            scratch=self._gradient_scratch,
        )
        self._parallel(differentiate_tile, arguments, len(tiles))
