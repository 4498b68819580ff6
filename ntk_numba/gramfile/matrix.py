"""Indices and products of the matrices of Gram files, as NumPy defines them, tile by tile."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.products import MatrixOfFile

Index = NDArray[np.intp]


class TileRun(NamedTuple):
    """Consecutive indices that fall into one row or column of tiles.

    tile : the number of that row or column
    at : the positions of these indices among all indices
    within : the indices relative to the tile
    """

    tile: int
    at: slice
    within: Index


def tile_runs(index: Index, tile: int) -> Iterator[TileRun]:
    """Split indices into runs that each lie in one tile."""
    if index.size == 0:
        return
    tiles = index // tile
    starts = np.flatnonzero(np.diff(tiles, prepend=-1))
    for a, b in zip(starts, [*starts[1:], index.size], strict=True):
        yield TileRun(int(tiles[a]), slice(int(a), int(b)), index[a:b] - tiles[a] * tile)


def bounds(within: Index) -> tuple[slice, Any]:
    """Return the shortest slice that contains all indices, and the indices relative to it."""
    low, high = int(within.min()), int(within.max()) + 1
    steps = np.diff(within)
    return slice(low, high), slice(None) if (steps == 1).all() else within - low


class Matrix:
    """A kernel of a Gram file, which is indexed and multiplied as an array is.

    All indices of NumPy work except new axes: numbers, slices with any step, masks, and lists of
    numbers in any order, repeated or negative. Two lists choose single entries, as in NumPy;
    ``f.ntk[np.ix_(rows, columns)]`` chooses a submatrix. Each tile that an index needs is read
    once.

    ``f.ntk @ v`` and ``v @ f.ntk`` read the matrix tile by tile, each tile of a symmetric one once
    for itself and its mirror image. All cores multiply, in float64 arithmetic, and a few tiles are
    in memory beside the factor and the product. The result is that of the array up to rounding,
    and the same in every run, for any number of threads. A tile that does not match its checksum is
    an error.

    A subclass has `shape` and `dtype`, and defines `_read`, `_is_open` and `_stored`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _contents: Contents

    def _read(self, layers: Index, rows: Index, columns: Index) -> NDArray[Any]:
        """Return the entries of increasing indices: (layers, rows, columns)."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Any:
        keys = self._whole_key(key)
        lists = [k for k in keys[-2:] if isinstance(k, np.ndarray) and k.ndim]
        if len(lists) == 2:
            size = np.broadcast(*lists).size
            if size < lists[0].size * lists[1].size:
                return self._points(keys)
        chosen, within = zip(*map(_apart, keys, self.shape), strict=True)
        layers = chosen[0] if self._contents.all_layers else np.zeros(1, np.intp)
        block = self._read(layers, *chosen[-2:])
        found = block.reshape([index.size for index in chosen])[within]
        return found if np.ndim(found) else found[()]

    def _points(self, keys: list[Any]) -> NDArray[Any]:
        """Return single entries, for lists of rows and columns that are broadcast."""
        tile = self._contents.grid.tile
        leading, (rows, columns) = keys[:-2], np.broadcast_arrays(*keys[-2:])
        if leading and isinstance(leading[0], np.ndarray) and leading[0].ndim:
            layers, rows, columns = np.broadcast_arrays(leading[0], rows, columns)
            found = np.empty(rows.shape, self.dtype)
            for layer in np.unique(layers):
                at = layers == layer
                found[at] = self[layer, rows[at], columns[at]]
            return found
        chosen, within = _apart(leading[0], self.shape[0]) if leading else (np.zeros(1, np.intp), 0)
        shape, rows, columns = rows.shape, rows.ravel(), columns.ravel()
        found = np.empty((len(chosen), rows.size), self.dtype)
        number = rows // tile * self._contents.grid.across + columns // tile
        order = np.argsort(number, kind="stable")
        starts = np.flatnonzero(np.diff(number[order], prepend=-1))
        for at in np.split(order, starts[1:]) if order.size else ():
            r, down = np.unique(rows[at], return_inverse=True)
            c, across = np.unique(columns[at], return_inverse=True)
            found[:, at] = self._read(chosen, r, c)[:, down, across]
        return found.reshape(-1, *shape)[within]

    def _refuse_closed(self) -> None:
        """Raise an error if the file is closed."""
        if not self._is_open():
            raise InvalidValueError("the Gram file of this matrix is closed; open it again")

    def _is_open(self) -> bool:
        """Return whether the file that has the entries is still open."""
        raise NotImplementedError

    def _whole_key(self, key: Any) -> list[Any]:
        """Return an index for each dimension: an int, a slice, or an array of numbers ≥ 0.

        Ellipses are expanded and masks replaced by the numbers that they choose.

        Raises
        ------
        TypeError, IndexError
            If the key is none that NumPy takes, or has a new axis.
        """
        self._refuse_closed()
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(isinstance(k, bool | np.bool_) or k is None for k in keys):
            raise InvalidTypeError(
                "an index must be a number, a slice, a list of numbers or a mask; for a new axis, "
                "read the entries first: f.ntk[...][None]"
            )
        keys = [k if isinstance(k, slice) or k is Ellipsis else _numbers(k) for k in keys]
        if sum(k is Ellipsis for k in keys) > 1:
            raise IndexError("an index can only have a single ellipsis ('...')")
        keys = [
            piece
            for k in keys
            for piece in (
                _whole_mask(k) if isinstance(k, np.ndarray) and k.dtype == bool else [k]
            )
        ]  # fmt: skip
        at = next((i for i, k in enumerate(keys) if k is Ellipsis), len(keys))
        left = len(self.shape) - len(keys) + (at < len(keys))
        if left < 0:
            raise IndexError(f"too many indices for a matrix of shape {self.shape}")
        keys[at : at + 1] = [slice(None)] * left
        for axis, (k, n) in enumerate(zip(keys, self.shape, strict=True)):
            if isinstance(k, _Mask) and k.length != n:
                raise IndexError(f"a mask of {k.length} entries for a dimension of {n}")
            if not isinstance(k, slice):
                keys[axis] = k.numbers if isinstance(k, _Mask) else _not_negative(k, n)
        return keys

    def refuse_incomplete(self) -> None:
        """Raise an error if the file is closed, or does not have all tiles of the matrix.

        Raises
        ------
        ValueError
            The text names the first tile that is missing.
        """
        self._refuse_closed()
        grid = self._contents.grid
        self._refuse_missing(list(range(grid.down)), list(range(grid.across)))

    def _refuse_missing(self, rows: list[int], columns: list[int]) -> None:
        """Raise an error that names the first of these tiles that the file does not have."""

    def _stored(self, layer: int) -> MatrixOfFile:
        """Return the tiles of a layer, counted from 0."""
        raise NotImplementedError

    def __matmul__(self, other: Any) -> Any:
        return self._times(other, left=False)

    def __rmatmul__(self, other: Any) -> Any:
        return self._times(other, left=True)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Multiply by tiles in ``v @ f.ntk``, which NumPy passes here; else read the matrix."""
        if ufunc is np.matmul and method == "__call__" and not options:
            if isinstance(inputs[0], Matrix):
                return inputs[0] @ inputs[1]
            return self.__rmatmul__(inputs[0])
        arrays = [np.asarray(x) if isinstance(x, Matrix) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def _times(self, other: Any, *, left: bool) -> NDArray[Any]:
        """Return the product with a vector or a matrix, which stands to the left or the right.

        Raises
        ------
        ValueError, TypeError
            If the shapes do not fit, the other factor does not hold finite numbers, or the file
            lacks tiles or is damaged.
        """
        self._refuse_closed()
        name = "the left" if left else "the right"
        factor = np.asarray(other)
        if factor.dtype.kind not in "biufc":
            raise InvalidTypeError(f"{name} factor holds {factor.dtype}, not numbers")
        if factor.ndim not in (1, 2):
            raise InvalidValueError(
                f"{name} factor must have one or two dimensions, not the shape {factor.shape}"
            )
        length = self.shape[-2 if left else -1]
        found = factor.shape[-1 if left else 0]
        if found != length:
            raise InvalidValueError(
                f"{name} factor of a matrix of shape {self.shape} has "
                f"{found} {'columns' if left else 'rows'}, not {length}"
            )
        with np.errstate(over="ignore"):  # of numbers that float64 does not hold
            doubles = factor.astype(complex if factor.dtype.kind == "c" else float, copy=False)
        if not np.isfinite(doubles).all():
            at = int(np.argwhere(~np.isfinite(doubles))[0][-1 if left else 0])
            line = "column" if left and factor.ndim == 2 else "row"
            raise InvalidValueError(f"{name} factor: {line} {at} (counted from 0) is not finite")
        self.refuse_incomplete()
        columns = np.atleast_2d(doubles).T if left or factor.ndim == 1 else doubles
        dtype = np.result_type(self.dtype, factor.dtype)
        products = np.stack([
            _multiply(self._stored(layer), columns, transpose=left).astype(dtype)
            for layer in range(self._contents.matrices)
        ])  # fmt: skip
        if factor.ndim == 1:
            products = products[..., 0]
        elif left:
            products = products.swapaxes(-2, -1)
        return products if self._contents.all_layers else products[0]


def _multiply(matrix: MatrixOfFile, columns: NDArray[Any], *, transpose: bool) -> NDArray[Any]:
    """Return the product with columns of any numbers; the parts of complex ones are multiplied."""
    if columns.dtype.kind != "c":
        return matrix.multiply(columns.astype(float, copy=False), transpose=transpose)
    parts = np.hstack([columns.real, columns.imag]).astype(float, copy=False)
    real, imaginary = np.hsplit(matrix.multiply(parts, transpose=transpose), 2)
    return real + 1j * imaginary


class _Mask(NamedTuple):
    """One dimension of a mask: the numbers that it chooses, and its length."""

    numbers: Index
    length: int


def _whole_mask(mask: NDArray[np.bool_]) -> list[_Mask]:
    """Return an index for each dimension of a mask."""
    return [_Mask(k, n) for k, n in zip(np.nonzero(mask), mask.shape, strict=True)]


def _numbers(key: Any) -> Any:
    """Return an int, or an array of ints or of truth values.

    Raises
    ------
    IndexError
        If the key is something else.
    """
    try:
        array = np.asarray(key)
    except ValueError:
        array = np.asarray("ragged")
    if array.size == 0 and array.dtype == float and isinstance(key, list | tuple):
        array = array.astype(np.intp)
    if array.dtype.kind not in "biu":
        raise IndexError(
            f"an index must be a number, a slice, a list of numbers or a mask, not {key!r}"
        )
    return array if array.ndim else int(array)


def _not_negative(key: Any, length: int) -> Any:
    """Return a number or an array of numbers, counted from the start of a dimension.

    Raises
    ------
    IndexError
        If one of them is outside.
    """
    numbers = np.asarray(key)
    outside = (numbers >= length) | (numbers < -length)
    if outside.any():
        bad = numbers[outside].flat[0] if numbers.ndim else numbers
        raise IndexError(f"index {bad} is out of bounds for a dimension of {length}")
    numbers = numbers.astype(np.intp)
    return np.where(numbers < 0, numbers + length, numbers)[()]


def _apart(key: Any, length: int) -> tuple[Index, Any]:
    """Return the increasing numbers that a key needs, and the key among these numbers."""
    if isinstance(key, slice):
        chosen = np.arange(length)[key]
        backwards = chosen.size > 1 and chosen[0] > chosen[-1]
        return (chosen[::-1], slice(None, None, -1)) if backwards else (chosen, slice(None))
    chosen, within = np.unique(key, return_inverse=True)
    return chosen, within.reshape(np.shape(key)) if np.ndim(key) else 0
