"""A pass of an operator in parts: its files, and what workers do. `distributed` starts the workers.

The driver, which is the process that solves, writes the columns V to a folder that all workers can
read. A worker multiplies the tiles of its part by the rows of V that they need, and writes its
partial product to a file of its own, in whole numbers. They are added without rounding (`sums`), so
the bits of the product are those of one process, for any number of parts and in any order. The
driver adds small files by itself; of large ones, each worker adds some of the rows first.

The state of a pass is on disk. The names of its files have the digest of the matrix and of V, so a
driver that was killed, and computes the same V from its checkpoint, finds the parts that are done.
"""

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.arguments import parse_bytes
from ntk_numba.cluster.workers import Receipt, parts_on_this_host, worker_threads
from ntk_numba.errors import FileError, InvalidValueError
from ntk_numba.grid import Grid, Part
from ntk_numba.machine import available_memory
from ntk_numba.operators.sections import SectionsFile, write_sections
from ntk_numba.sums import Sums

Doubles = NDArray[np.float64]

BLOCK = 1 << 13  # rows, at most, of V or of a partial product that have one checksum
READERS = 4  # threads that read partial products
KEPT = 2  # matrices whose preparation a worker keeps for its next part


class Multiplier(Protocol):
    """A matrix whose tiles can be multiplied one part at a time."""

    @property
    def grid(self) -> Grid: ...

    @property
    def bounds(self) -> tuple[Doubles, Doubles]:
        """Two vectors r (N,) and c (M,) with |K_ij| ≤ r_i c_j."""
        ...

    def add_part(
        self, scaled: Doubles, part: Part | None, sums: Sums, transpose: bool = False
    ) -> None:
        """Add the products of the tiles of a part, or of their transposes, with columns.

        scaled : columns that `sums.balanced` has scaled; rows that the part does not need may be 0
        sums : with the `bounds` of the rows of the product, and 1 for each column
        """
        ...


class Origin(Protocol):
    """What a worker needs to know of a matrix; it can be pickled, hashed and printed.

    memory, threads : as the caller of the operator gave them
    """

    @property
    def memory(self) -> int | str | None: ...
    @property
    def threads(self) -> int | None: ...

    def elsewhere(self) -> "Origin":
        """Return the origin for other processes, with the paths of files that they can read."""
        ...

    def open(self, memory: int | str | None, threads: int | None) -> Multiplier:
        """Return the matrix in this process."""
        ...

    def difference(self, matrix: Any, part: Part) -> str:
        """Describe how a part of a matrix that `open` returned differs; empty if it is equal."""
        ...


@dataclass(frozen=True)
class Pass:
    """A pass of an operator over its tiles, in parts.

    Attributes
    ----------
    origin : the matrix
    identity : a digest of the matrix
    folder : of the files
    key : digest of the matrix and of the columns
    parts : the number of parts
    rows : the number of rows of the product
    count : the number of columns
    transpose : whether the transpose of the matrix is multiplied
    """

    origin: Origin
    identity: str
    folder: Path
    key: str
    parts: int
    rows: int
    count: int
    transpose: bool

    @property
    def columns(self) -> Path:
        """The file of the columns."""
        return self.folder / f"pass-{self.key}-columns"

    def product(self, number: int) -> Path:
        """Return the file of a partial product."""
        return self.folder / f"pass-{self.key}-product-{number}-of-{self.parts}"

    def sum(self, number: int) -> Path:
        """Return the file of the sum of some rows of all partial products."""
        return self.folder / f"pass-{self.key}-sum-{number}-of-{self.parts}"

    def write_columns(self, columns: Doubles, bounds: Doubles) -> None:
        """Write the columns, and the bounds of the rows of the product, for the workers."""
        arrays = [
            *(("columns", a, columns[a:b]) for a, b in _blocks([range(len(columns))])),
            *(("bounds", a, bounds[a:b]) for a, b in _blocks([range(len(bounds))])),
        ]
        write_sections(self.columns, {"length": len(columns)}, arrays)

    def multiply(self, number: int, matrix: Multiplier | None = None) -> Receipt:
        """Compute the partial product of a part, unless its file is there.

        matrix : the matrix, if this is the driver and not a worker
        """
        path, part = self.product(number), Part(number, self.parts)

        def compute() -> int:
            with _prepared(self, part) if matrix is None else nullcontext(matrix) as it:
                return self._multiply(it, part, path)

        return _done(number, path, compute)

    def _multiply(self, matrix: Multiplier, part: Part, path: Path) -> int:
        """Write a partial product; return the number of tiles."""
        reads, writes = rows_of(matrix.grid, part)
        if self.transpose:
            reads, writes = writes, reads
        with SectionsFile(self.columns) as file:
            columns, bounds = np.zeros((file.facts["length"], self.count)), np.zeros(self.rows)
            _fill(columns, file, "columns", reads)
            _fill(bounds, file, "bounds", writes)
        sums = Sums(bounds, np.ones(self.count))
        matrix.add_part(columns, part, sums, self.transpose)
        stopping.check()
        _write_totals(path, sums, writes)
        return matrix.grid.size(part)

    def add(self, number: int) -> Receipt:
        """Add some of the rows of all partial products, unless the file of the sum is there."""
        blocks = -(-self.rows // BLOCK)
        first, last = ((blocks * k // self.parts) * BLOCK for k in (number - 1, number))
        rows, path = range(first, min(last, self.rows)), self.sum(number)

        def compute() -> int:
            sums = Sums(np.ones(self.rows), np.ones(self.count))  # memory for these rows only
            add_files([self.product(k + 1) for k in range(self.parts)], sums, rows)
            _write_totals(path, sums, [rows])
            return 0

        return _done(number, path, compute)


def _done(number: int, path: Path, compute: Callable[[], int]) -> Receipt:
    """Call a function that writes a file, unless the file is there, and return the receipt."""
    start, tiles, stopped = time.monotonic(), 0, False
    try:
        with stopping.gently():
            if not is_right(path):
                tiles = compute()
    except stopping.StopRequested:  # a scheduler could not pass it on
        stopped = True
    return Receipt(
        part=number,
        path=str(path),
        tiles=tiles,
        seconds=time.monotonic() - start,
        host=platform.node(),
        stopped=stopped,
    )


def _fill(array: Doubles, file: SectionsFile, name: str, rows: list[range]) -> None:
    """Read those blocks of an array that have some of the rows; all others stay as they are."""
    for section in file.sections:
        stop = section.start + section.shape[0]
        if section.name == name and any(r.start < stop and section.start < r.stop for r in rows):
            array[section.start : stop] = file.read(section)


def _write_totals(path: Path, sums: Sums, rows: list[range]) -> None:
    """Write the totals of some rows, and their rests."""
    both = ("totals", sums.totals), ("rests", sums.rests)
    write_sections(path, {}, [(k, a, v[a:b]) for a, b in _blocks(rows) for k, v in both])


def add_files(paths: Iterable[Path], sums: Sums, rows: range | None = None) -> None:
    """Add the totals and the rests of files to sums; the order does not matter.

    rows : the rows to add, in whole blocks; by default all
    """

    def read(path: Path) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        with SectionsFile(path) as file:
            return [
                (totals.start, file.read(totals), file.read(rests))
                for totals, rests in zip(file.sections[::2], file.sections[1::2], strict=True)
                if rows is None or totals.start in rows
            ]

    with ThreadPoolExecutor(READERS, "reader") as pool:
        for blocks in pool.map(read, paths):
            stopping.check()
            for start, totals, rests in blocks:
                sums.merge(totals, rests, start)


@dataclass
class _Preparation:
    """A matrix in this worker; its parts take turns."""

    lock: threading.Lock
    matrix: Multiplier | None = None


_kept: dict[Any, _Preparation] = {}
_keeping = threading.Lock()


@contextmanager
def _prepared(job: Pass, part: Part) -> Iterator[Multiplier]:
    """Yield the matrix of a pass, which this worker keeps between its parts and passes."""
    origin = job.origin
    threads = worker_threads() if origin.threads is None else origin.threads
    name = (origin, job.identity, threads)
    with _keeping:
        kept = _kept.pop(name, None) or _Preparation(threading.Lock())
        _kept[name] = kept  # the one that was used last is the last
        while len(_kept) > KEPT:
            del _kept[next(iter(_kept))]
    with kept.lock:
        if kept.matrix is None:
            kept.matrix = origin.open(_memory_of(origin), threads)
        try:
            if difference := origin.difference(kept.matrix, part):
                raise InvalidValueError(
                    f"{origin} is not the same for a worker on {platform.node()} as for the "
                    f"process that started it: {difference}; all have to read the same files"
                )
            yield kept.matrix
        except BaseException:
            kept.matrix = None  # the data may have changed; the next try looks again
            raise


def _memory_of(origin: Origin) -> int | str | None:
    """Return the memory of a worker, which shares its machine with others."""
    if (sharing := parts_on_this_host()) == 1:
        return origin.memory
    free = available_memory() // 4
    return (free if origin.memory is None else parse_bytes(origin.memory, "memory")) // sharing


def rows_of(grid: Grid, part: Part) -> tuple[list[range], list[range]]:
    """Return the rows of V that a part reads, and the rows of the product that it adds to."""
    pieces, tile = grid.pieces(part), grid.tile
    down = _union((p.rows for p in pieces), tile, grid.rows)
    across = _union((p.columns for p in pieces), tile, grid.columns)
    if grid.symmetric:
        both = _union([*down, *across], 1, grid.rows)
        return both, both
    return across, down


def _union(runs: Iterable[range], tile: int, length: int) -> list[range]:
    """Return the union of runs of tiles, as runs of rows in increasing order."""
    found: list[range] = []
    for run in sorted(runs, key=lambda run: run.start):
        start, stop = run.start * tile, min(run.stop * tile, length)
        if found and start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(stop, found[-1].stop))
        else:
            found.append(range(start, stop))
    return found


def _blocks(runs: Iterable[range]) -> Iterator[tuple[int, int]]:
    """Split runs of rows into blocks that have one checksum each, at multiples of `BLOCK`."""
    for run in runs:
        start = run.start
        while start < run.stop:
            stop = min((start // BLOCK + 1) * BLOCK, run.stop)
            yield start, stop
            start = stop


def is_right(path: Path) -> bool:
    """Return whether a file of a pass is there and undamaged."""
    try:
        with SectionsFile(path) as file:
            for section in file.sections:
                file.read(section)
    except FileError:
        return False
    return True
