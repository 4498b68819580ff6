"""Training at infinite width: the gradient flow of kernel regression, in closed form.

At infinite width Θ does not change during training. Under gradient descent on C = Σ|f − y|²/2N the
outputs on the N training samples then obey ∂f/∂t = −Θ(f − y)/N, with t = η·steps, so that

    f(t) = y + exp(−Θt/N)(f0 − y)

and at any other x, where Θ_x is the row of kernels between x and the training samples,

    f(x, t) = f0(x) + A_x (y − f0),   A_x = Θ_x Θ⁻¹ (I − exp(−Θt/N)).

docs/training.md derives both and says why Θ does not change. Sources: Jacot, Gabriel, Hongler 2018,
section 5; Lee et al. 2019, *Wide Neural Networks of Any Depth Evolve as Linear Models*.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_numba.arguments import Data, not_negative
from ntk_numba.compute.memory import gram
from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.containers import read_array
from ntk_numba.linalg.eigenbasis import Eigenbasis, largest_eigenvalue
from ntk_numba.linalg.matrix import open_matrix
from ntk_numba.network import MLP
from ntk_numba.predict.flow import FlowFunctions, check_time

Floats = NDArray[np.floating]


class Flow(NamedTuple):
    """The outputs of a network at time t.

    outputs : outputs on the training samples, shaped like y
    test_outputs : outputs on the test samples, shaped like f0_test; None if there are none
    """

    outputs: Floats
    test_outputs: Floats | None


def gradient_flow(
    ntk: ArrayLike,
    y: ArrayLike,
    f0: ArrayLike,
    time: float,
    *,
    ntk_test: ArrayLike | None = None,
    f0_test: ArrayLike | None = None,
    ridge: float = 0.0,
) -> Flow:
    """Compute the outputs of an infinitely wide network after gradient flow from f0.

    They are f(t) = y + exp(−Θt/N)(f0 − y) on the training samples, and f0(x) + A_x (y − f0) at any
    other x (equations T6 and T7 of docs/training.md). Their accuracy is limited by that of the
    eigenvalues of Θ, whose rounding errors are up to about ε·N times the largest eigenvalue.

    Parameters
    ----------
    ntk : (N, N) Θ∞ of the training samples
    y : (N,) or (N, n_out) targets
    f0 : (N,) or (N, n_out) outputs at the start
    time : float
        t = learning rate × steps ≥ 0; infinity stands for the end of training.
    ntk_test : (M, N) Θ∞ between test and training samples, optional
    f0_test : (M,) or (M, n_out) outputs at the start on the test samples; needed with `ntk_test`
    ridge : float
        r ≥ 0, relative to the mean of the diagonal of Θ: regularisation towards the parameters θ_0
        at the start, see below.

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

    Examples
    --------
    >>> theta = [[2.0, 0.0], [0.0, 1.0]]
    >>> ntk_numba.gradient_flow(theta, [1.0, 1.0], [0.0, 0.0], 2.0).outputs.round(4)
    array([0.8647, 0.6321])
    >>> ntk_numba.gradient_flow(theta, [1.0, 1.0], [0.0, 0.0], float("inf"), ridge=1.0).outputs
    array([0.57142857, 0.4       ])
    """
    flow = _flow_functions(ntk, time, ridge)
    size = len(flow.gain)
    target, start = _matrix("y", y, (size, ...)), _matrix("f0", f0, (size, ...))
    if target.shape != start.shape:
        raise InvalidValueError(f"f0 must have the shape of y, {target.shape}, not {start.shape}")
    outputs = target + flow.left(start - target)
    if (ntk_test is None) != (f0_test is None):
        missing = "f0_test" if f0_test is None else "ntk_test"
        raise InvalidValueError(
            f"{missing} is missing: test samples need both ntk_test and f0_test"
        )
    if ntk_test is None:
        return Flow(outputs, None)
    cross = _matrix("ntk_test", ntk_test, ("M", size))
    first = _matrix("f0_test", f0_test, (len(cross), *target.shape[1:]))
    return Flow(outputs, first + cross @ flow.learned(target - start))


def flow_distribution(
    *,
    ntk: ArrayLike,
    ntk_test: ArrayLike,
    nngp: ArrayLike,
    nngp_test: ArrayLike,
    nngp_test_test: ArrayLike,
    y: ArrayLike,
    time: float,
    ridge: float = 0.0,
) -> tuple[Floats, Floats]:
    """Compute mean and covariance of test outputs after gradient flow from random networks.

    At the start f0 is Gaussian with covariance Σ (Proposition 1), and f(x, t) is linear in it. The
    mean of f(x, t) is A y, and its covariance is Σ_xx − AΣ_Xx − Σ_xX Aᵀ + A Σ_XX Aᵀ (equation T8 of
    docs/training.md).

    Parameters
    ----------
    ntk, nngp : (N, N) Θ∞ and Σ of the training samples
    ntk_test, nngp_test : (M, N) Θ∞ and Σ between test and training samples
    nngp_test_test : (M, M) Σ of the test samples
    y : (N,) or (N, n_out) targets
    time, ridge : as for `gradient_flow`

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
    flow = _flow_functions(ntk, time, ridge)
    size = len(flow.gain)
    cross = _matrix("ntk_test", ntk_test, ("M", size))
    shapes = (size, size), (len(cross), size), (len(cross), len(cross))
    names = ("nngp", nngp), ("nngp_test", nngp_test), ("nngp_test_test", nngp_test_test)
    sigma, sigma_test, sigma_test_test = (
        _matrix(name, values, shape) for (name, values), shape in zip(names, shapes, strict=True)
    )
    a = flow.learned(np.asarray(cross.T, float)).T
    mixed = a @ sigma_test.T
    covariance = sigma_test_test - mixed - mixed.T + a @ sigma @ a.T
    return a @ _matrix("y", y, (size, ...)), covariance


def max_learning_rate(ntk: Any, X: Data | None = None, *, ridge: float = 0.0) -> float:
    """Compute the largest learning rate with which gradient descent on wide networks converges.

    Steps η of the loss Σ|f − y|²/2N multiply the error along an eigenvector of Θ with eigenvalue λ
    by 1 − ηλ/N. They converge for η < 2N/λ_max, for any number of outputs (docs/training.md).

    Parameters
    ----------
    ntk : MLP, or (N, N) Θ∞ as an array, Gram, GramFile or path
    X : (N, n0), optional
        The training samples, if a network is given.
    ridge : float
        The ridge of `gradient_flow`, relative to the mean of the diagonal of Θ; the bound is then
        2N/(λ_max + ridge·mean).

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
        ntk = gram(ntk, X, kernels="ntk")
    elif X is not None:
        raise InvalidValueError("X is given with a matrix; give a network, or leave X out")
    theta = open_matrix(ntk, "ntk", name="ntk")
    size, mean = len(theta), float(np.diagonal(theta).mean(dtype=float))
    largest = largest_eigenvalue(theta) + relative * mean
    return 2 * size / largest if largest > 0 else np.inf


def _flow_functions(ntk: Any, time: float, ridge: float) -> FlowFunctions:
    """Return the functions of Θ at a time, for a ridge relative to the mean of its diagonal."""
    until, relative = check_time(time), not_negative("ridge", ridge)
    basis = Eigenbasis(open_matrix(ntk, "ntk", name="ntk"), overwrite=True)
    shift = relative * basis.mean_diagonal
    if not np.isfinite(shift):
        raise InvalidValueError(f"ridge={ridge!r} is too large for this kernel")
    return FlowFunctions(basis, until, shift)


def _matrix(name: str, values: Any, shape: tuple[Any, ...]) -> Floats:
    """Return `values` as float64, or raise an error if they are not finite or not of a shape.

    shape : "M" stands for any length, and ... at the end for any further dimensions
    """
    array = read_array(values, name).astype(float, copy=False)
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
