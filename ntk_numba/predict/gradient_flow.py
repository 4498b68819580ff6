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

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.containers import read_array

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

    Returns
    -------
    Flow

    Raises
    ------
    ValueError
        If shapes do not fit, if numbers are not finite, if the time is negative, or if only one of
        ntk_test and f0_test is given.
    TypeError
        If an array does not hold real numbers.
    """
    spectrum = _Spectrum(ntk, time)
    size = spectrum.size
    target, start = _matrix("y", y, (size, ...)), _matrix("f0", f0, (size, ...))
    if target.shape != start.shape:
        raise InvalidValueError(f"f0 must have the shape of y, {target.shape}, not {start.shape}")
    outputs = target + spectrum.apply(spectrum.decay, start - target)
    if (ntk_test is None) != (f0_test is None):
        missing = "f0_test" if f0_test is None else "ntk_test"
        raise InvalidValueError(
            f"{missing} is missing: test samples need both ntk_test and f0_test"
        )
    if ntk_test is None:
        return Flow(outputs, None)
    cross = _matrix("ntk_test", ntk_test, ("M", size))
    first = _matrix("f0_test", f0_test, (len(cross), *target.shape[1:]))
    return Flow(outputs, first + cross @ spectrum.apply(spectrum.gain, target - start))


def flow_distribution(
    *,
    ntk: ArrayLike,
    ntk_test: ArrayLike,
    nngp: ArrayLike,
    nngp_test: ArrayLike,
    nngp_test_test: ArrayLike,
    y: ArrayLike,
    time: float,
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
    time : as for `gradient_flow`

    Returns
    -------
    mean : (M,) or (M, n_out) array
    covariance : (M, M) array, the same for each output

    Raises
    ------
    ValueError
        If shapes do not fit, if numbers are not finite, or if the time is negative.
    """
    spectrum = _Spectrum(ntk, time)
    size = spectrum.size
    cross = _matrix("ntk_test", ntk_test, ("M", size))
    shapes = (size, size), (len(cross), size), (len(cross), len(cross))
    names = ("nngp", nngp), ("nngp_test", nngp_test), ("nngp_test_test", nngp_test_test)
    sigma, sigma_test, sigma_test_test = (
        _matrix(name, values, shape) for (name, values), shape in zip(names, shapes, strict=True)
    )
    a = spectrum.apply(spectrum.gain, cross.T).T
    mixed = a @ sigma_test.T
    covariance = sigma_test_test - mixed - mixed.T + a @ sigma @ a.T
    return a @ _matrix("y", y, (size, ...)), covariance


class _Spectrum:
    """The spectrum of Θ, and two functions of its eigenvalues λ at time t.

    decay : e^(−λt/N);  gain : (1 − e^(−λt/N))/λ

    Eigenvalues below ε·N·λ_max, with the ε of the dtype that Θ was computed in, are rounding errors
    and count as 0. Such a direction is never learned, and Θ_x has no component along it either,
    since Θ is a kernel.
    """

    def __init__(self, ntk: Any, time: float) -> None:
        if not time >= 0:
            raise InvalidValueError(f"time must be at least 0, not {time!r}")
        given = read_array(ntk, "ntk")
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise InvalidValueError(f"ntk must be a square matrix, not {given.shape}")
        theta = _matrix("ntk", given, given.shape)
        self.size = len(theta)
        values, self._vectors = np.linalg.eigh(theta)
        epsilon = np.finfo(np.float32 if given.dtype == np.float32 else float).eps
        known = values > epsilon * self.size * max(values[-1], 0)
        values = np.where(known, values, 1)
        rates = np.where(known, values * time, 0) / self.size
        self.decay, self.gain = np.exp(-rates), -np.expm1(-rates) / values

    def apply(self, function: Floats, columns: Floats) -> Floats:
        """Apply a function of Θ, given by its eigenvalues, to columns (N,) or (N, K)."""
        return np.asarray(self._vectors @ (function * (self._vectors.T @ columns).T).T)


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
