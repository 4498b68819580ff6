"""Training of finite networks by full-batch gradient descent on the squared loss."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import get_blas_funcs

from ntk_numba.arguments import Data, number_between, whole_number
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.finite_width.networks import (
    Parameters,
    check_parameters,
    parameter_bytes,
    pass_bytes,
    preactivations,
    read_samples,
)
from ntk_numba.finite_width.pool import fitting_threads
from ntk_numba.function import Floats
from ntk_numba.inputs.containers import read_array


class History(NamedTuple):
    """The result of `train`.

    params : the Parameters after the last step
    loss : (steps + 1,) the loss before each step and after the last one
    steps : the numbers of steps after which outputs were kept, beginning with 0
    outputs : (len(steps), N, n_out) f on the training samples
    test_outputs : (len(steps), M, n_out) f on the test samples; M = 0 if there are none
    """

    params: Parameters
    loss: NDArray[np.float64]
    steps: NDArray[np.int64]
    outputs: Floats
    test_outputs: Floats


def train(
    params: Parameters,
    X: Data,
    y: ArrayLike,
    learning_rate: float,
    steps: int,
    *,
    test: Data | None = None,
    record: int | None = None,
) -> History:
    """Train all layers by full-batch gradient descent on C = Σ_i |f(x_i) − y_i|²/2N.

    Each step is θ ← θ − η ∂C/∂θ, on one core. With small steps the outputs follow the gradient
    flow ∂f/∂t = −Θ(θ_t)(f − y)/N at t = η·step, and Θ(θ_t) tends to Θ∞ as the widths grow.

    Parameters
    ----------
    params : Parameters
        The parameters at the start, which are not changed.
    X : (N, n_in), as for `ntk_numba.gram`
    y : (N,) or (N, n_out) targets
    learning_rate : float
        η > 0. Steps converge for η below 2N/λ, where λ is the largest eigenvalue of Θ on X.
    steps : int
        The number of steps, at least 0.
    test : (M, n_in), optional
        Samples whose outputs are kept too.
    record : int, optional
        The number of steps between two records of the outputs; by default they are kept at the
        start and the end only.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError, OSError
        If the parameters or the data cannot be used, if the targets are not one finite row for each
        sample, if the learning rate is not positive, if the computation does not fit in memory, or
        if the training diverges.
    """
    check_parameters(params)
    whole_number("steps", steps, 0)
    interval = max(steps, 1) if record is None else whole_number("record", record)
    learning_rate = number_between("learning_rate", learning_rate, 0, math.inf)
    x = read_samples(X, "X", params.widths[0], params.dtype)
    x_test = x[:0] if test is None else read_samples(test, "test", params.widths[0], params.dtype)
    target = _targets(y, len(x), params)
    item, samples = params.dtype.itemsize, len(x) + len(x_test)
    kept_bytes = 8 * steps + (steps // interval + 2) * samples * params.widths[-1] * item
    working = parameter_bytes(params.widths, item) + 2 * pass_bytes(params.widths, samples, item)
    fitting_threads(1, kept_bytes, working, "a second network and the history")
    current = Parameters(
        params.net,
        tuple(w.copy() for w in params.weights),
        tuple(b.copy() for b in params.biases),
    )
    recorded = {*range(0, steps + 1, interval), steps}
    loss = np.empty(steps + 1)
    outputs: list[Floats] = []
    test_outputs: list[Floats] = []
    with blas_threads(1), np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps + 1):
            z = preactivations(current, x)
            residual = z[-1] - target
            loss[step] = np.sum(np.square(residual, dtype=float)) / (2 * len(x))
            if step == 0 and not np.isfinite(loss[0]):
                raise InvalidValueError("the loss at the start is not finite: X or y is too large")
            if not loss[step] <= 1e6 * (loss[0] + 1):
                raise InvalidValueError(
                    f"the loss grew from {loss[0]:.3g} to {loss[step]:.3g} in {step} steps: "
                    f"learning_rate {learning_rate!r} is too large; it must be less than 2N/λ, "
                    f"where λ is the largest eigenvalue of the NTK on X"
                )
            if step in recorded:
                outputs.append(z[-1])
                test_outputs.append(preactivations(current, x_test)[-1])
            if step < steps:
                _descend(current, x, z, residual / len(x), learning_rate)
    return History(
        current, loss, np.array(sorted(recorded)), np.array(outputs), np.array(test_outputs)
    )


def _descend(
    params: Parameters, x: Floats, z: list[Floats], delta: Floats, learning_rate: float
) -> None:
    """Take one step in place.

    z : the preactivations of x
    delta : ∂C/∂f, (N, n_L)
    """
    net = params.net
    for layer in range(net.depth - 1, -1, -1):
        weight, bias = params.weights[layer], params.biases[layer]
        scale = net.w_std[layer] / math.sqrt(weight.shape[1])
        if layer > 0:
            before: Floats = delta @ weight
            before *= scale
            before *= net.functions[layer - 1].derivative(z[layer - 1])
            alpha = net.functions[layer - 1](z[layer - 1])
        else:
            before, alpha = delta, x
        # W −= η σ_w/√n δᵀα in one pass over W; its transpose is a matrix in BLAS's column order
        gemm = get_blas_funcs("gemm", (weight,))
        updated = gemm(
            -learning_rate * scale, alpha.T, delta.T, 1.0, weight.T, trans_b=True, overwrite_c=True
        )
        assert np.shares_memory(updated, weight)
        bias -= learning_rate * net.b_std[layer] * delta.sum(axis=0)
        delta = before


def _targets(y: Any, count: int, params: Parameters) -> Floats:
    """Return the targets y of `count` samples as an array (N, n_out), or raise an error."""
    target = read_array(y, "y")
    wanted = (count, params.widths[-1])
    if target.shape == (count,) and wanted[1] == 1:
        target = target[:, None]
    if target.shape != wanted:
        raise InvalidValueError(
            f"y must be of shape {wanted}, one row per sample, not {target.shape}"
        )
    if not np.isfinite(target).all():
        row = int(np.argwhere(~np.isfinite(target))[0][0])
        raise InvalidValueError(f"y: row {row} is not finite; remove the sample or correct it")
    return target.astype(params.dtype)
