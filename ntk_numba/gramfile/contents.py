"""What a Gram file is to hold."""

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ntk_numba.arguments import KernelName, Layers
from ntk_numba.digest import Digest
from ntk_numba.gramfile.storage import Storage
from ntk_numba.grid import Grid, Part

if TYPE_CHECKING:
    from ntk_numba.network import MLP

# Norms that differ by less, relatively, are the same: processors add in different orders
SAME_NORM = 1e-9


@dataclass(frozen=True)
class Output:
    """Which matrices are computed, and how a file stores them.

    part : see `storage.Storage`
    """

    kernels: tuple[KernelName, ...]
    layers: Layers
    dtype: np.dtype
    grid: Grid
    part: Part | None

    @property
    def depth(self) -> int:
        """The depth L of the network."""
        raise NotImplementedError

    @cached_property
    def storage(self) -> Storage:
        """How the tiles of each matrix are stored."""
        return Storage(self.grid, self.part)

    @property
    def layout(self) -> str:
        """One of "full", "lower" and "part"."""
        return self.storage.layout

    @property
    def count(self) -> int:
        """The number of tiles to compute."""
        return self.storage.count

    @property
    def all_layers(self) -> bool:
        """Whether each kernel is stored for all layers and not for the last one only."""
        return self.layers == "all"

    @property
    def matrices(self) -> int:
        """The number of matrices of each kernel: one for each layer that is stored."""
        return self.depth if self.all_layers else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each kernel, as it is read."""
        matrix = (self.grid.rows, self.grid.columns)
        return (self.matrices, *matrix) if self.all_layers else matrix

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of each dataset."""
        return (*self.tiles, *self.grid.chunk) if self.storage.packed else self.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """Of each dataset: a tile."""
        return (1,) * (len(self.stored) - 2) + self.grid.chunk

    @property
    def tiles(self) -> tuple[int, ...]:
        """Of each dataset of checksums: a tile an entry."""
        axes = self.storage.axes
        return (self.matrices, *axes) if self.all_layers else axes

    @property
    def tile_bytes(self) -> int:
        """Of a stored tile."""
        return int(np.prod(self.chunk)) * self.dtype.itemsize

    @property
    def output_bytes(self) -> int:
        """Of all tiles."""
        return len(self.kernels) * int(np.prod(self.tiles)) * self.tile_bytes


@dataclass(frozen=True)
class Contents(Output):
    """What a Gram file is to hold: two files with equal contents are interchangeable.

    network : the description of the network in JSON, as `MLP.to_dict` gives it; it is decoded only
        where `net` is asked for, since that needs all activations and the compiler
    x, z : of X, and of Z (None if the matrix is symmetric)
    error : bounds of the errors of Σ and Θ relative to √(K(x,x)·K(x',x')), beyond rounding: 0
        where all activations have closed forms
    largest_norm : of all rows of X and Z, that the activations are fitted to; None if none is, or
        where it is not known, as in older files. All parts of a job have the same.
    """

    network: str
    x: Digest
    z: Digest | None
    error: tuple[float, float] = (0.0, 0.0)
    largest_norm: float | None = field(default=None, compare=False)

    def same_norm(self, other: "Contents") -> bool:
        """Return whether both are fitted to the same largest norm, as far as both know."""
        a, b = self.largest_norm, other.largest_norm
        return a is None or b is None or math.isclose(a, b, rel_tol=SAME_NORM)

    @cached_property
    def description(self) -> dict[str, Any]:
        """The network as `MLP.to_dict` describes it."""
        return dict(json.loads(self.network))

    @property
    def depth(self) -> int:
        """The depth L of the network."""
        return int(self.description["depth"])

    @cached_property
    def net(self) -> "MLP":
        """The network."""
        from ntk_numba.network import MLP

        return MLP.from_dict(self.description)

    def differences(self, other: "Contents") -> list[str]:
        """What `other` has otherwise, for people."""
        mine, theirs = self._readable(), other._readable()
        found = [
            f"{key} is {_shown(theirs[key])}, not {_shown(mine[key])}"
            for key in mine
            if mine[key] != theirs[key]
        ]
        if not self.same_norm(other):
            found.append(f"the largest norm is {other.largest_norm!r}, not {self.largest_norm!r}")
        for name, a, b in (("X", self.x, other.x), ("Z", self.z, other.z)):
            if a != b:
                hexes = [digest.hex[:12] if digest else "none" for digest in (b, a)]
                where = a.difference(b) if a and b and a.shape == b.shape else ""
                found.append(
                    f"the data ({name}) is {hexes[0]}, not {hexes[1]}"
                    + (f" ({where} differ)" if where else "")
                )
        return found

    def _readable(self) -> dict[str, str]:
        return {
            "shape": f"{self.grid.rows} × {self.grid.columns}",
            **{key: str(value) for key, value in self.description.items()},
            "kernels": ", ".join(self.kernels),
            "layers": self.layers,
            "dtype": str(self.dtype),
            "tile": str(self.grid.tile),
            "layout": self.layout,
            "part": str(self.part or ""),
            "error": " and ".join(f"{e:.3g}" for e in self.error),
        }

    @property
    def bytes(self) -> int:
        """Of all tiles and their checksums."""
        return self.output_bytes + 8 * len(self.kernels) * int(np.prod(self.tiles))


def _shown(text: str) -> str:
    """Of a deep network's lists, the beginning."""
    return text if len(text) < 80 else f"{text[:70]} …"


class Header(NamedTuple):
    """What a Gram file says of itself.

    numerics : the version of the arithmetic, see `engine.kernel.NUMERICS`
    linked : the parts that its datasets are made of, names and seals, if they are virtual
    """

    contents: Contents
    numerics: int
    package_version: str
    linked: tuple[tuple[str, int], ...] = ()
