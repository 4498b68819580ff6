"""The matrix that a picture shows, from whatever holds it; large ones are thinned out."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KERNELS, KernelName, kept_layers, parse_layers, whole_number
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.matrix import Matrix
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.inputs.containers import read_array
from ntk_numba.inputs.labels import read_labels
from ntk_numba.inputs.paths import FORMATS
from ntk_numba.inputs.source import open_source
from ntk_numba.plots.figure import LARGEST, first_bad

if TYPE_CHECKING:
    from ntk_numba.network import MLP

# Matrices of at most EVEN rows of tiles are thinned out evenly. Of larger ones, RUNS runs of rows
# are taken, each from one row of tiles, so that a picture reads parts of RUNS² tiles and no more.
EVEN, RUNS = 16, 32
SYMBOLS = {"ntk": "Θ∞", "nngp": "Σ", None: "K"}
FEW = 300  # rows by which a matrix in memory is found to be symmetric
HDF5 = ".h5", ".hdf5", ".hdf"  # endings of Gram files, and of files of data
DATA = tuple(ending for ending in FORMATS if ending not in HDF5)
Read = Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[Any]]
Thin = tuple[NDArray[np.float64], NDArray[np.integer], NDArray[np.integer]]


@dataclass(frozen=True)
class Shown:
    """A matrix that can be drawn.

    read : returns the entries of some rows and columns, which increase
    rows, columns : the shape
    symmetric : whether it is the matrix of one data set with itself
    title : the kernel and the layer, such as "Θ∞ of layer 3 of 5"
    net : the network whose kernel it is; None if it is not known
    name : the name of the matrix in errors
    dtype : the type of the entries
    tile : the rows of a stored tile; None for a matrix in memory
    """

    read: Read
    rows: int
    columns: int
    symmetric: bool
    title: str
    net: "MLP | None"
    name: str
    dtype: np.dtype
    tile: int | None = None

    @property
    def spacing(self) -> str:
        """How `thinned` chooses rows, for titles."""
        tiles = self._tiles(self.rows)
        return "evenly spaced" if tiles <= EVEN else f"in {min(RUNS, tiles)} runs"

    def thinned(self, limit: int, groups: NDArray[Any] | None = None) -> Thin:
        """Read at most `limit` rows and columns; return them, and the numbers of both.

        groups : the label of each row, by which rows are sorted; None for their own order

        Raises
        ------
        ValueError
            An entry is NaN, infinite or larger than 1e150.
        """
        rows = self._picked(self.rows, limit, groups)
        columns = rows if self.symmetric else self._picked(self.columns, limit, None)
        down, down_at = np.unique(rows, return_inverse=True)  # read in the order of the file
        across, across_at = np.unique(columns, return_inverse=True)
        found = np.asarray(self.read(down, across), float)
        if bad := first_bad(found):
            raise InvalidValueError(
                f"{self.name}: the entry of row {down[bad[0]]}, column {across[bad[1]]} is "
                f"{found[bad]:g}; entries must be finite, and of at most {LARGEST:g}"
            )
        return found[np.ix_(down_at, across_at)], rows, columns

    def _tiles(self, length: int) -> int:
        return 1 if self.tile is None else -(-length // self.tile)

    def _picked(self, length: int, limit: int, groups: NDArray[Any] | None) -> NDArray[np.integer]:
        """Return the numbers of at most `limit` rows, sorted by their labels if they have any."""
        tiles = self._tiles(length)
        if self.tile is None or tiles <= EVEN:
            order = np.arange(length) if groups is None else np.argsort(groups, kind="stable")
            return order[np.linspace(0, length - 1, min(limit, length)).astype(int)]
        runs = min(RUNS, tiles)
        each = min(limit // runs, self.tile)
        firsts = np.linspace(0, tiles - 1, runs).astype(int) * self.tile
        starts = np.minimum(firsts, length - each)
        rows = (starts[:, None] + np.arange(each)).ravel()
        return rows if groups is None else rows[np.argsort(groups[rows], kind="stable")]


@contextlib.contextmanager
def shown(
    matrix: Any,
    *,
    kernel: str | None = None,
    layer: int | None = None,
    layers: Sequence[int] | None = None,
    net: "MLP | None" = None,
) -> Iterator[Shown]:
    """Yield what a picture of a matrix needs; a file that is opened for it is closed at the end.

    The parameters and errors are those of `ntk_numba.plots.gram`.
    """
    if kernel is not None and kernel not in KERNELS:
        raise InvalidValueError(f"kernel must be 'ntk' or 'nngp', not {kernel!r}")
    if layer is not None:
        whole_number("layer", layer)
    if net is not None:
        from ntk_numba.network import check_network  # which imports all activations

        check_network(net)
    if isinstance(matrix, str | os.PathLike) and not _is_data(os.fsdecode(matrix)):
        with open_gram(matrix) as file:
            yield _of_file(file, kernel, layer)
    elif isinstance(matrix, GramFile):
        yield _of_file(matrix, kernel, layer)
    elif isinstance(matrix, Matrix):
        yield _of_stored(matrix, "matrix", kernel, layer)
    elif hasattr(matrix, "nngp") and hasattr(matrix, "ntk"):
        held = {name: getattr(matrix, name) for name in KERNELS}
        chosen = _chosen([n for n in KERNELS if held[n] is not None], kernel, "the Gram")
        yield _of_array(_Array(held[chosen], chosen, layers, net), chosen, layer)
    else:
        name = os.fsdecode(matrix) if isinstance(matrix, str | os.PathLike) else "matrix"
        yield _of_array(_Array(matrix, name, layers, net), kernel, layer)


def read_values(values: Any) -> NDArray[np.float64] | None:
    """Return one-dimensional values to draw, or None if this is a matrix.

    Raises
    ------
    ValueError, TypeError
        There is none, or they are not real and finite.
    """
    listed = isinstance(values, list | tuple) and not any(map(np.iterable, values))
    if not listed and getattr(values, "ndim", None) != 1:
        return None
    found = np.asarray(read_array(values, "values"), float)
    if found.size == 0:
        raise InvalidValueError("values is empty; there is nothing to draw")
    if bad := first_bad(found):
        raise InvalidValueError(
            f"values: entry {bad[0]} is {found[bad]:g}; it must be finite, and at most {LARGEST:g}"
        )
    return found


def read_groups(labels: Any, count: int) -> NDArray[Any] | None:
    """Return one label for each row, from an array or a file; None if there are none.

    Raises
    ------
    ValueError, TypeError, OSError
        Their number is not that of the rows, they are no numbers or texts, or the file cannot be
        read.
    """
    if labels is None:
        return None
    if isinstance(labels, str | os.PathLike):
        return read_labels(labels, count)
    found = np.asarray(labels)
    if found.dtype.kind == "O" and all(isinstance(v, str) for v in found.flat):
        found = found.astype(str)
    if found.dtype.kind not in "biufUS":
        raise InvalidTypeError(f"labels: {found.dtype} is no type of labels; give numbers or texts")
    if found.size != count or found.ndim != 1:
        shape = " × ".join(map(str, found.shape))
        raise InvalidValueError(f"labels has the shape {shape}; the matrix has {count} rows")
    return found


def _is_data(path: str) -> bool:
    """Return whether a path names a data file, or a dataset in one; else it is a Gram file's."""
    lower = path.lower()
    keyed = any(f"{ending}:" in lower for ending in FORMATS) and not Path(path).exists()
    return keyed or lower.endswith(DATA)


def _chosen(names: Sequence[KernelName], kernel: str | None, holder: str) -> KernelName:
    """Return the name of the kernel to draw: by default the NTK, if it is there."""
    if not names:
        raise InvalidValueError(f"{holder} holds no kernel")
    for name in names:
        if name == kernel:
            return name
    if kernel is not None:
        raise InvalidValueError(f"{holder} holds {', '.join(names)}, not {kernel}")
    return names[-1]


def _of_file(file: GramFile, kernel: str | None, layer: int | None) -> Shown:
    name = _chosen(file.kernels, kernel, str(file.path))
    matrix = file.ntk if name == "ntk" else file.nngp
    assert matrix is not None
    return _of_stored(matrix, f"{file.path}, {name}", name, layer, net=file.net)


def _of_stored(
    matrix: Matrix, origin: str, kernel: str | None, layer: int | None, net: "MLP | None" = None
) -> Shown:
    """Return a matrix of a Gram file."""
    contents = matrix._contents
    grid, depth = contents.grid, contents.depth
    numbers = range(1, depth + 1) if contents.all_layers else range(depth, depth + 1)
    wanted, leading = _layer(numbers, layer, "in this file", stacked=contents.all_layers)
    whole = contents.net if net is None else net
    return Shown(
        read=lambda rows, columns: matrix[(*leading, *np.ix_(rows, columns))],
        rows=grid.rows,
        columns=grid.columns,
        symmetric=grid.symmetric,
        title=_title(kernel, wanted if contents.all_layers else None, depth),
        net=whole.first(wanted),
        name=origin,
        dtype=contents.dtype,
        tile=grid.tile,
    )


class _Array(NamedTuple):
    """A matrix in memory or of a data file, or a stack of layers; see `ntk_numba.plots.gram`."""

    matrix: Any
    name: str
    layers: Sequence[int] | None
    net: "MLP | None"


def _of_array(given: _Array, kernel: str | None, layer: int | None) -> Shown:
    """Return a matrix, or one of a stack of layers, (L, N, M)."""
    matrix, name, layers, net = given
    array = read_array(matrix, name) if isinstance(matrix, list | tuple) else matrix
    if isinstance(array, np.ndarray) and array.size == 0:
        shape = " × ".join(map(str, array.shape))
        raise InvalidValueError(f"{name} is empty ({shape}); there is nothing to draw")
    stacked = isinstance(array, np.ndarray) and array.ndim == 3
    if stacked:
        numbers = _numbers(len(array), name, layers, net)
    else:
        numbers = (1 if net is None else net.depth,)
    wanted, leading = _layer(numbers, layer, f"of {name}", stacked=stacked)
    array = array[leading] if stacked else array
    read, size, dtype = _reader(array, name)
    few = [np.unique(np.linspace(0, n - 1, min(n, FEW)).astype(int)) for n in size]
    symmetric = size[0] == size[1] and _is_symmetric(read(few[0], few[0]), dtype)
    depth = numbers[-1] if net is None else net.depth
    return Shown(
        read=read,
        rows=size[0],
        columns=size[1],
        symmetric=symmetric,
        title=_title(kernel, wanted if stacked else None, depth),
        net=None if net is None else net.first(wanted),
        name=f"{name}, layer {wanted}" if stacked else name,
        dtype=dtype,
    )


def _numbers(
    count: int, name: str, layers: Sequence[int] | None, net: "MLP | None"
) -> tuple[int, ...]:
    """Return the numbers of the layers of a stack.

    Raises
    ------
    ValueError, TypeError
        They are not as many as the matrices of the stack, or the network has no such layer.
    """
    depth = count if net is None else net.depth
    if layers is None and depth != count:
        raise InvalidValueError(
            f"{name} has {count} layers, and net has {depth}; name its layers, as layers=[3, 5]"
        )
    chosen = parse_layers("all" if layers is None else layers)
    most = depth if net is not None or isinstance(chosen, str) else max(chosen)
    numbers = kept_layers(chosen, most)
    if len(numbers) != count:
        raise InvalidValueError(f"layers names {len(numbers)} layers, and {name} has {count}")
    return numbers


def _reader(array: Any, name: str) -> tuple[Read, tuple[int, int], np.dtype]:
    """Return a function that reads entries of a matrix, its shape, and its type."""
    if type(array) in (np.ndarray, np.memmap) and array.dtype.kind in "biuf" and array.ndim == 2:
        return lambda rows, columns: array[np.ix_(rows, columns)], array.shape, array.dtype
    source = open_source(array, name)

    def read(rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[Any]:
        return np.array([source.take(rows[k : k + 1])[0, columns] for k in range(len(rows))])

    return read, source.shape, source.dtype


def _is_symmetric(block: NDArray[Any], dtype: np.dtype) -> bool:
    """Return whether a matrix equals its transpose up to rounding; NaN is found later."""
    block = np.asarray(block, float)
    eps = np.finfo(dtype).eps if dtype.kind == "f" else np.finfo(float).eps
    with np.errstate(invalid="ignore", over="ignore"):
        root = np.sqrt(np.abs(np.diagonal(block)))  # of the size of the terms that are summed
        return not (np.abs(block - block.T) > np.sqrt(eps) * root[:, None] * root).any()


def _layer(
    numbers: Sequence[int], layer: int | None, where: str, *, stacked: bool
) -> tuple[int, tuple[int, ...]]:
    """Return the number of the layer to draw, and the index that chooses it from a stack."""
    wanted = numbers[-1] if layer is None else layer
    if wanted not in numbers:
        run = len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1
        known = f"{numbers[0]} to {numbers[-1]}" if run else ", ".join(map(str, numbers))
        raise InvalidValueError(f"layer must be {known} {where}, not {layer}")
    return wanted, (numbers.index(wanted),) if stacked else ()


def _title(kernel: str | None, layer: int | None, depth: int) -> str:
    """Return the title of a kernel, which names the layer if there are several."""
    return SYMBOLS[kernel] + ("" if layer is None else f" of layer {layer} of {depth}")
