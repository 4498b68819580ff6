"""The evidence and the leave-one-out density of targets, and their gradients.

With A = K + s·I, s the variance of the noise, α = A⁻¹y, and B = A⁻¹, summed over the n outputs,

    log p = −½ Σ yᵀα − n/2 log det A − nN/2 log 2π                              (R&W eq. 5.8)
    log q = Σ_i Σ [½ log B_ii − α_i²/(2B_ii) − ½ log 2π]                        (R&W eq. 5.10-5.12)

are the log marginal likelihood, or evidence, and the log predictive density of each sample under
the process of all others. A change dA of A changes B by −B dA B and α by −B dA α, so both have a
differential of the form tr(W dA) with a symmetric matrix W:

    evidence        W = ½ (Σ ααᵀ − nB)                                          (R&W eq. 5.9)
    leave-one-out   W = ½ Σ (Bc αᵀ + α (Bc)ᵀ) − B G B,   c_i = α_i/B_ii,
                    G diagonal with g_i = n/(2B_ii) + Σ α_i²/(2B_ii²)           (as R&W eq. 5.13)

One matrix W thus serves all hyperparameters. Noise ν that is relative to the mean of the diagonal,
s = ν·tr(K)/N, changes with K too: dA = dK + ν·tr(dK)/N·I adds ν·tr(W)/N to the diagonal of W. In
either case ∂/∂log ν = s·tr(W).

Source: Rasmussen & Williams 2006, *Gaussian Processes for Machine Learning*, chapter 5.
"""

import math
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from ntk_numba.arguments import KERNELS, one_of
from ntk_numba.compute.gradients import contract
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.factors.factor import leave_one_out
from ntk_numba.factors.packed import mirror
from ntk_numba.predict.large import System
from ntk_numba.predict.training import Training

Floats = NDArray[np.float64]
Objective: TypeAlias = Literal["evidence", "loo"]

OBJECTIVES: tuple[Objective, ...] = ("evidence", "loo")


class Process(Protocol):
    """What is needed of a Gaussian process; `gaussian_process.GaussianProcess` is one."""

    @property
    def training(self) -> Training: ...

    @property
    def kernel(self) -> str: ...

    @property
    def factor(self) -> Cholesky | System: ...

    @property
    def ridge(self) -> float: ...

    @property
    def relative_ridge(self) -> float: ...

    @property
    def absolute(self) -> bool: ...

    @property
    def dual_coef(self) -> Floats: ...


class Slope(NamedTuple):
    """The differential of an objective, as weights of the changes of A.

    weights : W of the module, (N, N), symmetric
    trace : tr(W)
    """

    weights: Floats
    trace: float

    def of_kernel(self, relative_noise: float) -> Floats:
        """Return the weights of dK, in place of W.

        relative_noise : ν if the noise is relative to the mean of K's diagonal, else 0
        """
        size = len(self.weights)
        self.weights.flat[:: size + 1] += relative_noise * self.trace / size
        return self.weights


def marginal_likelihood(log_det: float, targets: Floats, alpha: Floats) -> float:
    """Return log p of the module, from log det A, y and A⁻¹y, (N, n)."""
    size, outputs = targets.shape
    square = float(np.vdot(targets, alpha))
    return -0.5 * (square + outputs * (log_det + size * math.log(2 * math.pi)))


def left_out_density(inverse_diagonal: Floats, targets: Floats, alpha: Floats) -> float:
    """Return log q of the module, from the diagonal of A⁻¹, (N,), y and A⁻¹y, (N, n)."""
    left_out = leave_one_out(targets, alpha, inverse_diagonal, flat=False)
    return float(left_out.log_density.sum())


def slope_of(objective: Objective, inverse: Floats, alpha: Floats) -> Slope:
    """Return W of an objective.

    Parameters
    ----------
    inverse : (N, N) A⁻¹, C-contiguous, which is overwritten
        Only its upper triangle is read.
    alpha : (N, n) A⁻¹y
    """
    outputs = alpha.shape[1]
    # The upper triangle of the matrix is Fortran's lower one of its transpose.
    if objective == "evidence":
        weights = blas.dsyrk(
            0.5, alpha.T, beta=-0.5 * outputs, c=inverse.T, trans=1, lower=1, overwrite_c=1
        )
    else:
        mirror(inverse.T)
        diagonal = np.diagonal(inverse).copy()
        ratios = alpha / diagonal[:, None]
        moved = inverse @ ratios
        inverse *= np.sqrt(0.5 * (outputs / diagonal + np.sum(ratios**2, axis=1)))
        weights = blas.dsyrk(-1.0, inverse.T, trans=1, lower=1)
        weights = blas.dsyr2k(
            0.5, moved.T, alpha.T, beta=1.0, c=weights, trans=1, lower=1, overwrite_c=1
        )
    mirror(weights)
    return Slope(weights.T, float(np.trace(weights)))


def evidence_gradient(process: Process, objective: Objective = "evidence") -> dict[str, Any]:
    """Return the gradient of the evidence, or of the leave-one-out density, of a Gaussian process.

    It takes one inverse of A and one pass over the pairs of samples, whatever the depth.

    Parameters
    ----------
    process : a process with the kernel "nngp" or "ntk"
    objective : "evidence" or "loo"

    Returns
    -------
    dict
        "w_std", "b_std" : (L,), the derivatives by log σ_w and log β of each layer; "noise" : that
        by the logarithm of the noise. Relative noise changes with σ_w and β, absolute noise does
        not.

    Raises
    ------
    ValueError
        If the process is an ensemble, or the objective is unknown.
    """
    kind = one_of("objective", objective, OBJECTIVES)
    training, alpha = process.training, process.dual_coef
    kernel = one_of("kernel", process.kernel, KERNELS)
    slope = slope_of(kind, process.factor.inverse(), alpha)
    sums = contract(
        training.net,
        training.samples,
        slope.of_kernel(0.0 if process.absolute else process.relative_ridge),
        kernel=kernel,
        up_to=training.up_to,
    )
    depth = training.net.depth
    noise = process.ridge * slope.trace
    return {"w_std": sums[:depth], "b_std": sums[depth:], "noise": noise}
