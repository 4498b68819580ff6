"""Systems of equations with kernel matrices that do not fit in memory.

`System` stands where the factor of a matrix in memory stands (`factors.cholesky.Cholesky`). It has
a factor on disk, or solves each right-hand side by products with the matrix.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.arguments import KernelName, number_between, one_of, parse_bytes, show_bytes
from ntk_numba.errors import InvalidTypeError, InvalidValueError, NtkNumbaError
from ntk_numba.factors.cholesky import cholesky
from ntk_numba.factors.cholesky_file import CholeskyFile, open_cholesky
from ntk_numba.factors.factor import LeaveOneOut
from ntk_numba.factors.factorise import holds_factor
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.gramfile.whole import check_output
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.operators.computed import kernel_operator
from ntk_numba.operators.matrix import find_matrix
from ntk_numba.operators.operator import GramOperator, as_operator
from ntk_numba.predict.training import Training
from ntk_numba.solvers import block_krylov, nystrom_pcg
from ntk_numba.solvers.choice import METHODS, Method
from ntk_numba.solvers.solve import solve

Doubles = NDArray[np.float64]

# Arrays of the size of the right-hand side that a solution makes; a Krylov space has as many as
# there are passes
ARRAYS = {"cholesky": 7, "nystrom_pcg": 12, "block_krylov": 40}
NAME = "ntk_numba-solution"  # of the file in a folder for scratch: of a factor, or a checkpoint
MATRIX = "the kernel matrix of X"


@dataclass(frozen=True)
class Solving:
    """How systems are solved whose matrices do not fit in memory, as a caller gives it.

    Attributes
    ----------
    method, tolerance : see `ntk_numba.solve`
    scratch : path
        The file of a factor, or of the checkpoint of an iteration; or a folder for it; None for a
        temporary folder.
    overwrite : whether a file there that belongs to another system is replaced
    """

    method: Method = "auto"
    tolerance: float = 1e-6
    scratch: str | os.PathLike[str] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        number_between("tolerance", self.tolerance, 0, 1)
        if self.scratch is not None and not isinstance(self.scratch, str | os.PathLike):
            raise InvalidTypeError(f"scratch must be a path, not {self.scratch!r:.80}")

    @property
    def iterative(self) -> bool:
        """Whether the caller wants iterations, also of a matrix that fits in memory."""
        return self.method in ("block_krylov", "nystrom_pcg")


class System:
    """The system (K + ridge·I) α = y, whose matrix does not fit in memory.

    Parameters
    ----------
    operator : K
    ridge : absolute
    solving, machine : how it is solved

    Attributes
    ----------
    shape, ridge
    dtype : of the factor, or float64
    method : "cholesky", "block_krylov" or "nystrom_pcg"; "auto" before the first solution
    residual : float
        The true relative residual of the last solution.
    """

    def __init__(
        self,
        operator: GramOperator,
        ridge: float,
        solving: Solving,
        *,
        memory: int | str | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> None:
        self._operator, self._progress, self._memory = operator, progress, memory
        self._limits: dict[str, Any] = {"memory": half(memory), "threads": threads}
        self.shape, self.ridge = operator.shape, ridge
        self.method: Any = solving.method
        self.tolerance = solving.tolerance
        self.residual = np.nan
        self._factor: CholeskyFile | None = None
        self._overwrite = solving.overwrite
        self._end: weakref.finalize[..., System] | None = None
        if solving.scratch is None:
            folder = tempfile.mkdtemp(prefix="ntk_numba-")
            self._end = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._path = Path(folder) / NAME
        else:
            path = Path(solving.scratch)
            self._path = check_output(path / NAME if path.is_dir() else path, overwrite=True)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the factor; float64 without one."""
        return np.dtype(float) if self._factor is None else self._factor.dtype

    @property
    def halves(self) -> bool:
        """Whether `half_solve` exists and is accurate to float64."""
        return self._factor is not None and self._factor.dtype == np.float64

    @property
    def arrays(self) -> int:
        """The number of arrays of the size of the right-hand side that `solve` makes, at most."""
        return ARRAYS[self.method]

    def start(self, targets: Doubles) -> Doubles:
        """Return the solution for the targets; a file of scratch that is there goes on."""
        with self._explained():
            found = solve(
                self._operator,
                targets,
                ridge=self.ridge,
                method=self.method,
                tolerance=self.tolerance,
                path=self._path,
                overwrite=self._replaces(),
                progress=self._progress,
                **self._limits,
            )
        self.method, self.residual = found.method, found.residual
        if found.method == "cholesky":
            self.prepare()  # the file is there, unless all targets are 0
        elif self._end is not None:
            self._end()  # the checkpoint serves these targets only
        return found.x

    def limit(self, memory: int | str | None, threads: int | None) -> None:
        """Let later solutions take at most this memory and these threads, where they are given."""
        given = {"memory": half(memory), "threads": threads}
        limits = self._limits | {name: value for name, value in given.items() if value is not None}
        if limits == self._limits:
            return
        self._limits, self._memory = limits, memory or self._memory
        if self._factor is not None:
            self._factor.close()
            self._factor = open_cholesky(self._path, **limits)

    def prepare(self) -> None:
        """Compute the factor, of a system that is solved by one, if it is not there."""
        if self.method == "cholesky" and self._factor is None:
            with self._explained():
                factor = cholesky(
                    self._operator,
                    self._path,
                    ridge=self.ridge,
                    overwrite=self._replaces(),
                    progress=self._progress,
                    **self._limits,
                )
            assert isinstance(factor, CholeskyFile)
            self._factor = factor

    def solve(self, Y: ArrayLike) -> Doubles:
        """Return A⁻¹ Y, (N, K) or (N,), with a true residual of at most `tolerance`."""
        if self._factor is not None:
            found = self._factor.solve(Y, matrix=self._operator)
            self.residual = self._factor.residual
            return found
        columns = np.asarray(Y, float)
        flat = columns.ndim == 1
        columns = columns[:, None] if flat else columns
        method, width = self._method_for(*columns.shape)
        out = np.empty_like(columns, order="C")
        self.residual = 0.0
        for start in range(0, columns.shape[1], width):
            run = slice(start, start + width)
            with self._explained():
                solution = solve(
                    self._operator,
                    columns[:, run],
                    ridge=self.ridge,
                    method=method,
                    tolerance=self.tolerance,
                    **self._limits,
                )
            out[:, run] = solution.x
            self.residual = max(self.residual, solution.residual)
        return out[:, 0] if flat else out

    def _replaces(self) -> bool:
        """Return whether a file of scratch may be replaced: unless it is the factor that is wanted.

        `cholesky` would compute that one again; checkpoints go on in any case.
        """
        iterates = self.method in ("block_krylov", "nystrom_pcg")
        return self._overwrite and (
            iterates or not holds_factor(self._path, self._operator, self.ridge)
        )

    def _explained(self) -> AbstractContextManager[None]:
        """Return a context that adds to errors what callers of a model need to know."""
        return explained(self._memory)

    def _method_for(self, size: int, count: int) -> tuple[Any, int]:
        """Return the method for right-hand sides (size, count), and how many it takes at a time.

        Their vectors stay in memory, beside what the caller has of them.
        """
        threads = threads_to_use(self._limits["threads"])
        room = self._limits["memory"] or available_memory() // 2
        if self.method == "block_krylov":
            needed = block_krylov.vector_bytes(size, count, count, threads)
            if needed + block_krylov.basis_bytes(size, count) <= room:
                return self.method, max(count, 1)
        width = max(count, 1)
        while width > 1 and nystrom_pcg.vector_bytes(size, width, threads) > room:
            width = -(-width // 2)
        return "nystrom_pcg", width

    def half_solve(self, Y: ArrayLike) -> Doubles:
        """Return V = L⁻¹ Y, so that VᵀV = Yᵀ A⁻¹ Y, in the precision of the factor."""
        return self._needed("half of a solution").half_solve(Y)

    @property
    def log_det(self) -> float:
        """The logarithm of the determinant of A."""
        return self._needed("the log determinant, and so the marginal likelihood,").log_det

    def inverse_diagonal(self) -> Doubles:
        """Return the diagonal of A⁻¹, (N,)."""
        return self._needed("leave-one-out predictions").inverse_diagonal()

    def leave_one_out(self, Y: ArrayLike) -> LeaveOneOut:
        """Predict each target from all others, see `Cholesky.leave_one_out`."""
        return self._needed("leave-one-out predictions").leave_one_out(Y)

    def inverse(self) -> NoReturn:
        """Raise an error: A⁻¹ does not fit in memory."""
        raise InvalidValueError(
            f"gradients take the inverse of a matrix of {self.shape[0]:,} rows, which does not fit "
            "in memory; fit hyperparameters to a subset of the samples"
        )

    def _needed(self, what: str) -> CholeskyFile:
        """Return the factor, or raise an error that says what needs it."""
        if self._factor is None:
            raise InvalidValueError(
                f"{what} cannot be found by {self.method}; fit with method='cholesky', which "
                "writes a factor to the disk"
            )
        return self._factor

    def close(self) -> None:
        """Close the files, and remove those of a temporary folder."""
        if self._factor is not None:
            self._factor.close()
        self._operator.close()
        if self._end is not None:
            self._end()


def half(memory: int | str | None) -> int | None:
    """Return half of the memory: an operator takes as much as what multiplies with it."""
    return None if memory is None else parse_bytes(memory, "memory") // 2


@contextmanager
def explained(memory: int | str | None) -> Iterator[None]:
    """Let errors about the matrix and the memory be in the words of the caller of a model."""
    try:
        yield
    except NtkNumbaError as error:
        text = str(error.args[0])
        for begin in ("gram ", "gram: ", "the solution of gram "):
            if text.startswith(begin):
                error.args = (begin.replace("gram", MATRIX) + text.removeprefix(begin),)
        size = memory and show_bytes(parse_bytes(memory, "memory") // 2)
        if size and size in text:
            error.add_note(f"{size} is half of memory={memory!r}: the matrix may take the rest")
        raise


def operator_of(
    training: Training,
    kernel: KernelName,
    gram: Any = None,
    *,
    memory: int | str | None = None,
    threads: int | None = None,
) -> GramOperator:
    """Return a kernel of the training samples as an operator, which reads `gram` if it is given."""
    limits: dict[str, Any] = {"memory": half(memory), "threads": threads}
    if isinstance(gram, GramFile):  # which the caller may close while the model lives
        return as_operator(gram.path, kernel, **limits)
    if gram is not None:
        found = find_matrix(gram, kernel)
        return as_operator(found.rows[found.layer], **limits)
    with explained(memory):
        return kernel_operator(
            training.net,
            training.samples,
            kernel=kernel,
            dtype=training.dtype,
            up_to=training.up_to,
            **limits,
        )
