"""Products with a kernel matrix by many processes: a pass of an operator in parts.

The driver, which is the process that solves, writes the columns V to a folder that all workers can
read. A worker multiplies the tiles of its part by the rows of V that they need, and writes its
partial product, whole numbers, to a file of its own; the driver adds these files. Whole numbers are
added without rounding (`sums`), so the bits of the product are those of one process, for any number
of parts and in any order.

The state of a pass is on disk. The names of its files have the digest of the matrix and of V, so a
driver that was killed, and computes the same V from its checkpoint, finds the parts that are done.
They are removed after the pass.
"""

import platform
import re
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.arguments import parse_bytes
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.schedulers import Pool, pool_of
from ntk_numba.cluster.workers import AnyExecutor, Receipt, parts_on_this_host, worker_threads
from ntk_numba.errors import FileError, InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.lease import Lease
from ntk_numba.grid import Grid, Part
from ntk_numba.linalg.sections import SectionsFile, write_sections
from ntk_numba.machine import available_memory
from ntk_numba.sums import Sums, balanced

Doubles = NDArray[np.float64]

BLOCK = 1 << 13  # rows of V, and of a partial product, that have one checksum
READERS = 4  # threads that read partial products
KEPT = 2  # matrices whose preparation a worker keeps for its next part
# The names of the files of a pass, with those that a worker that was killed may leave beside them
NAMES = re.compile(r"pass-([0-9a-f]{32})-(?:columns|product-\d+-of-\d+)(?:\.partial\.\w+)?")


class Multiplier(Protocol):
    """A matrix whose tiles can be multiplied one part at a time."""

    @property
    def identity(self) -> str: ...
    @property
    def grid(self) -> Grid: ...

    def bounds(self) -> tuple[Doubles, Doubles]:
        """Return r (N,) and c (M,) with |K_ij| ≤ r_i c_j."""
        ...

    def add_part(self, columns: Doubles, part: Part, sums: Sums, *, transpose: bool) -> None:
        """Add the products of the tiles of a part, or of their transposes, with columns.

        columns : of which the rows that the part does not need may be 0
        """
        ...


class Origin(Protocol):
    """What a worker needs to know of a matrix; it can be pickled and hashed."""

    def open(self, memory: int | None, threads: int | None) -> Multiplier:
        """Return the matrix in this process."""
        ...


@dataclass(frozen=True)
class Pass:
    """A pass of an operator over its tiles, in parts.

    Attributes
    ----------
    origin : the matrix
    identity : what its `identity` has to be in every process
    folder : of the files
    key : digest of the matrix and of the columns
    parts : the number of parts
    transpose : whether the transpose of the matrix is multiplied
    memory, threads : as the caller of the operator gave them
    """

    origin: Origin
    identity: str
    folder: Path
    key: str
    parts: int
    transpose: bool
    memory: int | str | None
    threads: int | None

    @property
    def columns(self) -> Path:
        """The file of the columns."""
        return self.folder / f"pass-{self.key}-columns"

    def product(self, number: int) -> Path:
        """Return the file of a partial product."""
        return self.folder / f"pass-{self.key}-product-{number}-of-{self.parts}"

    def multiply(self, number: int, matrix: Multiplier | None = None) -> Receipt:
        """Compute the partial product of a part, unless its file is there.

        matrix : the matrix, if this is the driver and not a worker
        """
        start, part = time.monotonic(), Part(number, self.parts)
        path, tiles, stopped = self.product(number), 0, False
        try:
            with stopping.gently():
                if not _is_right(path):
                    with _prepared(self) if matrix is None else nullcontext(matrix) as it:
                        tiles = self._write(it, part, path)
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

    def _write(self, matrix: Multiplier, part: Part, path: Path) -> int:
        """Compute a partial product and write it; return the number of tiles."""
        reads, writes = rows_of(matrix.grid, part)
        if self.transpose:
            reads, writes = writes, reads
        with SectionsFile(self.columns) as file:
            columns, rows = _read_columns(file, reads, writes)
        sums = Sums(rows, np.ones(columns.shape[1]))
        matrix.add_part(columns, part, sums, transpose=self.transpose)
        stopping.check()
        blocks = [("totals", start, sums.totals[start:stop]) for start, stop in _blocks(writes)]
        write_sections(path, {"identity": self.identity, "part": str(part)}, blocks)
        return matrix.grid.size(part)


@dataclass
class _Preparation:
    """A matrix in this worker; its parts take turns."""

    lock: threading.Lock
    matrix: Multiplier | None = None


_kept: dict[Any, _Preparation] = {}
_keeping = threading.Lock()


@contextmanager
def _prepared(job: Pass) -> Iterator[Multiplier]:
    """Yield the matrix of a pass, which this worker keeps between its parts and passes."""
    count = worker_threads() if job.threads is None else job.threads
    name = (job.origin, job.identity, job.memory, count)
    with _keeping:
        kept = _kept.pop(name, None) or _Preparation(threading.Lock())
        _kept[name] = kept  # the one that was used last is the last
        while len(_kept) > KEPT:
            del _kept[next(iter(_kept))]
    with kept.lock:
        if kept.matrix is None:
            limit = None
            if (sharing := parts_on_this_host()) > 1 or job.memory is not None:
                free = available_memory() // 4
                limit = free if job.memory is None else parse_bytes(job.memory, "memory")
                limit //= sharing
            matrix = job.origin.open(limit, count)
            if matrix.identity != job.identity:
                raise InvalidValueError(
                    f"{job.origin} is not the same for this worker, on {platform.node()}, as for "
                    "the process that started it; all of them have to read the same data"
                )
            kept.matrix = matrix
        try:
            yield kept.matrix
        except BaseException:
            kept.matrix = None  # the data may have changed; the next try looks again
            raise


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
    """Split runs of rows into blocks that have one checksum each."""
    for run in runs:
        for start in range(run.start, run.stop, BLOCK):
            yield start, min(start + BLOCK, run.stop)


def _read_columns(
    file: SectionsFile, reads: list[range], writes: list[range]
) -> tuple[Doubles, Doubles]:
    """Return the columns and the bounds of the rows of the product; rows not needed are 0."""
    columns, rows = np.zeros(file.facts["columns"]), np.zeros(file.facts["rows"])
    targets = {"columns": (columns, reads), "rows": (rows, writes)}
    for section in file.sections:
        array, wanted = targets[section.name]
        stop = section.start + section.shape[0]
        if any(run.start < stop and section.start < run.stop for run in wanted):
            array[section.start : stop] = file.read(section)
    return columns, rows


def _is_right(path: Path) -> bool:
    """Return whether the file of a partial product is there and undamaged."""
    try:
        with SectionsFile(path) as file:
            for section in file.sections:
                file.read(section)
    except FileError:
        return False
    return True


class Passes:
    """The passes of an operator by the workers of an executor.

    Parameters
    ----------
    matrix : the matrix in this process
    origin : the same for workers
    folder : where the files of a pass are written, which all workers can read and write
    parts, executor : see `write_gram`
    """

    def __init__(
        self,
        matrix: Multiplier,
        origin: Origin,
        folder: Path,
        *,
        parts: int,
        executor: AnyExecutor | None,
        memory: int | str | None = None,
        threads: int | None = None,
    ) -> None:
        matrix.grid.size(Part(1, parts))  # raises an error if there are more parts than tiles
        self._matrix, self._origin, self._folder = matrix, origin, folder
        self._parts, self._executor = parts, executor
        self._memory, self._threads = memory, threads
        self._bounds = matrix.bounds()
        self._pool: Pool | None = None

    def multiply(self, columns: Doubles, *, transpose: bool = False) -> Doubles:
        """Return the product with columns (M, K), as the matrix itself would compute it.

        Raises
        ------
        StoppedError
            Parts could not be computed; the others are kept.
        OSError
            The folder cannot be written, or another process uses it for its passes.
        """
        rows, weights = self._bounds[::-1] if transpose else self._bounds
        scaled, exponents = balanced(columns, weights)
        digest = xxhash.xxh3_128(np.ascontiguousarray(scaled).reshape(-1).view(np.uint8))
        digest.update(f"{self._matrix.identity} {scaled.shape} {transpose}".encode())
        job = Pass(
            origin=self._origin,
            identity=self._matrix.identity,
            folder=self._folder,
            key=digest.hexdigest(),
            parts=self._parts,
            transpose=transpose,
            memory=self._memory,
            threads=self._threads,
        )
        sums = Sums(rows, np.ones(scaled.shape[1]))
        mend = "wait for it, or give another folder"
        with stopping.gently(), Lease(self._folder / "pass", mend=mend):
            self._remove(but=job.key)  # files of a pass that was stopped and is not wanted any more
            if not _is_right(job.columns):
                _write_columns(job, scaled, rows)
            self._run(job)
            self._add(job, sums)
            self._remove()
        return np.asarray(np.ldexp(sums.result(), exponents))

    def _run(self, job: Pass) -> None:
        """Compute all partial products."""
        numbers = range(1, self._parts + 1)
        if self._executor is None:
            for number in numbers:
                if job.multiply(number, self._matrix).stopped:
                    raise stopping.StopRequested
            return
        if self._pool is None:
            self._pool = pool_of(self._executor)
        try:
            run_parts(self._pool, job.multiply, numbers)
        except BaseException as error:
            self.close(error)  # a pool that was asked to stop takes no more parts
            raise

    def _add(self, job: Pass, sums: Sums) -> None:
        """Add the partial products to the sums; the order does not matter."""

        def read(number: int) -> list[tuple[int, NDArray[np.int64]]]:
            with SectionsFile(job.product(number)) as file:
                return [(section.start, file.read(section)) for section in file.sections]

        with ThreadPoolExecutor(READERS, "reader") as pool:
            for blocks in pool.map(read, range(1, self._parts + 1)):
                stopping.check()
                for start, totals in blocks:
                    sums.merge(totals, start)

    def _remove(self, but: str = "") -> None:
        """Remove the files of passes, except those of one."""
        for path in self._folder.iterdir():
            name = NAMES.fullmatch(path.name)
            if name and name[1] != but:
                disk.remove(path)

    def close(self, error: BaseException | None = None) -> None:
        """End the workers, if they were started here; after an error, do not wait for them."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.__exit__(None if error is None else type(error), error, None)


def _write_columns(job: Pass, columns: Doubles, rows: Doubles) -> None:
    """Write the columns, and the bounds of the rows of the product, for the workers."""
    arrays = [
        *(("columns", a, columns[a:b]) for a, b in _blocks([range(len(columns))])),
        *(("rows", a, rows[a:b]) for a, b in _blocks([range(len(rows))])),
    ]
    facts = {"identity": job.identity, "columns": list(columns.shape), "rows": len(rows)}
    write_sections(job.columns, facts, arrays)
