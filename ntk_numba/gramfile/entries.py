"""Reading entries of a file that is incomplete, or that stores only one triangle.

`reader.GramFile` returns `Entries` for such files. They are indexed like an h5py dataset of the
whole matrix and return the same arrays; they read only the tiles that an index needs, and raise an
error for entries that the file does not have.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.contents import Contents

CACHE_BYTES = 64 << 20  # of tiles, so that neighbouring rows read their common tiles once
CACHE_SLOTS = 1009


class _TileRun(NamedTuple):
    """Consecutive indices that fall into one row or column of tiles.

    tile : the number of that row or column
    at : the positions of these indices among all indices
    within : the indices relative to the tile
    """

    tile: int
    at: slice
    within: NDArray[np.intp]


class Entries:
    """A kernel of a Gram file, read through the tiles that the file has.

    Parameters
    ----------
    path, contents : the path of the file, for errors, and its contents
    file, name : the open file, and the name of the kernel
    done : a function that returns which tiles are done now, (tiles down, tiles across)

    Attributes
    ----------
    shape : (N, M), or (L, N, M) with all layers
    dtype : float32 or float64
    """

    def __init__(
        self,
        path: Any,
        file: h5py.File,
        name: str,
        contents: Contents,
        done: Callable[[], NDArray[np.bool_]],
    ) -> None:
        self._path, self._contents, self._done, self._file = path, contents, done, file
        self._slots = contents.storage.slots if contents.storage.packed else None
        cache = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        cache.set_chunk_cache(CACHE_SLOTS, CACHE_BYTES, 1.0)
        self._dataset = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), cache))
        self.shape, self.dtype = contents.shape, contents.dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions: 2, or 3 with all layers."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __getitem__(self, key: Any) -> Any:
        keys = self._whole_key(key)
        indices = [np.arange(n)[k] for n, k in zip(self.shape, keys, strict=True)]
        if sum(isinstance(k, list | np.ndarray) and np.ndim(k) > 0 for k in keys) > 1:
            raise InvalidTypeError("at most one index may be a list or a mask")
        if any(index.ndim > 1 for index in indices):
            raise InvalidTypeError(
                "an index must be a number, a slice, a list of numbers or a mask"
            )
        shape = tuple(n for index in indices for n in index.shape)
        layers = np.atleast_1d(indices[0]) if self._contents.all_layers else [0]
        runs = [list(_tile_runs(np.atleast_1d(i), self._contents.grid.tile)) for i in indices[-2:]]
        self._refuse_missing(*runs)
        if self._slots is None:
            return self._dataset[tuple(keys)]
        found = np.empty((len(layers), *(np.atleast_1d(i).size for i in indices[-2:])), self.dtype)
        for out, layer in zip(found, layers, strict=True):
            self._assemble(out, int(layer), *runs)
        # HDF5 returns NaN for the entries of a part that is missing
        if self._dataset.is_virtual and np.isnan(found).any():
            raise InvalidValueError(
                f"{self._path} has entries that are NaN: one of its parts is gone"
            )
        found = found.reshape(shape)
        return found if shape else found[()]

    def _whole_key(self, key: Any) -> list[Any]:
        """Return an index for each dimension, with ellipses expanded."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(isinstance(k, bool | np.bool_) or k is None for k in keys):
            raise InvalidTypeError(
                "an index must be a number, a slice, a list of numbers or a mask"
            )
        for at, k in enumerate(keys):
            if k is Ellipsis:
                keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
                break
        if len(keys) > len(self.shape):
            raise IndexError(f"{len(keys)} indices for a matrix of shape {self.shape}")
        return keys + [slice(None)] * (len(self.shape) - len(keys))

    def _refuse_missing(self, down: list[_TileRun], across: list[_TileRun]) -> None:
        """Raise an error that names the first tile of these rows and columns that is missing."""
        grid = self._contents.grid
        done = self._done()
        if grid.symmetric:
            done = done | done.T
        rows, columns = ([run.tile for run in runs] for runs in (down, across))
        missing = ~done[np.ix_(rows, columns)]
        if missing.any():
            row, column = np.argwhere(missing)[0]
            i, j = rows[row], columns[column]
            raise InvalidValueError(
                f"{self._path}: tile ({i}, {j}), rows from {i * grid.tile}, columns from "
                f"{j * grid.tile}, is not done yet or belongs to another part"
            )

    def _assemble(
        self, out: NDArray[Any], layer: int, down: list[_TileRun], across: list[_TileRun]
    ) -> None:
        """Fill a matrix from the stored tiles, transposed where only the mirror image is stored."""
        assert self._slots is not None
        for row in down:
            for column in across:
                first, second = row, column
                flip = self._slots[first.tile, second.tile] < 0
                if flip:
                    first, second = second, first
                slot = int(self._slots[first.tile, second.tile])
                at = (layer, slot) if self._contents.all_layers else (slot,)
                (rows, inner_rows), (columns, inner_columns) = (
                    _bounds(run.within) for run in (first, second)
                )
                block = self._dataset[(*at, rows, columns)][inner_rows][:, inner_columns]
                out[row.at, column.at] = block.T if flip else block


def _tile_runs(index: NDArray[np.intp], tile: int) -> Iterator[_TileRun]:
    """Split indices into runs that each lie in one tile."""
    if index.size == 0:
        return
    tiles = index // tile
    starts = np.flatnonzero(np.diff(tiles, prepend=-1))
    for a, b in zip(starts, [*starts[1:], index.size], strict=True):
        yield _TileRun(int(tiles[a]), slice(int(a), int(b)), index[a:b] - tiles[a] * tile)


def _bounds(within: NDArray[np.intp]) -> tuple[slice, Any]:
    """Return the shortest slice that contains all indices, and the indices relative to it."""
    low, high = int(within.min()), int(within.max()) + 1
    steps = np.diff(within)
    return slice(low, high), slice(None) if (steps == 1).all() else within - low
