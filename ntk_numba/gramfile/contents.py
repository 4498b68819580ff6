"""The contents of a file of tiles: which matrices of which data, and how they are stored.

`compute` and `cluster` describe a job by them, `layout` writes them into a file's header and reads
them from it, and the writer and the merge compare them. `Contents` are those of a Gram file,
`FactorContents` those of a Cholesky factor; `formats` says how each is written.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import numpy as np

from ntk_numba.arguments import KernelName, Layers, kept_layers
from ntk_numba.digest import Digest
from ntk_numba.gramfile.storage import Storage
from ntk_numba.grid import Grid, Part

if TYPE_CHECKING:
    from ntk_numba.network import MLP

FACTOR = "factor"  # the name of the matrix of a factor's file, and of its dataset
# Norms whose relative difference is smaller count as equal: processors add in different orders
SAME_NORM = 1e-9
# Limits of a file, far above what any disk holds, so that a damaged one cannot claim more
DEEPEST = 100_000  # layers
MOST_ROWS = 1 << 30
MOST_TILES = 1 << 29  # of a grid, and of all matrices of a file: 11.8 million rows and columns


@dataclass(frozen=True)
class Output:
    """The matrices that are computed, and the way a file stores them.

    part : see `storage.Storage`
    """

    kernels: tuple[str, ...]
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
        """The way the tiles of each matrix are stored."""
        return Storage(self.grid, self.part)

    @property
    def layout(self) -> str:
        """The name of the layout: "full", "lower" or "part"."""
        return self.storage.layout

    @property
    def count(self) -> int:
        """The number of tiles to compute."""
        return self.storage.count

    @property
    def all_layers(self) -> bool:
        """Whether each kernel is stored for all layers, not only for the last one."""
        return self.layers == "all"

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """The layers of each kernel, counted from 1. In a file they are all, or the last."""
        return kept_layers(self.layers, self.depth)

    @property
    def matrices(self) -> int:
        """The number of matrices of each kernel, one for each layer that is kept."""
        return len(self.kept)

    @property
    def all_matrices(self) -> int:
        """The number of matrices of all kernels."""
        return len(self.kernels) * self.matrices

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each kernel as a reader sees it."""
        matrix = (self.grid.rows, self.grid.columns)
        return matrix if self.layers == "last" else (self.matrices, *matrix)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each kernel's dataset in the file."""
        return (*self.tiles_shape, *self.grid.chunk) if self.storage.packed else self.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of a chunk of each dataset, which is a tile."""
        return (1,) * (len(self.stored_shape) - 2) + self.grid.chunk

    @property
    def tiles_shape(self) -> tuple[int, ...]:
        """The shape of an array with one entry for each stored tile of a kernel."""
        axes = self.storage.axes
        return (self.matrices, *axes) if self.all_layers else axes

    @property
    def tile_bytes(self) -> int:
        """The size of a stored tile in bytes."""
        return int(np.prod(self.chunk)) * self.dtype.itemsize

    @property
    def output_bytes(self) -> int:
        """The size of all tiles in bytes."""
        return len(self.kernels) * int(np.prod(self.tiles_shape)) * self.tile_bytes

    @property
    def smaller(self) -> list[str]:
        """What a user can do so that the file becomes smaller."""
        ways = []
        if self.layout == "full" and self.grid.symmetric:
            ways.append("take the layout 'lower', which is half as large")
        if self.dtype != np.float32:
            ways.append("use float32")
        return ways

    @property
    def excess(self) -> str:
        """The text of an error if this is more than a file may hold, else ""."""
        grid = self.grid
        if self.depth > DEEPEST:
            return f"a file holds kernels of at most {DEEPEST:,} layers, not {self.depth:,}"
        if max(grid.rows, grid.columns) > MOST_ROWS:
            return f"a file holds at most {MOST_ROWS:,} rows and columns"
        tiles = max(grid.down * grid.across, self.all_matrices * self.count)
        if tiles > MOST_TILES:
            return f"a file holds at most {MOST_TILES:,} tiles, not {tiles:,}"
        return ""

    def matrix_name(self, kernel: str, layer: int) -> str:
        """Return the name of a matrix for people, such as "ntk" or, with all layers, "ntk layer 2".

        layer : the number of the matrix of this kernel, counted from 0
        """
        return f"{kernel} layer {layer + 1}" if self.all_layers else kernel


class Stored(Output):
    """The contents of a file of tiles; those of each format are a class of their own."""

    def differences(self, other: Self) -> list[str]:
        """List, for people, the fields in which `other` differs from this."""
        expected, found = self._readable(), other._readable()
        return [
            f"{key} is {_shown(found[key])}, not {_shown(expected[key])}"
            for key in expected
            if expected[key] != found[key]
        ]

    def _readable(self) -> dict[str, str]:
        """Return the fields that are compared one by one, as texts for people."""
        raise NotImplementedError

    @property
    def allocated_bytes(self) -> int:
        """The size of all tiles and their checksums in bytes."""
        return self.output_bytes + 8 * len(self.kernels) * int(np.prod(self.tiles_shape))


@dataclass(frozen=True)
class Contents(Stored):
    """The contents of a Gram file: two files with equal contents are interchangeable.

    network : the description of the network in JSON, as `MLP.to_dict` returns it; `net` decodes
        it only on request, since that imports all activations and the compiler
    x, z : the digests of X and of Z (None if the matrix is symmetric)
    error : bounds of the errors of Σ and Θ relative to √(K(x,x)·K(x',x')), beyond rounding: 0
        where all activations have closed forms
    largest_norm : the largest norm of all rows of X and Z, to which the activations are fitted;
        None if no activation is fitted, or if it is unknown, as in older files. It is the same for
        all parts of a job.
    """

    kernels: tuple[KernelName, ...]
    network: str
    x: Digest
    z: Digest | None
    error: tuple[float, float] = (0.0, 0.0)
    largest_norm: float | None = field(default=None, compare=False)

    def same_norm(self, other: "Contents") -> bool:
        """Return whether both are fitted to the same largest norm, or one does not know it."""
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

    def same_job(self, other: "Contents") -> bool:
        """Return whether both are of one job, and of the same data where both know the data.

        They may be different parts of it, or one of them the whole.
        """
        if replace(self, part=other.part, x=other.x, z=other.z) != other:
            return False
        if not self.same_norm(other):
            return False
        digests = (self.x, other.x), (self.z, other.z)
        return not any(a.difference(b) for a, b in digests if a and b)

    def differences(self, other: "Contents") -> list[str]:
        """List, for people, the fields in which `other` differs from this."""
        differences = super().differences(other)
        if not self.same_norm(other):
            differences.append(
                f"the largest norm is {other.largest_norm!r}, not {self.largest_norm!r}"
            )
        for name, a, b in (("X", self.x, other.x), ("Z", self.z, other.z)):
            if a != b:
                hexes = [digest.hex[:12] if digest else "none" for digest in (b, a)]
                where = a.difference(b) if a and b and a.shape == b.shape else ""
                differences.append(
                    f"the data ({name}) is {hexes[0]}, not {hexes[1]}"
                    + (f" ({where} differ)" if where else "")
                )
        return differences

    def _readable(self) -> dict[str, str]:
        """Return the fields that are compared one by one, as texts for people."""
        return {
            "shape": f"{self.grid.rows} × {self.grid.columns}",
            **{key: str(value) for key, value in self.description.items()},
            "kernels": ", ".join(self.kernels),
            "layers": str(self.layers),
            "dtype": str(self.dtype),
            "tile": str(self.grid.tile),
            "layout": self.layout,
            "part": str(self.part or ""),
            "error": " and ".join(f"{e:.3g}" for e in self.error),
        }


@dataclass(frozen=True)
class FactorContents(Stored):
    """The contents of the file of a Cholesky factor L, where 2^−e·(K + ridge·I) = L Lᵀ.

    `of` makes them: the one matrix is called "factor", and its tiles on and below the diagonal
    are stored one after another.

    matrix : the identity of K, a digest in hexadecimal digits, which changes with any entry of K
    kernel : the kernel that was asked for, "nngp" or "ntk", or ""; `matrix` depends on it
    ridge : the number that is added to the diagonal
    exponent : e; other than 0 only if entries of K are near the limits of the dtype
    """

    matrix: str
    kernel: str
    ridge: float
    exponent: int

    @classmethod
    def of(
        cls,
        size: int,
        tile: int,
        dtype: np.dtype,
        *,
        matrix: str,
        kernel: str = "",
        ridge: float = 0.0,
        exponent: int = 0,
    ) -> Self:
        """Return the contents of the factor of an N × N matrix.

        size, tile : N, and the edge of a tile
        """
        grid = Grid(size, size, True, tile)
        return cls(
            kernels=(FACTOR,),
            layers="last",
            dtype=np.dtype(dtype),
            grid=grid,
            part=Part(1, 1),
            matrix=matrix,
            kernel=kernel,
            ridge=float(ridge),
            exponent=exponent,
        )

    @property
    def depth(self) -> int:
        """1: a factor has one matrix."""
        return 1

    @property
    def smaller(self) -> list[str]:
        """What a user can do so that the file becomes smaller."""
        return ["factorise a float32 matrix"] if self.dtype != np.float32 else []

    def differences(self, other: Self) -> list[str]:
        """List, for people, the fields in which `other` differs from this."""
        differences = super().differences(other)
        if self.matrix != other.matrix:
            found, expected = (f"{c.kernel} {c.matrix[:12]}".strip() for c in (other, self))
            differences.append(f"the matrix is another one ({found}, not {expected})")
        return differences

    def _readable(self) -> dict[str, str]:
        """Return the fields that are compared one by one, as texts for people."""
        return {
            "shape": f"{self.grid.rows} × {self.grid.columns}",
            "ridge": repr(self.ridge),
            "dtype": str(self.dtype),
            "tile": str(self.grid.tile),
            "exponent": str(self.exponent),
        }


def _shown(text: str) -> str:
    """Return a text, or the beginning of a long one, such as the lists of a deep network."""
    return text if len(text) < 80 else f"{text[:70]} …"


AnyContents = TypeVar("AnyContents", bound=Stored, covariant=True)


class Header(NamedTuple, Generic[AnyContents]):
    """The header of a file of tiles: its contents, and the versions that wrote it.

    numerics : the version of the arithmetic, of a Gram file see `engine.kernel.NUMERICS`
    processor : LLVM's name of the processor that computed the tiles, or names, joined by ", ", if
        the file was merged from parts; "" if it is unknown, as in older files. A file that is
        begun on one processor and continued on another keeps the name of the first. Nothing
        depends on it.
    linked : the names and seals of the parts that its virtual datasets refer to; empty if the file
        holds its own tiles
    """

    contents: AnyContents
    numerics: int
    package_version: str
    processor: str = ""
    linked: tuple[tuple[str, int], ...] = ()


def processors_of(headers: Iterable[Header[Stored]]) -> str:
    """Return the `processor` of a file that is merged from parts: all names, sorted, each once."""
    names = {name for header in headers for name in header.processor.split(", ")}
    return ", ".join(sorted(names - {""}))
