"""Training at infinite width: the gradient flow of kernel regression, in closed form.

At infinite width Θ does not change during training. Under gradient descent on C = Σ|f − y|²/2N the
outputs on the N training samples then obey ∂f/∂t = −Θ(f − y)/N, with t = η·steps, so that

    f(t) = y + exp(−Θt/N)(f0 − y)

and at any other x, where Θ_x is the row of kernels between x and the training samples,

    f(x, t) = f0(x) + A_x (y − f0),   A_x = Θ_x Θ⁻¹ (I − exp(−Θt/N)).

docs/training.md derives both and says why Θ does not change. Sources: Jacot, Gabriel, Hongler 2018,
section 5; Lee et al. 2019, *Wide Neural Networks of Any Depth Evolve as Linear Models*.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator

from ntk_numba.arguments import Data, not_negative
from ntk_numba.compute.memory import gram
from ntk_numba.compute.pair import Gram
from ntk_numba.errors import InvalidValueError, TooLargeError
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.inputs.containers import read_array
from ntk_numba.inputs.source import open_source, result_dtype
from ntk_numba.network import MLP
from ntk_numba.operators.computed import kernel_operator
from ntk_numba.operators.matrix import open_matrix, refuse_large
from ntk_numba.operators.operator import as_operator
from ntk_numba.predict.flow import check_time
from ntk_numba.predict.large_flow import Means, open_flow
from ntk_numba.solvers.eigenbasis import largest_eigenvalue
from ntk_numba.solvers.spectrum import largest_eigenvalue_of

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


class Flow(NamedTuple):
    """The outputs of a network at time t.

    outputs : outputs on the training samples, shaped like y
    test_outputs : outputs on the test samples, shaped like f0_test; None if there are none
    """

    outputs: Floats
    test_outputs: Floats | None


def gradient_flow(
    ntk: Any,
    y: ArrayLike,
    f0: ArrayLike,
    time: float,
    *,
    ntk_test: Any = None,
    f0_test: ArrayLike | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    memory: int | str | None = None,
    threads: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> Flow:
    """Compute the outputs of an infinitely wide network after gradient flow from f0.

    They are f(t) = y + exp(−Θt/N)(f0 − y) on the training samples, and f0(x) + A_x (y − f0) at any
    other x (equations T6 and T7 of docs/training.md). Their accuracy is limited by that of the
    eigenvalues of Θ, whose rounding errors are up to about ε·N times the largest eigenvalue.

    If all eigenvectors of Θ do not fit in memory, or Θ is not stored, the outputs are computed to a
    tolerance, by solutions with a Cholesky factor or by products with Θ (see Notes).

    Parameters
    ----------
    ntk : (N, N) array, Gram, GramFile, path of a Gram file, or operator
        Θ∞ of the training samples. An operator is what `kernel_operator` or `GramFile.operator`
        returns, or a symmetric `scipy.sparse.linalg.LinearOperator`.
    y : (N,) or (N, n_out) targets
    f0 : (N,) or (N, n_out) outputs at the start
    time : float
        t = learning rate × steps ≥ 0; infinity stands for the end of training.
    ntk_test : (M, N) array or operator, optional
        Θ∞ between test and training samples.
    f0_test : (M,) or (M, n_out) outputs at the start on the test samples; needed with `ntk_test`
    ridge : float
        r ≥ 0, relative to the mean of the diagonal of Θ: regularisation towards the parameters θ_0
        at the start, see below.
    tolerance : float
        The largest error of the outputs on the training samples, relative to |y − f0| of each
        column, if not all eigenvectors fit in memory. It is estimated.
    memory : int or str such as "2GiB", optional
        The most memory to use; by default all that this process may still use.
    threads : int, optional
        The largest number of threads; by default all that this process may use.
    scratch : str or path, optional
        A folder for the file of a factor of a matrix that does not fit in memory. The file is
        removed in the end; if the call is stopped, it stays, and the same call goes on with it.

    Returns
    -------
    Flow

    Raises
    ------
    ValueError
        If shapes do not fit, if Θ is not symmetric, if numbers are not finite, if the time or the
        ridge is negative, or if only one of ntk_test and f0_test is given.
    TypeError
        If an array does not hold real numbers.

    Notes
    -----
    A ridge ρ (r times the mean of the diagonal) is the penalty ρ|θ − θ_0|²/2N, added to the loss.
    The parameters then follow ∂θ/∂t = −(Jᵀ(f − y) + ρ(θ − θ_0))/N with f = f_0 + J(θ − θ_0) and
    Θ = JJᵀ. They stay in the span of Jᵀ, θ − θ_0 = Jᵀc, where ∂c/∂t = −((Θ + ρI)c − (y − f_0))/N.
    So c(t) = (Θ + ρI)⁻¹(I − exp(−(Θ + ρI)t/N))(y − f_0), and the outputs are f_0 + Θc on the
    training samples, and f_0(x) + Θ_x c at any other x. At t = ∞ this is kernel ridge regression
    of y − f_0. With finite steps it is weight decay towards θ_0, not towards 0.

    All eigenvectors take 24 to 32 N² bytes, and a factor takes one matrix, in memory or about half
    of one in `scratch`. With a factor the outputs take 3 to about 20 solutions, and with products
    alone about √(λ_max t/N) of them or fewer; these need no factor, and are taken for short times
    in any case. At t = ∞ without a factor, `ntk_numba.solve` finds c. A singular Θ then needs a
    ridge: directions that are only rounding can be left out if all eigenvectors are known.

    Examples
    --------
    >>> theta = [[2.0, 0.0], [0.0, 1.0]]
    >>> ntk_numba.gradient_flow(theta, [1.0, 1.0], [0.0, 0.0], 2.0).outputs.round(4)
    array([0.8647, 0.6321])
    >>> ntk_numba.gradient_flow(theta, [1.0, 1.0], [0.0, 0.0], float("inf"), ridge=1.0).outputs
    array([0.57142857, 0.4       ])
    """
    until, relative = check_time(time), not_negative("ridge", ridge)
    means = Means(memory, threads, scratch, tolerance)
    if (ntk_test is None) != (f0_test is None):
        missing = "f0_test" if f0_test is None else "ntk_test"
        raise InvalidValueError(
            f"{missing} is missing: test samples need both ntk_test and f0_test"
        )
    with open_flow(ntk, until, relative, means) as flow:
        size = flow.size
        target, start = _matrix("y", y, (size, ...)), _matrix("f0", f0, (size, ...))
        if target.shape != start.shape:
            raise InvalidValueError(
                f"f0 must have the shape of y, {target.shape}, not {start.shape}"
            )
        if ntk_test is None:
            return Flow(flow.moved(target, start)[0], None)
        cross = _given("ntk_test", ntk_test, size)
        first = _matrix("f0_test", f0_test, (cross.shape[0], *target.shape[1:]))
        outputs, weights = flow.moved(target, start)
        return Flow(outputs, first + cross @ weights)


def flow_distribution(
    *,
    ntk: Any,
    ntk_test: ArrayLike,
    nngp: Any,
    nngp_test: ArrayLike,
    nngp_test_test: ArrayLike,
    y: ArrayLike,
    time: float,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    memory: int | str | None = None,
    threads: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> tuple[Floats, Floats]:
    """Compute mean and covariance of test outputs after gradient flow from random networks.

    At the start f0 is Gaussian with covariance Σ (Proposition 1), and f(x, t) is linear in it. The
    mean of f(x, t) is A y, and its covariance is Σ_xx − AΣ_Xx − Σ_xX Aᵀ + A Σ_XX Aᵀ (equation T8 of
    docs/training.md).

    Parameters
    ----------
    ntk, nngp : (N, N) arrays, Gram, GramFile, path of a Gram file, or operators
        Θ∞ and Σ of the training samples.
    ntk_test, nngp_test : (M, N) Θ∞ and Σ between test and training samples
    nngp_test_test : (M, M) Σ of the test samples
    y : (N,) or (N, n_out) targets
    time, ridge, memory, threads, scratch : as for `gradient_flow`
    tolerance : float
        The largest error of A Θ, relative to the length of each row of `ntk_test`, if not all
        eigenvectors of Θ fit in memory.

    Returns
    -------
    mean : (M,) or (M, n_out) array
    covariance : (M, M) array, the same for each output

    Raises
    ------
    ValueError
        If shapes do not fit, if Θ is not symmetric, if numbers are not finite, or if the time or
        the ridge is negative.

    Examples
    --------
    `gaussian_process` with ``kernel="ensemble"`` computes the kernels too. From them:

    >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
    >>> k = ntk_numba.gram(net, [[0.0], [1.0], [2.0]])
    >>> mean, covariance = ntk_numba.flow_distribution(
    ...     ntk=k.ntk[:2, :2], ntk_test=k.ntk[2:, :2], nngp=k.nngp[:2, :2],
    ...     nngp_test=k.nngp[2:, :2], nngp_test_test=k.nngp[2:, 2:], y=[0.0, 1.0], time=100.0,
    ... )
    >>> mean.shape, covariance.shape
    ((1,), (1, 1))
    """
    until, relative = check_time(time), not_negative("ridge", ridge)
    means = Means(memory, threads, scratch, tolerance)
    with open_flow(ntk, until, relative, means) as flow, _opened("nngp", nngp, means) as sigma:
        size = flow.size
        cross = _matrix("ntk_test", ntk_test, ("M", size))
        if sigma.shape != (size, size):
            raise InvalidValueError(f"nngp must be of shape {(size, size)}, not {sigma.shape}")
        sigma_test = _matrix("nngp_test", nngp_test, (len(cross), size))
        sigma_test_test = _matrix("nngp_test_test", nngp_test_test, (len(cross), len(cross)))
        target = _matrix("y", y, (size, ...))
        weights = flow.learned(cross.T)
        a = weights.T
        mixed = a @ sigma_test.T
        if isinstance(sigma, np.ndarray):
            explained = a @ sigma @ a.T
        else:
            explained = a @ np.asarray(sigma @ weights)
            explained = (explained + explained.T) / 2
    return a @ target, sigma_test_test - mixed - mixed.T + explained


def max_learning_rate(
    ntk: Any,
    X: Data | None = None,
    *,
    ridge: float = 0.0,
    memory: int | str | None = None,
    threads: int | None = None,
) -> float:
    """Compute the largest learning rate with which gradient descent on wide networks converges.

    Steps η of the loss Σ|f − y|²/2N multiply the error along an eigenvector of Θ with eigenvalue λ
    by 1 − ηλ/N. They converge for η < 2N/λ_max, for any number of outputs (docs/training.md).

    Parameters
    ----------
    ntk : MLP, or (N, N) Θ∞ as an array, Gram, GramFile, path of a Gram file, or operator
        A matrix that does not fit in memory is only multiplied by columns, see `spectrum`.
    X : (N, n0), optional
        The training samples, if a network is given.
    ridge : float
        The ridge of `gradient_flow`, relative to the mean of the diagonal of Θ; the bound is then
        2N/(λ_max + ridge·mean).
    memory : int or str such as "2GiB", optional
        The most memory to use; by default all that this process may still use.
    threads : int, optional
        The largest number of threads; by default all that this process may use.

    Returns
    -------
    float
        2N/λ_max; infinity if Θ is 0.

    Raises
    ------
    ValueError, TypeError, OSError
        If the matrix is not square, symmetric and finite, X is missing, or the ridge is < 0.

    Examples
    --------
    >>> ntk_numba.max_learning_rate([[2.0, 0.0], [0.0, 1.0]])
    2.0
    """
    relative = not_negative("ridge", ridge)
    if isinstance(ntk, MLP):
        if X is None:
            raise InvalidValueError("X is missing: the kernel of a network needs its samples")
        ntk = _kernel_of(ntk, X, memory, threads)
    elif X is not None:
        raise InvalidValueError("X is given with a matrix; give a network, or leave X out")
    matrix = None
    if not isinstance(ntk, LinearOperator):
        with contextlib.suppress(TooLargeError):
            matrix = open_matrix(ntk, "ntk", name="ntk", memory=memory, working=8)
    if matrix is not None:
        size, mean = len(matrix), float(np.diagonal(matrix).mean(dtype=float))
        largest = largest_eigenvalue(matrix)
    else:
        operator = as_operator(ntk, "ntk", memory=memory, threads=threads, name="ntk")
        try:
            size, mean = operator.shape[0], float(operator.diag().mean())
            largest = largest_eigenvalue_of(operator, memory, threads)
        finally:
            if operator is not ntk:
                operator.close()
    largest += relative * mean
    return 2 * size / largest if largest > 0 else np.inf


def _kernel_of(net: MLP, X: Data, memory: int | str | None, threads: int | None) -> Any:
    """Return Θ of samples: a Gram, or an operator if it does not fit in memory."""
    source = open_source(X, "X")
    try:
        refuse_large(source.shape[0], result_dtype(None, source), memory, working=16)
    except TooLargeError:
        return kernel_operator(net, X, kernel="ntk", memory=memory, threads=threads)
    return gram(net, X, kernels="ntk", threads=threads)


def _given(name: str, values: Any, size: int) -> Any:
    """Return an operator (M, N) as it is, or an array as float64."""
    if not isinstance(values, LinearOperator):
        return _matrix(name, values, ("M", size))
    if values.shape[1] != size:
        raise InvalidValueError(f"{name} must be of shape (M, {size}), not {values.shape}")
    return values


@contextlib.contextmanager
def _opened(name: str, matrix: Any, means: Means) -> Iterator[Any]:
    """Open a kernel: a file, a Gram or an operator as an operator, and an array as float64."""
    stored = isinstance(matrix, Gram | GramFile | LinearOperator | str | os.PathLike)
    if not stored:
        yield _matrix(name, matrix, ("M", ...))
        return
    operator = as_operator(matrix, "nngp", memory=means.memory, threads=means.threads, name=name)
    try:
        yield operator
    finally:
        if operator is not matrix:
            operator.close()


def _matrix(name: str, values: Any, shape: tuple[Any, ...]) -> Doubles:
    """Return `values` as float64, or raise an error if they are not finite or not of a shape.

    shape : "M" stands for any length, and ... at the end for any further dimensions
    """
    array: Doubles = read_array(values, name).astype(float, copy=False)
    open_ended = shape[-1] is ...
    wanted = shape[:-1] if open_ended else shape
    lengths = array.shape[: len(wanted)] if open_ended else array.shape
    if len(lengths) != len(wanted) or any(
        w not in ("M", n) for w, n in zip(wanted, lengths, strict=True)
    ):
        text = ", ".join("..." if w is ... else str(w) for w in shape)
        raise InvalidValueError(f"{name} must be of shape ({text}), not {array.shape}")
    if not np.isfinite(array).all():
        raise InvalidValueError(f"{name} holds numbers that are not finite")
    return array
