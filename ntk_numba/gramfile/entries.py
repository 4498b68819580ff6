"""Reading entries of a file that is incomplete, or that stores only one triangle.

`reader.GramFile` returns `Entries` for such files. They are indexed like an h5py dataset of the
whole matrix and return the same arrays; they read only the tiles that an index needs, and raise an
error for entries that the file does not have. Entries of a linked file are read from its parts, see
`parts`.
"""

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.matrix import Index, Matrix, TileRun, bounds, tile_runs
from ntk_numba.gramfile.parts import CACHE_BYTES, Parts
from ntk_numba.gramfile.products import MatrixOfFile

CACHE_SLOTS = 1009


class Whole(Matrix, h5py.Dataset):  # type: ignore[misc]
    """The dataset of a kernel that is stored as it is, with the indices and products of NumPy.

    Parameters
    ----------
    dataset, contents : the dataset, and the contents of its file
    stored : returns the tiles of a layer
    """

    def __init__(
        self, dataset: h5py.Dataset, contents: Contents, stored: Callable[[int], MatrixOfFile]
    ) -> None:
        h5py.Dataset.__init__(self, dataset.id)
        self._contents, self._matrix_of = contents, stored

    def _stored(self, layer: int) -> MatrixOfFile:
        return self._matrix_of(layer)

    def __getitem__(self, key: Any) -> Any:
        self._refuse_closed()
        if key == () if isinstance(key, tuple) else key is Ellipsis:
            return h5py.Dataset.__getitem__(self, key)
        keys = self._whole_key(key)
        if any(isinstance(k, np.ndarray) or (isinstance(k, slice) and _steps(k)) for k in keys):
            return super().__getitem__(key)
        return h5py.Dataset.__getitem__(self, tuple(keys))

    def _is_open(self) -> bool:
        return bool(self)

    def _read(self, layers: Index, rows: Index, columns: Index) -> NDArray[Any]:
        return _read_stored(self, self._contents, layers, rows, columns)


def _read_stored(
    dataset: h5py.Dataset, contents: Contents, layers: Index, rows: Index, columns: Index
) -> NDArray[Any]:
    """Return the entries of increasing indices of a matrix that is stored as it is.

    HDF5 is slow with lists of numbers, so that a slice of each tile is read.
    """
    found = np.empty((len(layers), rows.size, columns.size), contents.dtype)
    tile = contents.grid.tile
    down, across = list(tile_runs(rows, tile)), list(tile_runs(columns, tile))
    for out, layer in zip(found, layers, strict=True):
        leading = (int(layer),) if contents.all_layers else ()
        for row in down:
            for column in across:
                (r, inner_rows), (c, inner_columns) = map(bounds, (row.within, column.within))
                r, c = (
                    slice(run.tile * tile + s.start, run.tile * tile + s.stop)
                    for run, s in ((row, r), (column, c))
                )
                block = h5py.Dataset.__getitem__(dataset, (*leading, r, c))
                out[row.at, column.at] = block[inner_rows][:, inner_columns]
    return found


def _steps(key: slice) -> bool:
    """Return whether a slice has a step other than 1."""
    return key.step is not None and key.step != 1


class Entries(Matrix):
    """A kernel of a Gram file, read through the tiles that the file has.

    Parameters
    ----------
    path, contents : the path of the file, for errors, and its contents
    file, name : the open file, and the name of the kernel
    done : a function that returns which tiles are done now, (tiles down, tiles across)
    stored : returns the tiles of a layer
    parts : the parts that a linked file refers to; None if it holds its own tiles

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
        stored: Callable[[int], MatrixOfFile],
        parts: Parts | None = None,
    ) -> None:
        self._path, self._contents, self._done, self._file = path, contents, done, file
        self._name, self._parts, self._matrix_of = name, parts, stored
        if parts is None:
            cache = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
            cache.set_chunk_cache(CACHE_SLOTS, CACHE_BYTES, 1.0)
            self._dataset = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), cache))
        self.shape, self.dtype = contents.shape, contents.dtype

    def _is_open(self) -> bool:
        return bool(self._file)

    def _stored(self, layer: int) -> MatrixOfFile:
        return self._matrix_of(layer)

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

    def _read(self, layers: Index, rows: Index, columns: Index) -> NDArray[Any]:
        tile = self._contents.grid.tile
        down, across = list(tile_runs(rows, tile)), list(tile_runs(columns, tile))
        self._refuse_missing([run.tile for run in down], [run.tile for run in across])
        if not self._contents.storage.packed:
            return _read_stored(self._dataset, self._contents, layers, rows, columns)
        found = np.empty((len(layers), rows.size, columns.size), self.dtype)
        for out, layer in zip(found, layers, strict=True):
            self._assemble(out, int(layer), down, across)
        return found

    def _refuse_missing(self, rows: list[int], columns: list[int]) -> None:
        """Raise an error that names the first of these tiles that the file does not have."""
        grid = self._contents.grid
        done, wanted = self._done(), np.ix_(rows, columns)
        missing = ~done[wanted]
        if grid.symmetric:
            missing &= ~done.T[wanted]
        if missing.any():
            row, column = np.argwhere(missing)[0]
            i, j = rows[row], columns[column]
            raise InvalidValueError(
                f"{self._path}: tile ({i}, {j}), rows from {i * grid.tile}, columns from "
                f"{j * grid.tile}, is not done yet or belongs to another part"
            )

    def _assemble(
        self, out: NDArray[Any], layer: int, down: list[TileRun], across: list[TileRun]
    ) -> None:
        """Fill a matrix from the stored tiles, transposed where only the mirror image is stored."""
        slot_of = self._contents.storage.slot
        for row in down:
            for column in across:
                first, second = row, column
                flip = slot_of(first.tile, second.tile) < 0
                if flip:
                    first, second = second, first
                (rows, inner_rows), (columns, inner_columns) = (
                    bounds(run.within) for run in (first, second)
                )
                block = self._block(layer, first.tile, second.tile, rows, columns)
                block = block[inner_rows][:, inner_columns]
                out[row.at, column.at] = block.T if flip else block

    def _block(self, layer: int, i: int, j: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Return some rows and columns of a stored tile."""
        if self._parts:
            return self._parts.tile((self._name, layer, i, j))[rows, columns]
        at = (layer,) if self._contents.all_layers else ()
        return self._dataset[(*at, self._contents.storage.slot(i, j), rows, columns)]
