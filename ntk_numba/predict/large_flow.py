"""Gradient flow of a kernel of which all eigenvectors do not fit in memory, or that is not stored.

What fits decides how it is done, with the same results but for the tolerance:

- all eigenvectors in memory: `FlowFunctions`, exact but for rounding;
- the matrix in memory, or its factor in a folder for scratch files: a few solutions with a factor
  of Θ + (ρ + 10N/t)I, or of Θ + ρI if t = ∞;
- neither, or a short time: products with Θ, see `solvers.functions` and `ntk_numba.solve`.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ntk_numba.arguments import number_between, parse_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError, NotPositiveDefiniteError, TooLargeError
from ntk_numba.factors.cholesky import cholesky
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.operators.matrix import open_matrix
from ntk_numba.operators.operator import GramOperator, as_operator
from ntk_numba.predict.flow import FlowFunctions
from ntk_numba.solvers.eigenbasis import WORKING, Eigenbasis
from ntk_numba.solvers.functions import BEND, EXTRA, by_products, by_solutions
from ntk_numba.solvers.solve import solve

Doubles = NDArray[np.float64]

SHORT = 100  # tr Θ·t/N up to which products converge within about five passes
BLOCKS = 20  # blocks of columns that the vectors of one run take at most


@dataclass(frozen=True)
class Means:
    """What a flow may use.

    Attributes
    ----------
    memory : the most bytes; None: all that are available
    threads : the largest number of threads; None: all
    scratch : a folder for the file of a factor, which is removed in the end
    tolerance : of outputs, in units of the columns that they are computed from
    """

    memory: int | str | None = None
    threads: int | None = None
    scratch: str | os.PathLike[str] | None = None
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        number_between("tolerance", self.tolerance, 0, 1)
        if self.scratch is not None and not Path(self.scratch).is_dir():
            raise InvalidValueError(f"scratch={str(self.scratch)!r} is not a folder that exists")

    @property
    def room(self) -> int:
        """The bytes that vectors may take."""
        if self.memory is None:
            return available_memory() // 2
        return parse_bytes(self.memory, "memory")


class Functions(Protocol):
    """Functions of Θ after gradient flow, applied to columns (N,) or (N, K)."""

    @property
    def size(self) -> int: ...
    def learned(self, columns: Doubles) -> Doubles: ...
    def moved(self, target: Doubles, start: Doubles) -> tuple[Doubles, Doubles]: ...


class LargeFlow:
    """The functions of `FlowFunctions`, without eigenvectors. A context manager.

    Parameters
    ----------
    ntk : Θ, what `as_operator` takes
    time : t ≥ 0, which may be infinite
    ridge : ρ ≥ 0, relative to the mean of the diagonal of Θ unless `absolute`
    means : what it may use

    Attributes
    ----------
    error : float
        The largest error of outputs so far, in units of the columns; an estimate. At t = ∞ it is
        the relative residual.
    """

    def __init__(
        self, ntk: Any, time: float, ridge: float, means: Means, *, absolute: bool = False
    ) -> None:
        self._given, self._means, self.error = ntk, means, 0.0
        self._file: Path | None = None
        self._factor: Any = None
        self.operator: GramOperator = as_operator(
            ntk, "ntk", memory=means.memory, threads=means.threads, name="ntk"
        )
        rows, columns = self.operator.shape
        if rows != columns or not self.operator.symmetric:
            raise InvalidValueError(f"ntk must be a square matrix, not {self.operator.shape}")
        diagonal = self.operator.diag()
        self.shift = ridge if absolute else ridge * float(diagonal.mean())
        if not np.isfinite(self.shift):
            raise InvalidValueError(f"ridge={ridge!r} is too large for this kernel")
        self.time = time / rows
        self._bend = BEND * self.time
        self._short = float(diagonal.sum()) * self.time <= SHORT

    @property
    def size(self) -> int:
        """N."""
        return int(self.operator.shape[0])

    def learned(self, columns: Doubles) -> Doubles:
        """Return gain(Θ) @ columns, of their shape (N,) or (N, K)."""
        flat = columns.ndim == 1
        columns = np.asarray(columns[:, None] if flat else columns, float)
        out = np.empty_like(columns)
        width = max(1, self._means.room // (8 * self.size * BLOCKS) - EXTRA)
        with blas_threads(threads_to_use(self._means.threads)):
            for start in range(0, columns.shape[1], width):
                run = slice(start, start + width)
                out[:, run] = self._run(np.ascontiguousarray(columns[:, run]))
        return out[:, 0] if flat else out

    def moved(self, target: Doubles, start: Doubles) -> tuple[Doubles, Doubles]:
        """Return the outputs on the training samples, and gain(Θ)(target − start)."""
        weights = self.learned(target - start)
        return start + np.asarray(self.operator @ weights), weights

    def _run(self, columns: Doubles) -> Doubles:
        """Return gain(Θ) @ columns, for as many columns as fit in memory."""
        means = self._means
        factor = None if self._short else self._factorised()
        if self.time == np.inf:
            if factor is not None:
                found = factor.solve(columns, *([self.operator] if self._file else []))
                self.error = max(self.error, factor.residual)
                return np.asarray(found)
            try:
                solution = solve(
                    self.operator, columns, ridge=self.shift, tolerance=means.tolerance,
                    memory=means.room, threads=means.threads,
                )  # fmt: skip
            except InvalidValueError as error:
                if not isinstance(error, NotPositiveDefiniteError):
                    error.add_note("or give scratch, a folder for the file of a factor")
                raise
            self.error = max(self.error, solution.residual)
            return np.asarray(solution.x)
        if factor is None:
            done = by_products(
                self.operator, self.shift, self.time, columns,
                tolerance=means.tolerance, memory=means.room, threads=means.threads,
            )  # fmt: skip
        else:
            refined = [self.operator] if self._file and factor.dtype == np.float32 else []
            done = by_solutions(
                lambda block: factor.solve(block, *refined), self._bend, self.time, columns,
                tolerance=means.tolerance, threads=means.threads,
            )  # fmt: skip
        self.error = max(self.error, done.error)
        return done.columns

    def _factorised(self) -> Any:
        """Return a factor that serves this time, or None if there is no room for one."""
        if self._factor is not None:
            return self._factor
        means = self._means
        ridge = self.shift + (1 / self._bend if self.time < np.inf else 0.0)
        if means.scratch is not None:
            # the name is that of the problem, so that a job that was stopped goes on
            name = f"{self.operator.identity[:16]}-{np.float64(ridge).view(np.uint64):016x}"
            self._file = Path(means.scratch) / f"flow-{name}.factor.h5"
            matrix = self.operator if isinstance(self._given, LinearOperator) else self._given
            self._factor = cholesky(
                matrix, self._file, ridge=ridge, kernel="ntk",
                memory=means.memory, threads=means.threads,
            )  # fmt: skip
        elif not isinstance(self._given, LinearOperator):
            with contextlib.suppress(TooLargeError):
                self._factor = cholesky(
                    self._given, ridge=ridge, kernel="ntk",
                    memory=means.memory, threads=means.threads,
                )  # fmt: skip
        return self._factor

    def close(self) -> None:
        """Remove the file of the factor, and close the matrix."""
        if self._file is not None and self._factor is not None:
            self._factor.close()
            self._file.unlink(missing_ok=True)
        self._factor = self._file = None
        if self.operator is not self._given:
            self.operator.close()

    def __enter__(self) -> "LargeFlow":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def open_flow(ntk: Any, time: float, ridge: float, means: Means) -> Iterator[Functions]:
    """Open the functions of Θ at a time; see `LargeFlow` for the arguments."""
    matrix = None
    if not isinstance(ntk, LinearOperator):
        with contextlib.suppress(TooLargeError):
            matrix = open_matrix(ntk, "ntk", name="ntk", memory=means.memory, working=WORKING)
    if matrix is None:
        with LargeFlow(ntk, time, ridge, means) as flow:
            yield flow
        return
    basis = Eigenbasis(matrix, overwrite=True)
    shift = ridge * basis.mean_diagonal
    if not np.isfinite(shift):
        raise InvalidValueError(f"ridge={ridge!r} is too large for this kernel")
    yield FlowFunctions(basis, time, shift)
