"""The Cholesky factorisation by tiles, left-looking, with all reading and writing meanwhile.

A panel, a run of tiles in the order of columns, is in memory. The tiles L_ik of each earlier column
k are read in the order of k, and subtracted from its tiles,

    C_ij ← C_ij − L_ik L_jkᵀ,   then   L_jj = chol(C_jj),   L_ij = C_ij L_jj⁻ᵀ,

so that each tile of L is written once. The operations on a tile are calls of BLAS on T × T tiles in
the order of k, whatever the panels, threads and restarts are, so they change no bit; tiles at the
edge are padded by zeros, with which nothing is computed.

One thread orders what is read; some threads read, some write, and the workers compute whatever is
ready, on one thread of BLAS each. A tile waits for the first operand that it lacks. All buffers are
of one pool, and are taken in one order only, so that a panel begins where the one before leaves off
and nothing can wait for itself.

Sources: ScaLAPACK's out-of-core solvers (E. D'Azevedo, J. Dongarra, LAPACK Working Note 118, 1997).
"""

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.blas import blas_threads
from ntk_numba.compiled.arrays import aligned
from ntk_numba.factors import tile_blas
from ntk_numba.factors.factor_tiles import FactorTiles
from ntk_numba.factors.packed import PIVOT
from ntk_numba.factors.panels import Panels

Floats = NDArray[np.floating]
Integers = NDArray[np.intp]

READERS = 4  # threads that read, so that several requests are on their way to the disk
WRITERS = 2
PAUSE = 0.5  # seconds between two commits: to sync after every tile would delay reading
LOOK = 0.2  # seconds between two looks for requests to stop


class PivotError(Exception):
    """A pivot is not positive, or but a rounding error.

    row : the row of the matrix, counted from 0
    tile : the tile of the diagonal with this row, before it was factorised
    """

    def __init__(self, row: int, tile: Floats) -> None:
        super().__init__(row)
        self.row, self.tile = row, tile


class _Operand:
    """A finished tile of L in memory, until it has been used `uses` times."""

    def __init__(self, uses: int, array: Floats | None) -> None:
        self.uses, self.array = uses, array
        self.divisor: tile_blas.Divisor | None = None  # of a tile of the diagonal
        self.ready = False
        self.kept = False  # until it is written
        self.waiting: list[_Tile] = []


class _Tile:
    """A tile (i, j) of a panel that is being computed, and the next column k to subtract."""

    def __init__(self, panel: int, i: int, j: int, array: Floats) -> None:
        self.panel, self.i, self.j, self.array = panel, i, j, array
        self.k = 0


class Load(Protocol):
    """Fills an array (T, T) with tile (i, j) of the matrix to be factorised."""

    def __call__(self, i: int, j: int, out: Floats) -> None: ...


class LeftLooking:
    """A factorisation; `run` does it.

    Parameters
    ----------
    load : Load
        Gives the tiles of A, with the ridge on the diagonal. Any thread may call it.
    diagonal : (N,) float64
        The diagonal of A, with which pivots are compared.
    store : FactorTiles
        Keeps the tiles of L; those that it has are not computed again.
    panels : Panels
        The panels of all tiles that are missing.
    threads : int
        The number of workers.
    check : callable, optional
        Is called several times a second, and raises an error if the job has to end.
    """

    def __init__(
        self,
        load: Load,
        diagonal: NDArray[np.float64],
        store: FactorTiles,
        panels: Panels,
        *,
        threads: int = 1,
        check: Callable[[], object] | None = None,
        progress: bool = False,
    ) -> None:
        self._load, self._diagonal, self._store, self._panels = load, diagonal, store, panels
        self._threads, self._check, self._progress = threads, check, progress
        grid = store.grid
        self._down, self._edge, self._size = grid.down, grid.tile, grid.rows
        self._unwritten: NDArray[np.bool_] = np.tril(~store.done)
        shape = (panels.buffers, grid.tile, grid.tile)
        self._buffers = aligned(shape, store.dtype)
        self._saved = np.empty(shape[1:], store.dtype)  # the last tile of the diagonal
        self._free = list(range(panels.buffers))
        self._lock = threading.Lock()
        # what threads wait for: something to compute; a buffer, or a tile to be written; the end
        self._computable, self._room, self._ended = (
            threading.Condition(self._lock) for _ in range(3)
        )
        self._operands: dict[tuple[int, int, int], _Operand] = {}  # of (panel, i, k)
        self._ready: list[tuple[tuple[int, int, int, int], _Tile]] = []
        self._failure: BaseException | None = None
        self._left = int(np.count_nonzero(self._unwritten))
        self._steps = 0
        self._committing = False
        self._uncommitted = 0

    def run(self) -> None:
        """Compute all missing tiles, and write them to the store.

        Raises
        ------
        PivotError
            If A is not positive definite. All tiles that do not depend on it, and are finished, are
            in the store.
        """
        if not self._left:
            return
        total = sum(int(j) + 1 for j in np.nonzero(self._unwritten)[1])
        bar = tqdm(total=total, unit="product", disable=not self._progress, smoothing=0.05)
        with (
            bar,
            blas_threads(1),
            ThreadPoolExecutor(1, "committer") as self._committer,
            ThreadPoolExecutor(WRITERS, "writer") as self._writers,
            ThreadPoolExecutor(READERS, "reader") as self._readers,
            ThreadPoolExecutor(self._threads + 1, "worker") as pool,
        ):
            try:
                pool.submit(self._guarded, self._feed)
                for _ in range(self._threads):
                    pool.submit(self._guarded, self._work)
                with self._lock:
                    while self._left and not self._failure:
                        self._ended.wait(LOOK)
                        bar.update(self._steps - bar.n)
                        stopping.check()
                        if self._check:
                            self._check()
            except BaseException as error:
                self._fail(error)
        if self._failure:
            raise self._failure
        self._store.commit()

    # What threads do

    def _guarded(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do a piece of work; an error ends all others."""
        try:
            work(*arguments)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
            self._wake_all()

    def _wake_all(self) -> None:
        """Let all threads see that the job has ended; the lock is held."""
        for condition in (self._computable, self._room, self._ended):
            condition.notify_all()

    def _feed(self) -> None:
        """Take buffers for all tiles, in the order in which they are needed, and have them read."""
        for panel, tiles in enumerate(self._panels.parts):
            own = np.zeros_like(self._unwritten)
            own[tiles[:, 0], tiles[:, 1]] = True
            uses = count_uses(own)
            read = (uses > 0) & ~own
            rows = own.any(axis=1) | own.any(axis=0)
            for k in range(int(tiles[:, 1].max()) + 1):
                for i in np.flatnonzero(read[:, k] if k else rows).tolist():
                    if k == 0 and not self._admit(panel, np.flatnonzero(own[i]), uses[i], i):
                        return
                    if read[i, k] and not self._read(panel, i, k, int(uses[i, k])):
                        return

    def _admit(self, panel: int, columns: Integers, uses: Integers, i: int) -> bool:
        """Begin the tiles of a panel in row i; return False if the job has ended."""
        for j in columns.tolist():
            buffer = self._take()
            if buffer is None:
                return False
            tile = _Tile(panel, i, j, buffer)
            with self._lock:
                operand = self._operand(panel, i, j)
                operand.uses, operand.array, operand.kept = int(uses[j]), buffer, True
            self._readers.submit(self._guarded, self._begin, tile)
        return True

    def _begin(self, tile: _Tile) -> None:
        """Load a tile of A, and begin to compute with it."""
        if not self._failure:
            self._load(tile.i, tile.j, tile.array)
            with self._lock:
                self._advance(tile)

    def _read(self, panel: int, i: int, k: int, uses: int) -> bool:
        """Have a finished tile read; return False if the job has ended."""
        buffer = self._take()
        if buffer is None:
            return False
        operand = self._operand(panel, i, k)
        with self._lock:
            while self._unwritten[i, k] and not self._failure:
                self._room.wait()
            operand.uses, operand.array = uses, buffer
        self._readers.submit(self._guarded, self._fill, i, k, operand)
        return self._failure is None

    def _fill(self, i: int, k: int, operand: _Operand) -> None:
        """Read a finished tile."""
        if not self._failure:
            assert operand.array is not None
            self._store.read(i, k, operand.array)
            if i == k:
                operand.divisor = tile_blas.Divisor(operand.array)
            with self._lock:
                self._publish(operand)

    def _work(self) -> None:
        """Compute what is ready, until nothing is left."""
        while True:
            with self._lock:
                while not self._ready and self._left and not self._failure:
                    self._computable.wait()
                if not self._left or self._failure:
                    return
                _, tile = heapq.heappop(self._ready)
            if tile.k < tile.j:
                self._subtract(tile)
            else:
                self._finish(tile)

    def _subtract(self, tile: _Tile) -> None:
        """Subtract the part of one earlier column."""
        left, right = (self._operands[tile.panel, row, tile.k] for row in (tile.i, tile.j))
        assert left.array is not None and right.array is not None
        if left is right:
            tile_blas.subtract_square(tile.array, left.array)
        else:
            rows = self._height(tile)
            tile_blas.subtract_product(tile.array[:rows], left.array[:rows], right.array)
        with self._lock:
            for row in {tile.i, tile.j}:
                self._used(tile.panel, row, tile.k)
            tile.k += 1
            self._steps += 1
            self._advance(tile)

    def _finish(self, tile: _Tile) -> None:
        """Make a tile of C one of L."""
        operand = self._operands[tile.panel, tile.i, tile.j]
        if tile.i == tile.j:
            self._factorise(tile)
            if operand.uses:
                operand.divisor = tile_blas.Divisor(tile.array)
        else:
            diagonal = self._operands[tile.panel, tile.j, tile.j]
            assert diagonal.divisor is not None
            diagonal.divisor.divide(tile.array[: self._height(tile)])
        with self._lock:
            if tile.i != tile.j:
                self._used(tile.panel, tile.j, tile.j)
            self._steps += 1
            self._writers.submit(self._guarded, self._write, tile)
            self._publish(operand)

    def _height(self, tile: _Tile) -> int:
        """Return the number of rows of the matrix in a tile; all further ones are and stay 0."""
        return min(self._edge, self._size - tile.i * self._edge)

    def _factorise(self, tile: _Tile) -> None:
        """Factorise a tile of the diagonal."""
        array, start = tile.array, tile.i * self._edge
        size = self._height(tile)
        np.fill_diagonal(array[size:, size:], 1)  # beyond the matrix
        self._saved[:] = array
        row = tile_blas.factorise(array) - 1
        if row < 0:
            pivots = np.square(np.diagonal(array)[:size], dtype=float)
            bounds = PIVOT * float(np.finfo(array.dtype).eps) * self._diagonal[start:][:size]
            lost = ~(pivots > bounds)
            row = int(lost.argmax()) if lost.any() else -1
        if row >= 0:
            raise PivotError(start + row, self._saved)
        np.fill_diagonal(array[size:, size:], 0)

    def _write(self, tile: _Tile) -> None:
        """Write a finished tile, also after an error: it is right."""
        self._store.write(tile.i, tile.j, tile.array)
        with self._lock:
            self._unwritten[tile.i, tile.j] = False
            self._left -= 1
            self._operands[tile.panel, tile.i, tile.j].kept = False
            self._release(tile.panel, tile.i, tile.j)
            self._uncommitted += 1
            if not self._committing:
                self._committing = True
                self._committer.submit(self._guarded, self._commit)
            if self._left:
                self._room.notify()
            else:
                self._wake_all()

    def _commit(self) -> None:
        """Make tiles durable for as long as there are new ones."""
        while True:
            with self._lock:
                if not self._uncommitted or self._failure:
                    self._committing = False
                    return
                self._uncommitted = 0
            self._store.commit()
            with self._lock:
                self._ended.wait_for(lambda: self._failure or not self._left, PAUSE)

    # The state, of which all is changed with the lock held

    def _take(self) -> Floats | None:
        """Return a buffer, as soon as one is free; None if the job has ended."""
        with self._lock:
            while not self._free and not self._failure:
                self._room.wait()
            return None if self._failure else self._buffers[self._free.pop()]

    def _operand(self, panel: int, i: int, k: int) -> _Operand:
        """Return an operand, which may be waited for before it has a buffer."""
        return self._operands.setdefault((panel, i, k), _Operand(0, None))

    def _advance(self, tile: _Tile) -> None:
        """Let a tile take its next step, or wait for the first operand that is missing."""
        needed = (tile.i, tile.j) if tile.k < tile.j else (tile.j,) if tile.i > tile.j else ()
        for row in needed:
            operand = self._operand(tile.panel, row, tile.k)
            if not operand.ready:
                operand.waiting.append(tile)
                return
        # all of one column, then of the next; but many wait for a tile of the diagonal
        k = tile.k if tile.i > tile.j or tile.k < tile.j else -1
        heapq.heappush(self._ready, ((tile.panel, k, tile.j, tile.i), tile))
        self._computable.notify()

    def _publish(self, operand: _Operand) -> None:
        """Let all tiles go on that wait for an operand."""
        operand.ready = True
        waiting, operand.waiting = operand.waiting, []
        for tile in waiting:
            self._advance(tile)

    def _used(self, panel: int, i: int, k: int) -> None:
        """Count a use of an operand."""
        self._operands[panel, i, k].uses -= 1
        self._release(panel, i, k)

    def _release(self, panel: int, i: int, k: int) -> None:
        """Free the buffer of an operand that is no longer needed."""
        operand = self._operands[panel, i, k]
        if operand.uses == 0 and not operand.kept and operand.ready:
            assert operand.array is not None
            first = operand.array.ctypes.data - self._buffers.ctypes.data
            self._free.append(first // operand.array.nbytes)
            self._room.notify()
            del self._operands[panel, i, k]


def count_uses(own: NDArray[np.bool_]) -> Integers:
    """Return how many tiles of a panel need each L_ik, (tiles down, tiles across).

    own : (tiles down, tiles across), the tiles of the panel
    """
    beyond: Integers = (
        np.cumsum(own[:, ::-1], axis=1)[:, ::-1] - own
    )  # those of row i right of column k
    below = np.count_nonzero(np.tril(own, -1), axis=0)  # those of column i below the diagonal
    return np.tril(beyond + below[:, None])
