"""The factors of models: computed for a fit, or again for a model that was unpickled or loaded."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KernelName
from ntk_numba.blas import blas_threads
from ntk_numba.errors import NotPositiveDefiniteError
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.machine import threads_to_use
from ntk_numba.operators.matrix import fits
from ntk_numba.operators.operator import GramOperator
from ntk_numba.predict.flow import FlowFunctions
from ntk_numba.predict.large import MATRIX, Solving, System, half, operator_of
from ntk_numba.predict.large_flow import LargeFlow, Means
from ntk_numba.predict.posterior import Trained
from ntk_numba.predict.saving import Saved
from ntk_numba.predict.training import Training
from ntk_numba.solvers.eigenbasis import WORKING, Eigenbasis

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


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


def factorise_again(
    model: Saved,
    memory: int | str | None = None,
    threads: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> Cholesky | System:
    """Return the factor of K + ridge·I of a model that was unpickled or loaded, within `memory`.

    Where the matrix does not fit, or the model was solved by iterations, it is a `System`.
    """
    training = model.training
    if model.method != "cholesky" or not fits(training.count, training.dtype, memory):
        return _system_again(model, model.kernel, memory, threads, scratch)
    matrix = training.matrix(model.kernel, threads)
    return factorise(matrix, model.ridge, model.ridge_name, training, model.targets, threads)


def _system_again(
    model: Saved,
    kernel: KernelName,
    memory: int | str | None,
    threads: int | None,
    scratch: str | os.PathLike[str] | None,
) -> System:
    """Return the system of equations of a model, with its factor if the model was found by one."""
    training = model.training
    system = System(
        operator_of(training, kernel, memory=memory, threads=threads),
        model.ridge,
        Solving(model.method, model.tolerance, scratch),  # type: ignore[arg-type]
        memory=memory,
        threads=threads,
    )
    with explaining(training, model.targets, model.ridge, model.ridge_name):
        system.prepare()
    return system


def ensemble_again(
    model: Saved,
    time: float,
    memory: int | str | None = None,
    threads: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> Trained:
    """Return the distribution of a model of trained networks that was unpickled or loaded."""
    training, working = model.training, WORKING if time < np.inf else 0
    if model.method == "cholesky" and fits(training.count, training.dtype, memory, working, 2):
        both = training.matrices(("nngp", "ntk"), threads)
        return make_ensemble(training, both, model.ridge, time, model.targets, threads)
    nngp = operator_of(training, "nngp", memory=memory, threads=threads)
    if time == np.inf:
        return Trained(nngp, _system_again(model, "ntk", memory, threads, scratch), None)
    ntk = operator_of(training, "ntk", memory=memory, threads=threads)
    solving = Solving(tolerance=model.tolerance, scratch=scratch)
    return Trained(nngp, None, flow_of(ntk, time, model.ridge, solving, memory, threads))


def flow_of(
    ntk: GramOperator,
    time: float,
    shift: float,
    solving: Solving,
    memory: int | str | None,
    threads: int | None,
) -> LargeFlow:
    """Return the functions of Θ at a finite time, if the matrix is not in memory.

    A factor is written if there is a folder for scratch.
    """
    folder = solving.scratch if solving.scratch and Path(solving.scratch).is_dir() else None
    means = Means(half(memory), threads, folder, solving.tolerance)
    return LargeFlow(ntk, time, shift, means, absolute=True)


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
    with explaining(training, targets, shift, name):
        return Cholesky(matrix, shift, threads=threads, name=MATRIX)


@contextlib.contextmanager
def explaining(training: Training, targets: Doubles, shift: float, name: str) -> Iterator[None]:
    """Add what to do about equal samples to the error that a matrix is not positive definite.

    name : "ridge" or "noise"
    """
    try:
        yield
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
