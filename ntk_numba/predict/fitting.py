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
from ntk_numba.errors import InvalidValueError, NotPositiveDefiniteError, RidgeWarning
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.inputs.source import result_dtype
from ntk_numba.linalg.cholesky import Cholesky
from ntk_numba.linalg.eigenbasis import WORKING, Eigenbasis, RidgeChoice, choose_ridge
from ntk_numba.linalg.matrix import open_matrix, refuse_large
from ntk_numba.machine import threads_to_use
from ntk_numba.predict.flow import FlowFunctions
from ntk_numba.predict.posterior import Trained
from ntk_numba.predict.saving import Saved
from ntk_numba.predict.targets import open_targets
from ntk_numba.predict.training import Training, open_training, refuse_other_data

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
    """What a fit needs: its samples, its targets, and kernel matrices that may be overwritten.

    flat : whether the targets had the shape (N,)
    """

    training: Training
    targets: Doubles
    flat: bool
    matrices: dict[KernelName, Floats]


def read_job(
    net: Any, X: Any, y: Any, kernels: tuple[KernelName, ...], options: Options, working: int
) -> Job:
    """Read and check the arguments of a fit; compute its kernels, or read them from `gram`.

    working : the bytes that the fit takes for each pair of samples, besides its kernels
    """
    gram, memory = options.gram, options.memory
    if isinstance(gram, str | os.PathLike):
        with open_gram(Path(gram)) as file:
            return read_job(net, X, y, kernels, replace(options, gram=file), working)
    given, dtype, up_to = {}, options.dtype, options.up_to
    if gram is not None:
        others = 8 * (len(kernels) - 1)  # bytes, at most, of the other kernels
        for kernel in kernels:
            given[kernel] = open_matrix(gram, kernel, memory=memory, working=working + others)
        found = given[kernels[0]].dtype
        if dtype is not None and result_dtype(dtype) != found:
            raise InvalidValueError(f"gram holds {found}, but dtype={dtype!r}; leave dtype out")
        dtype = found
        if isinstance(gram, GramFile) and up_to is None:
            up_to = gram.contents.largest_norm
    training = open_training(net, X, preprocess=options.preprocess, dtype=dtype, up_to=up_to)
    targets, flat = open_targets(y, training.count)
    for kernel, matrix in given.items():
        refuse_other_data(training, gram, matrix, kernel)
    if not given:
        refuse_large(training.count, training.dtype, memory, working, len(kernels))
        given = training.matrices(kernels, options.threads)
    return Job(training, targets, flat, given)


class Fit(NamedTuple):
    """The solution for the targets of a job.

    ridge, relative_ridge : the absolute ridge, and its ratio to the mean of the diagonal of K
    choice : how the ridge was chosen; None if it was given
    dual_coef : (N, n_out)
    residual : the relative residual of that solution
    """

    training: Training
    targets: Doubles
    flat: bool
    ridge: float
    relative_ridge: float
    choice: RidgeChoice | None
    dual_coef: Doubles
    residual: float


def fit(
    net: Any, X: Any, y: Any, kernel: KernelName, ridge: Ridge, options: Options
) -> tuple[Fit, Cholesky]:
    """Compute a kernel matrix, choose the ridge if wanted, factorise, and solve for the targets."""
    with Stages("kernels", "spectrum", "Cholesky", "solution", show=options.progress) as stage:
        stage("kernels")
        working = WORKING if ridge.chosen else 0
        training, targets, flat, matrices = read_job(net, X, y, (kernel,), options, working)
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
        job = read_job(net, X, y, ("nngp", "ntk"), options, working)
        training, targets, flat, matrices = job
        stage("spectrum")
        chosen = choose(ridge, matrices["ntk"], targets, options.threads)
        stage("Cholesky")
        posterior = make_ensemble(training, matrices, chosen[0], time, targets, options.threads)
        stage("solution")
        dual_coef, residual = posterior.weights(targets)
        dual_coef = np.ascontiguousarray(dual_coef)  # as in `fit`
    return Fit(training, targets, flat, *chosen, dual_coef, residual), posterior


def make_ensemble(
    training: Training,
    matrices: dict[KernelName, Floats],
    shift: float,
    time: float,
    targets: Doubles,
    threads: int | None = None,
) -> Trained:
    """Return the distribution of trained networks, for Σ and Θ, which is overwritten."""
    if time == np.inf:
        factor = factorise(matrices["ntk"], shift, "noise", training, targets, threads)
        return Trained(matrices["nngp"], factor, None)
    with blas_threads(threads_to_use(threads)):
        basis = Eigenbasis(matrices["ntk"], overwrite=True)
    return Trained(matrices["nngp"], None, FlowFunctions(basis, time, shift))


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


def factorise_again(
    model: Saved, memory: int | str | None = None, threads: int | None = None
) -> Cholesky:
    """Return the factor of K + ridge·I of a model that was unpickled or loaded, within `memory`."""
    training = model.training
    refuse_large(training.count, training.dtype, memory, 0, 1)
    matrix = training.matrix(model.kernel, threads)
    return factorise(matrix, model.ridge, model.ridge_name, training, model.targets, threads)


def factorise(
    matrix: Floats,
    shift: float,
    name: str,
    training: Training,
    targets: Doubles,
    threads: int | None = None,
) -> Cholesky:
    """Factorise a kernel matrix, which is overwritten; errors say what to do about equal samples.

    name : "ridge" or "noise"
    """
    try:
        return Cholesky(matrix, shift, threads=threads, name="the kernel matrix of X")
    except NotPositiveDefiniteError as error:
        if error.equal is not None:
            first, second = error.equal
            samples = training.samples
            same = np.array_equal(samples[first], samples[second])
            differ = not np.array_equal(targets[first], targets[second])
            text = (
                f". Samples {first} and {second} "
                + ("are equal" if same else "differ less than this kernel can tell")
                + (", and their targets differ" if differ else ", and their targets are equal")
                + f": give a {'larger' if shift else 'positive'} {name}, or leave one of them out"
            )
            error.args = (error.args[0] + text,)
        raise
