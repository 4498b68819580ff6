"""Products with a kernel matrix by the workers of a cluster, a pass at a time."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from ntk_numba import stopping
from ntk_numba.arguments import whole_number
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.schedulers import Pool, pool_of
from ntk_numba.cluster.workers import AnyExecutor, Task
from ntk_numba.errors import FileError, StoppedError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.place import check_folder, output_path
from ntk_numba.grid import Part
from ntk_numba.operators.operator import GramOperator
from ntk_numba.operators.origins import origin_of
from ntk_numba.operators.passes import Multiplier, Origin, Pass, add_files, is_right, rows_of
from ntk_numba.sums import Sums, balanced, unbalanced

Doubles = NDArray[np.float64]

# Bytes of partial products that the driver reads by itself; of more, the workers add the rows first
ALONE = 256 << 20
# The names of the files of a pass, with those that a worker that was killed may leave beside them
NAMES = re.compile(r"pass-([0-9a-f]{32})-(?:columns|(?:product|sum)-\d+-of-\d+)(?:\.partial\.\w+)?")


class Passes:
    """The passes of an operator by the workers of an executor.

    Parameters
    ----------
    matrix, identity : the matrix in this process, and its digest
    origin : the same for workers
    folder : where the files of a pass are written, which all workers can read and write
    parts, executor : see `write_gram`
    """

    def __init__(
        self,
        matrix: Multiplier,
        identity: str,
        origin: Origin,
        folder: Path,
        *,
        parts: int,
        executor: AnyExecutor | None,
    ) -> None:
        matrix.grid.size(Part(1, parts))  # raises an error if there are more parts than tiles
        self._matrix, self._identity = matrix, identity
        self._folder, self.parts = folder, parts
        self._origin = origin if executor is None else origin.elsewhere()
        self._executor = executor
        self._bounds = matrix.bounds
        self._pool: Pool | None = None

    def multiply(self, columns: Doubles, *, transpose: bool = False) -> Doubles:
        """Return the product with columns (M, K), as the matrix itself would compute it.

        Raises
        ------
        StoppedError
            Parts could not be computed, or the disk is full; finished parts are kept.
        OSError
            The folder cannot be written, or another process uses it for its passes.
        """
        rows, weights = self._bounds[::-1] if transpose else self._bounds
        scaled, exponents = balanced(columns, weights)
        digest = xxhash.xxh3_128(np.ascontiguousarray(scaled).data)
        digest.update(f"{self._identity} {scaled.shape} {transpose}".encode())
        job = Pass(
            origin=self._origin,
            identity=self._identity,
            folder=self._folder,
            key=digest.hexdigest(),
            parts=self.parts,
            rows=len(rows),
            count=scaled.shape[1],
            transpose=transpose,
        )
        sums = Sums(rows, np.ones(job.count))
        numbers = range(1, self.parts + 1)
        mend = "wait for it, or give another folder"
        with stopping.gently(), _resumable(), Lease(self._folder / "pass", mend=mend):
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
        return unbalanced(sums.result(), exponents)

    def _size(self, job: Pass) -> int:
        """Return the bytes of all partial products."""
        grid, rows = self._matrix.grid, 0
        for number in range(1, self.parts + 1):
            reads, writes = rows_of(grid, Part(number, self.parts))
            rows += sum(map(len, reads if job.transpose else writes))
        return rows * job.count * 16

    def _run(self, task: Task) -> None:
        """Run a task for all parts on the workers."""
        assert self._executor is not None
        if self._pool is None:
            self._pool = pool_of(self._executor)
        try:
            run_parts(self._pool, task, range(1, self.parts + 1))
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


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Say that a pass whose files cannot be written or read can be continued."""
    try:
        yield
    except FileError as error:
        if type(error) is not FileError:  # of another kind: a folder may be missing, or in use
            raise
        raise StoppedError(f"{error}; run the same again to go on") from None


class DistributedOperator(GramOperator):
    """An operator whose passes are computed in parts, by the workers of an executor.

    `distribute` makes it. It is a context manager that ends the workers which it has started.
    """

    def __init__(self, operator: GramOperator, passes: Passes) -> None:
        super().__init__(operator.shape, symmetric=operator.symmetric)
        self._operator, self._passes = operator, passes

    @property
    def identity(self) -> str:
        """A hex digest that differs if any entry may differ."""
        return self._operator.identity

    def product(self, columns: Doubles, *, transpose: bool) -> Doubles:
        """Return K @ columns, or Kᵀ @ columns, with the bits of a pass in one process."""
        return self._passes.multiply(columns, transpose=transpose)

    def diag(self) -> Doubles:
        """Return the diagonal, (N,), which is computed in this process."""
        return self._operator.diag()

    def columns(self, indices: ArrayLike) -> Doubles:
        """Return columns, (N, m), which are computed in this process."""
        return self._operator.columns(indices)

    def describe(self) -> str:
        """Return what a pass does, for people."""
        return f"{self._operator.describe()}, in {self._passes.parts:,} parts"

    def close(self) -> None:
        """End the workers that were started here, and close a file that was opened here."""
        self._passes.close()
        self._operator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def distribute(
    operator: GramOperator,
    folder: str | os.PathLike[str],
    *,
    parts: int,
    executor: AnyExecutor | None = None,
) -> DistributedOperator:
    """Return an operator with the same products whose passes are computed in parts, on a cluster.

    A product K V is the sum of the products of the tiles of each part. The bits do not depend on
    the parts, the executor or lost workers: partial products are whole numbers, which are added
    without rounding.

    Parameters
    ----------
    operator : GramOperator
        That of `ntk_numba.kernel_operator`, or of a Gram file.
    folder : path
        An existing folder that all workers can read and write, for the files of the pass that is
        being computed; nobody else may use it meanwhile. A pass writes V, N·K numbers, and partial
        products, on average about 4·N·K/√(2·parts) numbers for each part; they are removed after
        it. A process that is killed leaves them, and one that multiplies the same V goes on with
        them, as `ntk_numba.solve` with a checkpoint does.
    parts : int
        The number of parts: one, or a few, for each worker. A worker needs the memory of
        `kernel_operator`.
    executor : concurrent.futures.Executor, or a function that makes one
        The workers, which read the data by the paths of the operator, as for `write_gram`. Workers
        of a function are ended by `close`. A part is tried up to three times if its worker is lost.
        Without an executor, the parts are computed in this process, one after another.

    Returns
    -------
    DistributedOperator
        A scipy LinearOperator and a context manager. The diagonal and single columns are computed
        in this process.

    Raises
    ------
    TypeError
        The operator is that of a matrix in memory, or its data are not files.
    ValueError
        There are more parts than tiles, or the operator is of a file of two data sets.
    OSError
        The folder is missing or cannot be written.

    Notes
    -----
    Workers keep the samples and the compiled kernel of the operator for the next pass, if the
    executor keeps its processes.

    Examples
    --------
    >>> A = ntk_numba.kernel_operator(net, "x.npy")
    >>> with ntk_numba.distribute(A, "/scratch/passes", parts=100, executor=pool) as D:
    ...     solution = ntk_numba.solve(D, y, ridge=1e-3, path="/scratch/solution")
    """
    count = whole_number("parts", parts)
    matrix, origin = origin_of(operator)
    place = output_path(Path(folder) / "pass")
    check_folder(place)
    passes = Passes(matrix, operator.identity, origin, place.parent, parts=count, executor=executor)
    return DistributedOperator(operator, passes)
