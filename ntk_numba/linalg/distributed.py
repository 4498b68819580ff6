"""Products with a kernel matrix by the workers of a cluster, a pass at a time."""

import re
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.schedulers import Pool, pool_of
from ntk_numba.cluster.workers import AnyExecutor, Task
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.lease import Lease
from ntk_numba.grid import Part
from ntk_numba.linalg.passes import Multiplier, Origin, Pass, add_files, is_right, rows_of
from ntk_numba.sums import Sums, balanced

Doubles = NDArray[np.float64]

# Bytes of partial products that the driver reads by itself; of more, the workers add the rows first
ALONE = 256 << 20
# The names of the files of a pass, with those that a worker that was killed may leave beside them
NAMES = re.compile(r"pass-([0-9a-f]{32})-(?:columns|(?:product|sum)-\d+-of-\d+)(?:\.partial\.\w+)?")


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
        digest = xxhash.xxh3_128(np.ascontiguousarray(scaled).data)
        digest.update(f"{self._matrix.identity} {scaled.shape} {transpose}".encode())
        job = Pass(
            origin=self._origin,
            identity=self._matrix.identity,
            folder=self._folder,
            key=digest.hexdigest(),
            parts=self._parts,
            rows=len(rows),
            count=scaled.shape[1],
            transpose=transpose,
            memory=self._memory,
            threads=self._threads,
        )
        sums = Sums(rows, np.ones(job.count))
        numbers = range(1, self._parts + 1)
        mend = "wait for it, or give another folder"
        with stopping.gently(), Lease(self._folder / "pass", mend=mend):
            self._remove(but=job.key)  # files of a pass that was stopped and is not wanted any more
            if not is_right(job.columns):
                job.write_columns(scaled, rows)
            if self._executor is None:
                for number in numbers:
                    if job.multiply(number, self._matrix).stopped:
                        raise stopping.StopRequested
            else:
                self._run(job.multiply)
            files = job.product
            if self._executor is not None and self._size(job) > ALONE:
                self._run(job.add)
                files = job.sum
            add_files(map(files, numbers), sums)
            self._remove()
        return np.asarray(np.ldexp(sums.result(), exponents))

    def _size(self, job: Pass) -> int:
        """Return the bytes of all partial products."""
        grid, rows = self._matrix.grid, 0
        for number in range(1, self._parts + 1):
            reads, writes = rows_of(grid, Part(number, self._parts))
            rows += sum(map(len, reads if job.transpose else writes))
        return rows * job.count * 8

    def _run(self, task: Task) -> None:
        """Run a task for all parts on the workers."""
        assert self._executor is not None
        if self._pool is None:
            self._pool = pool_of(self._executor)
        try:
            run_parts(self._pool, task, range(1, self._parts + 1))
        except BaseException as error:
            self.close(error)  # a pool that was asked to stop takes no more parts
            raise

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
