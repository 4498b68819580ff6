"""Solutions of (K + ridge·I) X = Y, by a factorisation or by products with K alone.

Sources: see `cholesky`, `block_krylov` and `nystrom_pcg`.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from xxhash import xxh3_128_hexdigest

from ntk_numba.arguments import (
    KernelName,
    not_negative,
    number_between,
    one_of,
    parse_bytes,
    whole_number,
)
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.place import output_path, refuse_inputs
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.operators.matrix import paths_of, read_columns
from ntk_numba.operators.operator import GramOperator, OtherOperator, as_operator
from ntk_numba.solvers.block_krylov import BlockKrylov
from ntk_numba.solvers.checkpoint import Checkpoint
from ntk_numba.solvers.choice import METHODS, Method, check_memory, choose
from ntk_numba.solvers.direct import factorised
from ntk_numba.solvers.nystrom_pcg import NystromPCG, area_of
from ntk_numba.solvers.systems import Limits, Systems, passes_text

Floats = NDArray[np.float64]

MOST_PASSES = 1000


class Solution:
    """The solution of (K + ridge·I) X = Y that `solve` has found.

    Attributes
    ----------
    x : float64 array of the shape of Y; (R, N) or (R, N, K) for R ridges
        X.
    residual : float
        The largest relative residual ‖Y − (K + ridge·I) X‖/‖Y‖ of all columns, computed by a
        product with X.
    residuals : float64 array, (K,), or (R, K) for R ridges
        That of each column; 0 where a column of Y is 0.
    passes : int
        The number of products with the matrix that the iteration made, also in earlier calls with
        the same checkpoint, and of those that checked X. What is done once before does not count:
        the product that "auto" times, and the columns of K from which "nystrom_pcg" begins.
    method : "cholesky", "block_krylov" or "nystrom_pcg"
        What has found it.
    reason : str
        Why this method was taken.
    ridge : float, or float64 array (R,)
        What was added to the diagonal.
    """

    def __init__(
        self,
        x: Floats,
        residuals: Floats,
        *,
        passes: int,
        method: str,
        reason: str,
        ridge: float | Floats,
    ) -> None:
        self.x, self.residuals, self.passes = x, residuals, passes
        self.residual = float(residuals.max(initial=0.0))
        self.method, self.reason, self.ridge = method, reason, ridge

    def __repr__(self) -> str:
        return (
            f"<Solution: {' × '.join(map(str, self.x.shape))}, {self.method}, residual "
            f"{self.residual:.2g} after {passes_text(self.passes)}>"
        )


def solve(
    gram: Any,
    Y: ArrayLike,
    *,
    ridge: float | Sequence[float],
    kernel: KernelName | None = None,
    method: Method = "auto",
    tolerance: float = 1e-6,
    path: str | os.PathLike[str] | None = None,
    max_passes: int | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Solution:
    """Solve (K + ridge·I) X = Y for a kernel matrix of any size, stored or not.

    Parameters
    ----------
    gram : (N, N) array, Gram, GramFile, path of a Gram file, or LinearOperator
        K, symmetric and positive semidefinite. `kernel_operator` has one that is never stored. Of
        a matrix with all layers, the last one is taken.
    Y : (N,) or (N, K)
        The right-hand sides. All columns go through a pass together.
    ridge : float, or a sequence of R floats
        A number ≥ 0 that is added to the diagonal. It is absolute: it has the units of K. With
        several, X is found for each of them; the iterations need no more passes for it.
    kernel : "nngp" or "ntk"
        The kernel to take, if `gram` has both.
    method : "auto", "cholesky", "block_krylov" or "nystrom_pcg"
        See Notes.
    tolerance : float
        The relative residual ‖Y − (K + ridge·I) X‖/‖Y‖ that each column is to reach.
    path : str or path, optional
        Of the iterations, a checkpoint: after each pass the state is saved there, and the same call
        continues from it, in this process or another. It stays when the solution is found; the same
        call then returns it at once, and one with a smaller tolerance goes on from it. Of
        "cholesky", the file of the factor.
    max_passes : int, optional
        The largest number of products with K, those of earlier calls with the same checkpoint
        included; 1,000 by default. The product that checks a solution is made in any case.
    memory : int or str such as "2GiB", optional
        The most memory to use; by default all that this process may still use.
    threads : int, optional
        The largest number of threads; by default all that this process may use.
    seed : int
        The seed of the random columns of "block_krylov", and of the choice of columns of
        "nystrom_pcg".
    overwrite : bool
        Whether to replace a file at `path` that does not belong to this problem.
    progress : bool
        Whether to show a bar with the residual, and the passes and the time that are left.

    Returns
    -------
    Solution
        Its attributes are `x`, of the shape of Y, or (R, N) or (R, N, K) for R ridges, `residual`,
        `residuals`, `passes`, `method`, `reason` and `ridge`.

    Raises
    ------
    NotConvergedError
        A ValueError: the tolerance is not reached, within `max_passes`, because float64 rounds, or
        because 200 passes have not halved the residual. The checkpoint stays.
    NotPositiveDefiniteError
        A ValueError: K + ridge·I is found not to be positive definite.
    StoppedError
        An OSError: the checkpoint cannot be written, for example since the disk is full. It keeps
        the passes before, and the same call continues.
    ValueError
        If an argument is wrong, the memory is too small, or `path` belongs to another problem.
    OSError
        If a file cannot be read or written, is damaged, or is being written by another process.

    Notes
    -----
    - "cholesky" factorises K + ridge·I (see `cholesky`), in memory without a path. It takes N³/3
      multiplications and additions for each ridge, whatever the condition number.
    - "block_krylov" finds the best solution, in the norm of K + ridge·I, in the space that products
      of K with Y and with about 100 random columns span. All ridges share the space. It takes the
      fewest passes, and keeps 8 N × (width of the block) bytes of each pass, in memory or in the
      checkpoint.
    - "nystrom_pcg" is the method of conjugate gradients, preconditioned by an approximation from
      500 columns of K. It takes two to four times as many passes, and keeps few vectors.
    - "auto" goes on with the method of the checkpoint, or the factor, at `path`. Else it takes
      "cholesky" if the matrix fits in memory. Otherwise, with a path, it times a pass and a matrix
      product, and compares the time of a factorisation with that of the passes to expect. Without a
      path, with several ridges and a path, for an operator of `distribute`, and with a path for one
      of SciPy, it takes an iteration: "block_krylov" if its vectors fit in memory, else
      "nystrom_pcg". `Solution.reason` says why.

    The reported residual is always that of X itself, computed by a product with K, and never what
    an iteration predicts. Residuals below about ε κ cannot be reached, where κ is the condition
    number of K + ridge·I and ε is 2e-16. The bits of X depend neither on the threads and the memory
    nor on how often an iteration was continued, if those of products with K do not.

    Examples
    --------
    >>> found = ntk_numba.solve([[2.0, 1.0], [1.0, 2.0]], [4.0, 4.0], ridge=1.0)
    >>> found.x
    array([1., 1.])
    >>> found.method
    'cholesky'
    """
    method = one_of("method", method, METHODS)
    several = np.ndim(ridge) > 0
    given: Any = ridge if several else [ridge]
    ridges = np.array([not_negative("ridge", value) for value in given])
    seed = whole_number("seed", seed, 0)
    if not len(ridges):
        raise InvalidValueError("ridge is empty; give at least one number")
    limits = Limits(
        tolerance=number_between("tolerance", tolerance, 0, 1),
        passes=MOST_PASSES if max_passes is None else whole_number("max_passes", max_passes),
        memory=available_memory() if memory is None else parse_bytes(memory, "memory"),
        threads=threads_to_use(threads),
        progress=progress,
    )
    with _opened(gram, kernel, memory, threads) as operator:
        if path is not None:
            files = [*operator.paths, *paths_of(gram)]
            refuse_inputs(output_path(path), files, "read for the matrix")
        right, flat = read_columns(Y, operator.shape[0], "gram")
        systems = Systems(operator, ridges, right, limits, "gram")
        method, reason = choose(gram, systems, method, path)
        if not len(systems.shift):
            found = np.empty((len(right), 0)), np.empty(0)
        elif method == "cholesky":
            found = factorised(gram, kernel, systems, path, overwrite)
        else:
            problem = {
                "matrix": operator.identity,
                "targets": _digest(right),
                "ridges": _digest(ridges),
                "method": method,
                "seed": str(seed),
            }
            found = _iterate(systems, problem, path, seed, overwrite)
        x, residuals = systems.unscaled(*found)
        passes = systems.passes
    if flat:
        x = x[:, :, 0]
    if not several:
        x, residuals = x[0], residuals[0]
    return Solution(
        x,
        residuals,
        passes=passes,
        method=method,
        reason=reason,
        ridge=ridges if several else float(ridges[0]),
    )


def _iterate(
    systems: Systems,
    problem: dict[str, str],
    path: str | os.PathLike[str] | None,
    seed: int,
    overwrite: bool,
) -> tuple[Floats, Floats]:
    """Return the solutions of some systems, and their residuals, by passes."""
    krylov = problem["method"] == "block_krylov"
    size, pairs = len(systems.right), len(systems.shift)
    check_memory(systems, problem["method"], path)
    iteration: Any = BlockKrylov if krylov else NystromPCG
    with contextlib.ExitStack() as stack:
        # once for all, since it searches for BLAS; an operator of others may use threads of BLAS
        others = isinstance(systems.operator, OtherOperator)
        stack.enter_context(blas_threads(systems.limits.threads if others else 1))
        checkpoint = None
        if path is not None:
            area = 0 if krylov else area_of(size, pairs)
            checkpoint = Checkpoint(path, problem, area=area, overwrite=overwrite)
            stack.enter_context(checkpoint)
        found: tuple[Floats, Floats] = iteration(systems, checkpoint, seed).run()
        return found


@contextlib.contextmanager
def _opened(
    gram: Any, kernel: KernelName | None, memory: int | str | None, threads: int | None
) -> Iterator[GramOperator]:
    """Open a matrix as an operator, and close it at the end if it was opened here."""
    operator = as_operator(gram, kernel, memory=memory, threads=threads)
    try:
        if not operator.symmetric:
            raise InvalidValueError(
                "gram must be the matrix of one data set with itself, without Z"
            )
        yield operator
    finally:
        if operator is not gram:
            operator.close()


def _digest(array: Floats) -> str:
    """Return a digest of an array of float64 and its shape."""
    return xxh3_128_hexdigest(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
