"""Reader of rows of a sparse matrix in compressed rows (CSR), in memory or in a file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError


class CompressedRows:
    """A sparse matrix whose runs of rows, ``rows[start:stop]``, are read as dense arrays.

    Row i has the entries ``data[indptr[i]:indptr[i + 1]]`` in the columns
    ``indices[indptr[i]:indptr[i + 1]]``, in any order; entries of the same column are added, as
    SciPy does. All others are 0. `data` and `indices` are read only for the rows that are asked
    for.

    Parameters
    ----------
    name : the name of the matrix, for errors
    data, indices, indptr : arrays, or h5py datasets, of one dimension
    shape : (N, n0)

    Attributes
    ----------
    shape, dtype : those of the dense matrix

    Raises
    ------
    ValueError, TypeError
        If the three arrays do not describe a matrix of this shape. Columns are checked when their
        rows are read.
    """

    def __init__(
        self, name: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]
    ) -> None:
        self._name, self._data, self._indices = name, data, indices
        self.shape, self.dtype = (int(shape[0]), int(shape[1])), np.dtype(data.dtype)
        if self.shape[0] < 0 or self.shape[1] < 0:
            raise self._damaged(f"its shape is {self.shape}")
        if np.dtype(indices.dtype).kind not in "iu" or np.dtype(indptr.dtype).kind not in "iu":
            raise InvalidTypeError(f"{name} is damaged: indices and indptr are not whole numbers")
        if len(data.shape) != 1 or data.shape != indices.shape:
            raise self._damaged(f"data has shape {data.shape}, indices {indices.shape}")
        if indptr.shape != (self.shape[0] + 1,):
            raise self._damaged(
                f"indptr has shape {indptr.shape}, not ({self.shape[0] + 1},) for "
                f"{self.shape[0]} rows"
            )
        pointers = indptr[:]
        if (pointers[1:] < pointers[:-1]).any() or pointers[0] < 0:
            raise self._damaged("indptr decreases or is negative")
        if pointers[-1] > data.shape[0]:
            raise self._damaged(f"indptr ends at {pointers[-1]}, data at {data.shape[0]}")
        self._pointers = pointers.astype(np.int64)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        pointers = self._pointers[start : max(start, stop) + 1]
        first, last = int(pointers[0]), int(pointers[-1])
        columns = np.asarray(self._indices[first:last]).astype(np.int64)
        wrong = (columns < 0) | (columns >= self.shape[1])
        if wrong.any():
            at = int(np.argmax(wrong))
            row = start + int(np.searchsorted(pointers, first + at, "right")) - 1
            raise self._damaged(
                f"row {row} has an entry in column {columns[at]} of {self.shape[1]} columns"
            )
        dense = np.zeros((len(pointers) - 1, self.shape[1]), self.dtype)
        owners = np.repeat(np.arange(len(dense)), np.diff(pointers))
        np.add.at(dense.reshape(-1), owners * self.shape[1] + columns, self._data[first:last])
        return dense

    def _damaged(self, why: str) -> InvalidValueError:
        """Return the error for a matrix whose arrays do not fit together."""
        return InvalidValueError(f"{self._name} is no valid matrix of compressed rows: {why}")
