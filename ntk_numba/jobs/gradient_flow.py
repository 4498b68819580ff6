"""Training at infinite width: the gradient flow of kernel regression, in closed form.

While Θ stays what it was at the start, which it does in the limit, the outputs on the N training
samples obey ∂f/∂t = −Θ(f − y)/N under gradient descent on C = Σ|f − y|²/2N, t = η·steps, so that

    f(t) = y + exp(−Θt/N)(f0 − y)

and at any other x, with Θ_x the row of kernels between x and the training samples,

    f(x, t) = f0(x) + A_x (y − f0),   A_x = Θ_x Θ⁻¹ (I − exp(−Θt/N)).

docs/training.md derives both and says why Θ stays. Sources: Jacot, Gabriel, Hongler 2018, section
5; Lee et al. 2019, *Wide Neural Networks of Any Depth Evolve as Linear Models*.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class Flow(NamedTuple):
    """Outputs at time t.

    outputs : (N, n_out) on the training samples
    test_outputs : (M, n_out) on the test samples; None without any
    """

    outputs: Floats
    test_outputs: Floats | None


def gradient_flow(
    ntk: Any, y: Any, f0: Any, time: float, ntk_test: Any = None, f0_test: Any = None
) -> Flow:
    """Outputs of an infinitely wide network that starts at f0, after gradient flow for a time.

    Parameters
    ----------
    ntk : (N, N) Θ∞ of the training samples
    y : (N,) or (N, n_out) targets
    f0 : (N,) or (N, n_out) outputs at the start
    time : float
        t = learning rate × steps ≥ 0; inf for the end of training.
    ntk_test : (M, N) Θ∞ between test and training samples, optional
    f0_test : (M,) or (M, n_out) outputs at the start on the test samples, with `ntk_test`

    Returns
    -------
    Flow
        Of arrays shaped like f0 and f0_test.

    Raises
    ------
    ValueError
        Shapes that do not fit, a negative time, ntk_test without f0_test.
    """
    theta, target, start = (np.asarray(a, float) for a in (ntk, y, f0))
    if target.shape != start.shape or len(target) != len(theta):
        raise ValueError(
            f"y and f0 must have one row for each of the {len(theta)} training samples and the "
            f"same shape, not {target.shape} and {start.shape}"
        )
    values, vectors = _spectrum(theta)
    rest = np.exp(-_rates(values, time))
    gap = vectors.T @ (target - start)
    outputs = target - vectors @ (rest[(slice(None), *[None] * (gap.ndim - 1))] * gap)
    if ntk_test is None:
        return Flow(outputs, None)
    if f0_test is None:
        raise ValueError("f0_test is missing: the outputs on the test samples at the start")
    drawn = response(ntk_test, theta, time) @ (target - start)
    if np.shape(f0_test) != drawn.shape:
        raise ValueError(f"f0_test must be of shape {drawn.shape}, not {np.shape(f0_test)}")
    return Flow(outputs, f0_test + drawn)


def flow_distribution(
    ntk: Any, ntk_test: Any, nngp: Any, nngp_test: Any, nngp_test_test: Any, y: Any, time: float
) -> tuple[Floats, Floats]:
    """Mean (M, …) and covariance (M, M) of test outputs after gradient flow from random networks.

    At the start f0 is Gaussian with covariance Σ (Proposition 1), and f(x, t) is linear in it:
    mean A y, covariance Σ_xx − AΣ_Xx − Σ_xX Aᵀ + A Σ_XX Aᵀ.

    Parameters
    ----------
    ntk, nngp : (N, N) of the training samples
    ntk_test, nngp_test : (M, N) between test and training samples
    nngp_test_test : (M, M) of the test samples
    y : (N,) or (N, n_out)
    time : as for `gradient_flow`
    """
    a = response(ntk_test, ntk, time)
    cross = a @ np.asarray(nngp_test, float).T
    covariance = nngp_test_test - cross - cross.T + a @ np.asarray(nngp, float) @ a.T
    return a @ np.asarray(y, float), covariance


def response(ntk_test: Any, ntk: Any, time: float) -> Floats:
    """A = Θ_x Θ⁻¹ (I − exp(−Θt/N)), (M, N): how far targets draw outputs, by the spectrum of Θ."""
    theta, cross = np.asarray(ntk, float), np.asarray(ntk_test, float)
    if cross.ndim != 2 or cross.shape[1] != len(theta):
        raise ValueError(f"ntk_test must be of shape (M, {len(theta)}), not {cross.shape}")
    values, vectors = _spectrum(theta)
    # (1 − e^(−λt/N))/λ, which is t/N where λ = 0; directions that never learn do not count
    rates = _rates(values, time)
    with np.errstate(invalid="ignore"):
        gain = np.where(values > 0, -np.expm1(-rates) / np.where(values > 0, values, 1), 0)
    return np.asarray((cross @ vectors) * gain @ vectors.T)


def _spectrum(theta: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues, of which rounding has made those below ε·N·λ_max what they are: 0."""
    if theta.ndim != 2 or theta.shape[0] != theta.shape[1]:
        raise ValueError(f"ntk must be a square matrix, not {theta.shape}")
    values, vectors = np.linalg.eigh(theta)
    noise = np.finfo(float).eps * len(values) * max(values[-1], 0)
    return np.where(values > noise, values, 0), vectors


def _rates(values: Floats, time: float) -> Floats:
    """λt/N."""
    if not time >= 0:
        raise ValueError(f"time must be at least 0, not {time!r}")
    return np.where(values > 0, np.where(values > 0, values, 1) * time / len(values), 0)
