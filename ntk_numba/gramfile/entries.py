"""Reading entries of a file that has not all of them, or each only once.

What `Entries` is indexed with and gives is what an h5py dataset of the whole matrix would; it reads
the tiles that it needs, and refuses what is not there.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.contents import Contents

CACHE_BYTES = 64 << 20  # of tiles, so that neighbouring rows of a column of tiles read them once
CACHE_SLOTS = 1009


class _Run(NamedTuple):
    """Indices that fall into one row or column of tiles.

    tile : its number
    at : where they stand among all indices
    within : indices in the tile
    """

    tile: int
    at: slice
    within: NDArray[np.intp]


class Entries:
    """A kernel of a Gram file.

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
        """2, or 3 with all layers."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Entries."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __getitem__(self, key: Any) -> Any:
        keys = self._whole_key(key)
        indices = [np.arange(n)[k] for n, k in zip(self.shape, keys, strict=True)]
        if sum(isinstance(k, list | np.ndarray) and np.ndim(k) > 0 for k in keys) > 1:
            raise InvalidTypeError("one index at most may be a list or a mask")
        if any(index.ndim > 1 for index in indices):
            raise InvalidTypeError(
                "an index must be a number, a slice, a list of numbers or a mask"
            )
        shape = tuple(n for index in indices for n in index.shape)
        layers = np.atleast_1d(indices[0]) if self._contents.all_layers else [0]
        runs = [list(_runs(np.atleast_1d(i), self._contents.grid.tile)) for i in indices[-2:]]
        self._refuse_missing(*runs)
        if self._slots is None:
            return self._dataset[tuple(keys)]
        found = np.empty((len(layers), *(np.atleast_1d(i).size for i in indices[-2:])), self.dtype)
        for out, layer in zip(found, layers, strict=True):
            self._assemble(out, int(layer), *runs)
        if self._dataset.is_virtual and np.isnan(found).any():  # as HDF5 gives for a missing file
            raise InvalidValueError(
                f"{self._path} has entries that are NaN: one of its parts is gone"
            )
        found = found.reshape(shape)
        return found if shape else found[()]

    def _whole_key(self, key: Any) -> list[Any]:
        """An index for each dimension."""
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

    def _refuse_missing(self, down: list[_Run], across: list[_Run]) -> None:
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
                f"{j * grid.tile}, is not done yet or in another part"
            )

    def _assemble(
        self, out: NDArray[Any], layer: int, down: list[_Run], across: list[_Run]
    ) -> None:
        """Fill a matrix from the tiles it needs, and from the mirror images of others."""
        assert self._slots is not None
        for row in down:
            for column in across:
                first, second = row, column
                flip = self._slots[first.tile, second.tile] < 0
                if flip:
                    first, second = second, first
                slot = int(self._slots[first.tile, second.tile])
                at = (layer, slot) if self._contents.all_layers else (slot,)
                sides = [_bounds(run.within) for run in (first, second)]
                block = self._dataset[(*at, *(side for side, _ in sides))]
                block = block[sides[0][1]][:, sides[1][1]]
                out[row.at, column.at] = block.T if flip else block


def _runs(index: NDArray[np.intp], tile: int) -> Iterator[_Run]:
    if index.size == 0:
        return
    tiles = index // tile
    starts = np.flatnonzero(np.diff(tiles, prepend=-1))
    for a, b in zip(starts, [*starts[1:], index.size], strict=True):
        yield _Run(int(tiles[a]), slice(int(a), int(b)), index[a:b] - tiles[a] * tile)


def _bounds(within: NDArray[np.intp]) -> tuple[slice, Any]:
    """A slice that has all of some indices, and they in it."""
    low, high = int(within.min()), int(within.max()) + 1
    steps = np.diff(within)
    return slice(low, high), slice(None) if (steps == 1).all() else within - low
