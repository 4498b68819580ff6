"""The derivatives of the kernels of one network, by tangents where they are exact.

`compute.gradients` calls them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ntk_numba.activations.one_kink import OneKink
from ntk_numba.arguments import KERNELS, KernelName
from ntk_numba.compiled.arrays import aligned
from ntk_numba.engine.differences import (
    KEPT,
    PAIR_NUMBERS,
    POINTS,
    SMALLEST,
    Moved,
    farthest_networks,
    first_step,
    move_samples,
    next_step,
)
from ntk_numba.engine.fitted import FittedNetwork, fit_network
from ntk_numba.engine.gradient_tile import (
    DifferenceArguments,
    GradientArguments,
    GradientScratch,
    TangentArguments,
    Wanted,
    differences_of_tile,
    tangents_of_tile,
)
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.pairs import Bands
from ntk_numba.engine.samples import Samples
from ntk_numba.engine.tangents import (
    BLOCK,
    SHARED,
    Doubles,
    Turns,
    first_layers,
    turns_of_samples,
)
from ntk_numba.engine.tile import STRIP, Tiles
from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.source import Source
from ntk_numba.network import MLP


class GradientSamples(NamedTuple):
    """The samples of a band, with std = 1, their √Σ⁽ᴸ⁾(x,x), and their norms |x|, (R,)."""

    samples: Samples
    root: Doubles
    norm: Doubles


def has_tangents(net: MLP) -> bool:
    """Return whether all activations are linear but for one kink at 0."""
    return all(isinstance(a, OneKink) for a in net.activation)


def fit_gradients(
    net: MLP, largest_norm: float | None, features: int, directions: Doubles
) -> FittedNetwork:
    """Fit a network, as `fit_network` does, to all variances that its derivatives take.

    directions : (P, 2, L), see `GradientKernel`
    """
    if largest_norm is None:
        return fit_network(net, largest_norm, features)
    others = [n for d in _normalised(directions)[0] for n in farthest_networks(net, d)]
    return fit_network(net, largest_norm, features, tuple(others))


def bytes_of_sample(fitted: FittedNetwork, directions: int) -> int:
    """Return the bytes that the derivatives of a sample take."""
    depth = fitted.net.depth
    # those of all networks twice, while they are put together
    numbers = 2 + 2 * POINTS * (2 * depth + fitted.coefficients)
    if has_tangents(fitted.net):
        numbers = directions * (depth + 1)
    return 8 * (1 + numbers)


def _normalised(directions: Doubles) -> tuple[Doubles, Doubles]:
    """Return directions whose largest coefficient is ½ to 1, and by what they were divided.

    These are powers of two, by which numbers are multiplied without rounding; 0 for a direction 0.
    """
    largest = np.abs(directions).max(axis=(1, 2))
    sizes = np.where(largest > 0, np.exp2(np.frexp(largest)[1]), 0)
    return directions / np.where(sizes > 0, sizes, 1)[:, None, None], sizes


class GradientKernel(Kernel):
    """The derivatives of the kernels of one network, in directions of its parameters.

    Parameters
    ----------
    fitted : FittedNetwork
        See `fit_gradients`.
    x, z, tile, threads
        See `Kernel`.
    kernels : sequence of str
        The kernels whose derivatives are written to arrays; none if they are summed.
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
            fitted, x, z, kernels=(), layers=(fitted.net.depth,), dtype=np.dtype(float), tile=tile,
            threads=threads,
        )  # fmt: skip
        net = fitted.net
        # K depends on σ_w² and β², so that nothing changes with one that is 0
        self._directions = directions * (np.array([net.w_std, net.b_std]) > 0)
        self._moves, self._sizes = _normalised(self._directions)
        self._steps: dict[int, float] = {}  # by direction
        self._tangents = has_tangents(fitted.net)
        count, kept = (len(directions), 0) if self._tangents else (1, PAIR_NUMBERS)
        nngp, ntk = (
            aligned((threads, count, STRIP, tile) if name in kernels else (threads, 0, 1, 1), dtype)
            for name in KERNELS
        )
        self._gradient_scratch = GradientScratch(
            strip=self._scratch.strip,
            memory=aligned((threads, SHARED + 2 * count, BLOCK), float),
            pairs=aligned((threads, kept, STRIP, tile), float),
            obtuse=np.zeros((threads, STRIP), np.bool_),
            rows=aligned((threads, 2, 1, tile), float),
            nngp=nngp,
            ntk=ntk,
        )

    def band(self, source: Source, start: int, stop: int) -> GradientSamples:
        """Return samples start to stop - 1 of a source, see `Kernel.samples`."""
        samples, norm = self.samples_and_norms(source, start, stop)
        root = np.ascontiguousarray(samples.std[-1], float)
        return GradientSamples(samples._replace(std=np.ones_like(samples.std)), root, norm)

    def differentiate(
        self, tiles: Tiles, rows: GradientSamples, columns: GradientSamples, wanted: Wanted
    ) -> None:
        """Compute the derivatives of a table of tiles, see `Wanted`.

        Raises
        ------
        ValueError
            If no step of the differences is exact enough.
        """
        if self._tangents:
            own = self._turns(rows)
            others = own if columns is rows else self._turns(columns)
            self._parallel(
                tangents_of_tile,
                TangentArguments(
                    self._arguments(tiles, rows, columns, wanted),
                    (own, others),
                    first_layers(self._directions),
                ),
                len(tiles),
            )
            return
        for p, size in enumerate(self._sizes):
            if size == 0:
                wanted.nngp[p : p + 1], wanted.ntk[p : p + 1], wanted.sums[:, p] = 0, 0, 0
                continue
            part = wanted._replace(
                nngp=wanted.nngp[p : p + 1], ntk=wanted.ntk[p : p + 1],
                sums=np.zeros((len(tiles), 1)),
            )  # fmt: skip
            self._difference(tiles, rows, columns, part, p)
            wanted.sums[:, p : p + 1] = part.sums

    def _turns(self, band: GradientSamples) -> Turns:
        """Return the derivatives of the samples of a band in all directions."""
        layers = self._fitted.net.layers
        return turns_of_samples(layers, band.norm, self.features, self._directions)

    def _difference(
        self,
        tiles: Tiles,
        rows: GradientSamples,
        columns: GradientSamples,
        wanted: Wanted,
        p: int,
    ) -> None:
        """Compute the derivatives in direction p, with steps that suffice."""
        direction, size = self._moves[p], self._sizes[p]
        places = np.arange(len(tiles))
        step = self._steps.get(p, first_step(direction))
        # The first tile of a job finds the step with which all others begin.
        probe, at = p not in self._steps, 0.0
        while step > SMALLEST:
            some = places[:1] if probe else places
            if at != step:
                own = self._moved(rows, direction, step)
                others = own if columns is rows else self._moved(columns, direction, step)
                at = step
            errors, sums = np.zeros(len(some)), np.zeros((len(some), 1))
            arguments = self._arguments(tiles[some], rows, columns, wanted._replace(sums=sums))
            arguments = arguments._replace(roots=(size * rows.root, columns.root))
            self._parallel(
                differences_of_tile,
                DifferenceArguments(
                    arguments, (own, others), np.array([step]), errors, self._places
                ),
                len(some),
            )
            wanted.sums[some] = sums
            worst = float(errors.max(initial=0))
            if probe and worst > KEPT:
                step = next_step(step, worst)
            elif probe:
                self._steps[p], places, probe = step, places[1:], False
            else:
                places, step = places[errors > KEPT], step / 2
            if not places.size:
                return
        raise InvalidValueError(
            "the derivatives of this network are computed by differences, whose errors are up to "
            f"{worst:.1e}, more than {KEPT:.0e}, at any step: its kernels change too abruptly with "
            "w_std and b_std; take fewer layers or a smaller w_std"
        )

    def _moved(self, band: GradientSamples, direction: Doubles, step: float) -> Moved:
        """Return the numbers of the samples of a band along a direction."""
        net, duals = self._fitted.net, self._fitted.duals
        return move_samples(net.layers, duals, band.norm, self.features, direction, step)

    def _arguments(
        self, tiles: Tiles, rows: GradientSamples, columns: GradientSamples, wanted: Wanted
    ) -> GradientArguments:
        """Return the arguments that both ways to compute derivatives have in common."""
        return GradientArguments(
            tiles=tiles,
            bands=Bands(rows.samples, columns.samples),
            roots=(rows.root, columns.root),
            twice_centre=self._twice_centre,
            duals=self._duals,
            wanted=wanted,
            scratch=self._gradient_scratch,
        )
