"""Matrices whose rows are converted or computed in chunks when they are read."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Chunks:
    """A matrix whose runs of rows, ``rows[start:stop]``, are taken from chunks of rows.

    The last chunk is kept, since single rows in order, and runs of few rows, mostly lie in it too.

    Parameters
    ----------
    shape, dtype : those of the matrix
    ends : the last row plus 1 of each chunk, in order
    load : (start, stop) → the rows of a chunk as an array
    columns : the labels of the columns, if they have any

    Attributes
    ----------
    shape, dtype, columns : as above
    nbytes : int
        The bytes of the largest chunk.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        ends: Sequence[int],
        load: Callable[[int, int], NDArray[Any]],
        columns: Sequence[Any] | None = None,
    ) -> None:
        self.shape, self.dtype, self.columns = shape, dtype, columns
        self._ends, self._load = np.array([0, *ends]), load
        row = dtype.itemsize * int(np.prod(shape[1:]))
        self.nbytes = int(np.diff(self._ends).max(initial=0)) * row
        self._kept = -1, np.empty(0)
        self._lock = threading.Lock()

    def __getitem__(self, rows: Any) -> Any:
        """Return rows ``[start:stop]``, or all of them for ``[()]``."""
        run = slice(None) if isinstance(rows, tuple) else rows
        start, stop, _ = run.indices(self.shape[0])
        pieces = [np.empty((0, *self.shape[1:]), self.dtype)]
        while start < stop:
            number = int(np.searchsorted(self._ends, start, "right"))
            first, end = (int(n) for n in self._ends[number - 1 : number + 1])
            pieces.append(self._chunk(number)[start - first : min(end, stop) - first])
            start = min(end, stop)
        if len(pieces) == 2:
            return pieces[1]
        masked = any(map(np.ma.isMA, pieces))
        join: Callable[..., Any] = np.ma.concatenate if masked else np.concatenate
        return join(pieces)

    def _chunk(self, number: int) -> NDArray[Any]:
        """Return a chunk, counted from 1."""
        with self._lock:
            if self._kept[0] != number:
                self._kept = -1, np.empty(0)  # so that no two chunks are in memory
                first, end = (int(n) for n in self._ends[number - 1 : number + 1])
                self._kept = number, self._load(first, end)
            return self._kept[1]
