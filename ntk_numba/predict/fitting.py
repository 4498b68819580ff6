"""The fit of a model to its targets: a kernel matrix, a ridge, and the solution of their system."""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba.arguments import KernelName, not_negative
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError, RidgeWarning
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.factors.factor import GOAL
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.inputs.source import result_dtype
from ntk_numba.machine import threads_to_use
from ntk_numba.operators.matrix import Found, find_matrix, fits, open_matrix, refuse_large
from ntk_numba.operators.operator import GramOperator
from ntk_numba.predict.factors import explaining, factorise, flow_of, make_ensemble
from ntk_numba.predict.large import Solving, System, operator_of
from ntk_numba.predict.posterior import Trained
from ntk_numba.predict.targets import open_targets
from ntk_numba.predict.training import Training, open_training, refuse_other_data
from ntk_numba.solvers.eigenbasis import WORKING, Eigenbasis, RidgeChoice, choose_ridge

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Ridge:
    """A ridge as a caller gives it.

    Attributes
    ----------
    name : the name of the argument, "ridge" or "noise"
    value : a number ≥ 0, "loo" or "evidence"
    absolute : whether a number is not relative to the mean of the diagonal
    """

    name: str
    value: Any
    absolute: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            if self.value not in ("loo", "evidence"):
                raise InvalidValueError(
                    f"{self.name} must be a number, 'loo' or 'evidence', not {self.value!r}"
                )
            if self.absolute:
                raise InvalidValueError(
                    f"absolute=True needs a number as {self.name}, not {self.value!r}"
                )
        else:
            object.__setattr__(self, "value", not_negative(self.name, self.value))

    @property
    def chosen(self) -> bool:
        """Whether it is chosen from the targets."""
        return isinstance(self.value, str)

    def of(self, mean_diagonal: float) -> float:
        """Return the absolute ridge, if it is a number."""
        found = float(self.value if self.absolute else self.value * mean_diagonal)
        if not np.isfinite(found):
            raise InvalidValueError(f"{self.name}={self.value!r} is too large for this kernel")
        return found


@dataclass(frozen=True)
class Options:
    """The arguments that the functions which fit a model have in common."""

    gram: Any = None
    preprocess: Any = None
    dtype: Any = None
    up_to: float | None = None
    memory: int | str | None = None
    threads: int | None = None
    progress: bool = False
    solving: Solving = Solving()  # noqa: RUF009 (it is immutable)


class Stages:
    """A bar on standard error that names the stage that a fit has reached, if it is shown."""

    def __init__(self, *names: str, show: bool) -> None:
        self._names = names
        self._bar = tqdm(total=len(names), disable=not show, leave=False)

    def __call__(self, name: str) -> None:
        self._bar.set_description(name)
        self._bar.update(self._names.index(name) - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


class Job(NamedTuple):
    """What a fit needs: its samples, its targets, and kernel matrices.

    flat : whether the targets had the shape (N,)
    matrices : in memory, which may be overwritten; empty if they do not fit
    operators : otherwise
    """

    training: Training
    targets: Doubles
    flat: bool
    matrices: dict[KernelName, Floats]
    operators: dict[KernelName, GramOperator]


def read_job(
    net: Any,
    X: Any,
    y: Any,
    kernels: tuple[KernelName, ...],
    options: Options,
    ridge: Ridge,
    working: int,
) -> Job:
    """Read and check the arguments of a fit; compute its kernels, or read them from `gram`.

    working : the bytes that the fit takes for each pair of samples, besides its kernels
    """
    gram, memory = options.gram, options.memory
    if isinstance(gram, str | os.PathLike):
        with open_gram(Path(gram)) as file:
            return read_job(net, X, y, kernels, replace(options, gram=file), ridge, working)
    given, dtype, up_to = {}, options.dtype, options.up_to
    others = 8 * (len(kernels) - 1)  # bytes, at most, of the other kernels
    large = False
    if gram is not None:
        stored = {kernel: find_matrix(gram, kernel) for kernel in kernels}
        rows = stored[kernels[0]].rows
        size, found = rows.shape[-1], np.dtype(rows.dtype)
        large = _is_large(size, found, options, ridge, working + others)
        for kernel, matrix in stored.items():
            given[kernel] = (
                _entries(matrix)
                if large
                else open_matrix(gram, kernel, memory=memory, working=working + others)
            )
        if dtype is not None and result_dtype(dtype) != found:
            raise InvalidValueError(f"gram holds {found}, but dtype={dtype!r}; leave dtype out")
        dtype = found
        if isinstance(gram, GramFile) and up_to is None:
            up_to = gram.contents.largest_norm
    training = open_training(net, X, preprocess=options.preprocess, dtype=dtype, up_to=up_to)
    targets, flat = open_targets(y, training.count)
    for kernel, entries in given.items():
        refuse_other_data(training, gram, entries, kernel)
    if not given:
        count, real = training.count, training.dtype
        large = _is_large(count, real, options, ridge, working, len(kernels))
        if not large:
            refuse_large(count, real, memory, working, len(kernels))
            given = training.matrices(kernels, options.threads)
    operators: dict[KernelName, GramOperator] = {}
    if large:
        for kernel in kernels:
            operators[kernel] = operator_of(
                training, kernel, gram, memory=memory, threads=options.threads
            )
        given = {}
    return Job(training, targets, flat, given, operators)


def _entries(matrix: Found) -> Any:
    """Return a matrix without reading it: those of a file as they are, of arrays the last layer."""
    return matrix.rows if matrix.stored else matrix.rows[matrix.layer]


def _is_large(
    size: int, dtype: np.dtype, options: Options, ridge: Ridge, working: int, matrices: int = 1
) -> bool:
    """Return whether matrices are not to be in memory: they do not fit, or iterations are wanted.

    Raises
    ------
    ValueError
        A ridge is to be chosen, which takes an eigendecomposition in memory.
    """
    fit = fits(size, dtype, options.memory, working, matrices)
    if ridge.chosen and options.solving.iterative:
        raise InvalidValueError(
            f"{ridge.name}={ridge.value!r} takes the eigenvalues of the matrix, which "
            f"{options.solving.method} does not find; give a number"
        )
    if ridge.chosen and not fit:
        text = f"{ridge.name}={ridge.value!r} takes an eigendecomposition in memory: give a number"
        try:
            refuse_large(size, dtype, options.memory, working, matrices)
        except InvalidValueError as error:
            error.args = (f"{error.args[0]}; {text}, for example one chosen for fewer samples",)
            raise
    return options.solving.iterative or not fit


class Fit(NamedTuple):
    """The solution for the targets of a job.

    ridge, relative_ridge : the absolute ridge, and its ratio to the mean of the diagonal of K
    choice : how the ridge was chosen; None if it was given
    dual_coef : (N, n_out)
    residual : the relative residual of that solution
    method, tolerance : how it was found, see `Saved`
    """

    training: Training
    targets: Doubles
    flat: bool
    ridge: float
    relative_ridge: float
    choice: RidgeChoice | None
    dual_coef: Doubles
    residual: float
    method: str = "cholesky"
    tolerance: float = GOAL


def fit(
    net: Any, X: Any, y: Any, kernel: KernelName, ridge: Ridge, options: Options
) -> tuple[Fit, Cholesky | System]:
    """Compute a kernel matrix, choose the ridge if wanted, factorise, and solve for the targets."""
    with Stages("kernels", "spectrum", "Cholesky", "solution", show=options.progress) as stage:
        stage("kernels")
        working = WORKING if ridge.chosen else 0
        job = read_job(net, X, y, (kernel,), options, ridge, working)
        training, targets, flat, matrices, operators = job
        if not operators:
            stage("spectrum")
            chosen = choose(ridge, matrices[kernel], targets, options.threads)
            stage("Cholesky")
            factor = factorise(
                matrices[kernel], chosen[0], ridge.name, training, targets, options.threads
            )
            stage("solution")
            # by rows, as files store it: the bits of a product depend on the order in memory
            dual_coef = np.ascontiguousarray(factor.solve(targets))
            return Fit(training, targets, flat, *chosen, dual_coef, factor.residual), factor
    return _fit_large(job, kernel, ridge, options)


def _fit_large(job: Job, kernel: KernelName, ridge: Ridge, options: Options) -> tuple[Fit, System]:
    """Solve for the targets with a matrix that is not in memory."""
    operator = job.operators[kernel]
    mean = float(operator.diag().mean())
    shift = ridge.of(mean)
    limits: dict[str, Any] = {"memory": options.memory, "threads": options.threads}
    system = System(operator, shift, options.solving, **limits, progress=options.progress)
    with explaining(job.training, job.targets, shift, ridge.name):
        dual_coef = np.ascontiguousarray(system.start(job.targets))
    done = Fit(
        job.training,
        job.targets,
        job.flat,
        shift,
        shift / mean if mean > 0 else np.inf,
        None,
        dual_coef,
        system.residual,
        system.method,
        system.tolerance,
    )
    return done, system


def fit_ensemble(
    net: Any, X: Any, y: Any, ridge: Ridge, time: float, options: Options
) -> tuple[Fit, Trained]:
    """Train networks of infinite width from random starts up to a time."""
    if ridge.value == "evidence":
        raise InvalidValueError(
            "noise='evidence' is of a Gaussian process; for an ensemble give a number or 'loo'"
        )
    with Stages("kernels", "spectrum", "Cholesky", "solution", show=options.progress) as stage:
        stage("kernels")
        working = WORKING if ridge.chosen or time < np.inf else 0
        job = read_job(net, X, y, ("nngp", "ntk"), options, ridge, working)
        training, targets, flat, matrices, operators = job
        if not operators:
            stage("spectrum")
            chosen = choose(ridge, matrices["ntk"], targets, options.threads)
            stage("Cholesky")
            posterior = make_ensemble(training, matrices, chosen[0], time, targets, options.threads)
            stage("solution")
            dual_coef, residual = posterior.weights(targets)
            dual_coef = np.ascontiguousarray(dual_coef)  # as in `fit`
            return Fit(training, targets, flat, *chosen, dual_coef, residual), posterior
    if time < np.inf:
        return _fit_large_flow(job, ridge, time, options)
    done, system = _fit_large(job, "ntk", ridge, options)
    return done, Trained(operators["nngp"], system, None)


def _fit_large_flow(job: Job, ridge: Ridge, time: float, options: Options) -> tuple[Fit, Trained]:
    """Train networks up to a finite time, with matrices that are not in memory."""
    operator, solving = job.operators["ntk"], options.solving
    mean = float(operator.diag().mean())
    shift = ridge.of(mean)
    flow = flow_of(operator, time, shift, solving, options.memory, options.threads)
    dual_coef = np.ascontiguousarray(flow.learned(job.targets))
    relative = shift / mean if mean > 0 else np.inf
    done = Fit(
        job.training, job.targets, job.flat, shift, relative, None, dual_coef, flow.error,
        "block_krylov", solving.tolerance,
    )  # fmt: skip
    return done, Trained(job.operators["nngp"], None, flow)


def choose(
    ridge: Ridge, matrix: Floats, targets: Doubles, threads: int | None
) -> tuple[float, float, RidgeChoice | None]:
    """Return a ridge, absolute and relative to the mean of the diagonal, and how it was chosen."""
    mean = float(np.diagonal(matrix).mean(dtype=float))
    choice = None
    if ridge.chosen:
        with blas_threads(threads_to_use(threads)):
            choice = choose_ridge(Eigenbasis(matrix), targets, ridge.value)
        if choice.edge == "largest":
            warnings.warn(
                f"{ridge.name}={ridge.value!r}: the best of all numbers that were tried is the "
                f"largest, {choice.ridge:.3g} (absolute); the kernel explains nothing of y",
                RidgeWarning,
                stacklevel=4,
            )
    shift = ridge.of(mean) if choice is None else choice.ridge
    return shift, shift / mean if mean > 0 else np.inf, choice
