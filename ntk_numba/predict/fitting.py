"""The fit of a model to its targets: a kernel matrix, a ridge, and the solution of their system."""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ntk_numba.arguments import KernelName, not_negative
from ntk_numba.errors import InvalidValueError, NotPositiveDefiniteError, RidgeWarning
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.linalg.cholesky import Cholesky
from ntk_numba.linalg.matrix import open_matrix
from ntk_numba.linalg.spectrum import RidgeChoice, Spectrum, choose_ridge
from ntk_numba.machine import threads_to_use
from ntk_numba.predict.flow import FlowFunctions
from ntk_numba.predict.posterior import Trained
from ntk_numba.predict.targets import open_targets
from ntk_numba.predict.training import Training, open_training, refuse_other_data

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]

# matrices, of the size of K in float64, that the choice of a ridge takes: K, its eigenvectors, and
# two that LAPACK works in
SPECTRUM = 4


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
        return float(self.value if self.absolute else self.value * mean_diagonal)


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


def training_matrices(
    net: Any, X: Any, kernels: tuple[KernelName, ...], options: Options, copies: float
) -> tuple[Training, dict[KernelName, Floats]]:
    """Return the training samples and their kernel matrices, which are new or read from `gram`.

    copies : the number of (N, N) matrices that the fit needs at a time
    """
    gram = options.gram
    if isinstance(gram, str | os.PathLike):
        with open_gram(Path(gram)) as file:
            return training_matrices(net, X, kernels, replace(options, gram=file), copies)
    given, dtype, up_to = {}, options.dtype, options.up_to
    if gram is not None:
        for kernel in kernels:
            given[kernel] = open_matrix(gram, kernel, memory=options.memory, copies=copies)
            dtype = given[kernel].dtype
        if isinstance(gram, GramFile) and up_to is None:
            up_to = gram.contents.largest_norm
    training = open_training(
        net,
        X,
        preprocess=options.preprocess,
        dtype=dtype,
        up_to=up_to,
        memory=options.memory,
        copies=copies,
    )
    if not given:
        return training, training.matrices(kernels, options.threads)
    for kernel, matrix in given.items():
        refuse_other_data(training, gram, matrix, kernel)
    return training, given


@dataclass(frozen=True, eq=False)
class Fit:
    """A kernel matrix with a ridge, factorised, and the solution for the targets.

    Attributes
    ----------
    training : the samples
    targets : (N, n_out) float64
    flat : whether the targets had the shape (N,)
    ridge, relative_ridge : the absolute ridge, and its ratio to the mean of the diagonal of K
    choice : how the ridge was chosen; None if it was given
    factor : the factor of A = K + ridge·I; None of an ensemble at a finite time
    dual_coef : (N, n_out), A⁻¹ times the targets
    residual : the relative residual of that solution
    """

    training: Training
    targets: Doubles
    flat: bool
    ridge: float
    relative_ridge: float
    choice: RidgeChoice | None
    factor: Cholesky | None
    dual_coef: Doubles
    residual: float


def fit(net: Any, X: Any, y: Any, kernel: KernelName, ridge: Ridge, options: Options) -> Fit:
    """Fit a model: compute the matrix, choose the ridge if wanted, factorise and solve."""
    with Stages("kernels", "spectrum", "Cholesky", "solution", show=options.progress) as stage:
        stage("kernels")
        copies = SPECTRUM if ridge.chosen else 1
        training, matrices = training_matrices(net, X, (kernel,), options, copies)
        matrix = matrices.pop(kernel)
        targets, flat = open_targets(y, training.count)
        stage("spectrum")
        shift, relative, choice = choose(ridge, matrix, targets, options.threads)
        stage("Cholesky")
        factor = factorise(matrix, shift, ridge.name, targets, options.threads)
        stage("solution")
        dual_coef = factor.solve(targets)
    return Fit(training, targets, flat, shift, relative, choice, factor, dual_coef, factor.residual)


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
        copies = (SPECTRUM if ridge.chosen or time < np.inf else 1) + 1
        training, matrices = training_matrices(net, X, ("nngp", "ntk"), options, copies)
        targets, flat = open_targets(y, training.count)
        stage("spectrum")
        shift, relative, choice = choose(ridge, matrices["ntk"], targets, options.threads)
        stage("Cholesky")
        posterior = make_ensemble(matrices, shift, time, targets, options.threads)
        stage("solution")
        dual_coef, residual = posterior.weights(targets)
    done = Fit(
        training, targets, flat, shift, relative, choice, posterior.factor, dual_coef, residual
    )
    return done, posterior


def make_ensemble(
    matrices: dict[KernelName, Floats],
    shift: float,
    time: float,
    targets: Doubles | None,
    threads: int | None = None,
) -> Trained:
    """Return the distribution of trained networks, for Σ and Θ, which is overwritten."""
    if time == np.inf:
        factor = factorise(matrices["ntk"], shift, "noise", targets, threads)
        return Trained(matrices["nngp"], factor, None)
    with threadpool_limits(threads_to_use(threads), user_api="blas"):
        spectrum = Spectrum(matrices["ntk"])
    return Trained(matrices["nngp"], None, FlowFunctions(spectrum, time, shift))


def choose(
    ridge: Ridge, matrix: Floats, targets: Doubles, threads: int | None
) -> tuple[float, float, RidgeChoice | None]:
    """Return a ridge, absolute and relative to the mean of the diagonal, and how it was chosen."""
    mean = float(np.diagonal(matrix).mean(dtype=float))
    choice = None
    if ridge.chosen:
        with threadpool_limits(threads_to_use(threads), user_api="blas"):
            choice = choose_ridge(Spectrum(matrix.copy()), targets, ridge.value)
        if choice.edge == "largest":
            warnings.warn(
                f"{ridge.name}={ridge.value!r}: the best of all numbers that were tried is the "
                f"largest, {choice.ridge:.3g} (absolute); the kernel explains nothing of y",
                RidgeWarning,
                stacklevel=4,
            )
    shift = ridge.of(mean) if choice is None else choice.ridge
    return shift, shift / mean if mean > 0 else np.inf, choice


def factorise(
    matrix: Floats, shift: float, name: str, targets: Doubles | None, threads: int | None
) -> Cholesky:
    """Factorise a kernel matrix, which is overwritten; errors say what to do about equal samples.

    name : "ridge" or "noise"
    """
    try:
        return Cholesky(matrix, shift, threads=threads, name="the kernel matrix of X")
    except NotPositiveDefiniteError as error:
        if error.equal is None:
            raise
        first, second = error.equal
        differ = targets is not None and not np.array_equal(targets[first], targets[second])
        hint = (
            f". Samples {first} and {second} are equal and their targets "
            + ("differ, which is noise" if differ else "too: leave one of them out")
            + f"; {name} must not be 0 for equal samples"
        )
        error.args = (f"{error.args[0]}{hint}",)
        raise
