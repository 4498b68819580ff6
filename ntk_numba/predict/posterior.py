"""What the training samples explain of the covariance of new samples.

A posterior covariance is that of the prior less an explained part, K(x, x') − E(x, x').
`Conditioned` is the posterior of a Gaussian process; `Trained` is the distribution of the outputs
of trained wide networks over their starts (T8 of docs/training.md).
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KernelName
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.operators.operator import GramOperator
from ntk_numba.predict.flow import FlowFunctions
from ntk_numba.predict.large import System
from ntk_numba.predict.large_flow import LargeFlow

Doubles = NDArray[np.float64]
Cross = dict[KernelName, Doubles]

SOLVING = 7  # arrays of the size of the right-hand side that `Cholesky.solve` makes


class Explained(NamedTuple):
    """Two (N, m) arrays P and Q, for which E = (PᵀQ + QᵀP)/2.

    For their columns, which belong to new samples, E(x, x) is the sum of the products.
    """

    left: Doubles
    right: Doubles

    @property
    def diagonal(self) -> Doubles:
        """E(x, x), (m,)."""
        return np.asarray(np.einsum("ij,ij->j", self.left, self.right))

    @property
    def matrix(self) -> Doubles:
        """E, (m, m), exactly symmetric."""
        product = self.left.T @ self.right
        return np.asarray((product + product.T) / 2)


class Posterior(Protocol):
    """A posterior of the outputs.

    kernels : the kernels between new and training samples that it needs
    prior : the kernel that is the covariance of the prior
    arrays : the number of (N, m) arrays in float64 that `explain` makes for m samples
    """

    kernels: tuple[KernelName, ...]
    prior: KernelName
    arrays: int

    def explain(self, cross: Cross) -> Explained:
        """Return what the training samples explain, for kernels (m, N)."""


class Conditioned:
    """The posterior of a Gaussian process with covariance K and noise: E = K_x A⁻¹ K_xᵀ.

    factor : of A = K + noise·I, or the system with A
    """

    def __init__(self, kernel: KernelName, factor: Cholesky | System) -> None:
        self.kernels: tuple[KernelName, ...] = (kernel,)
        self.prior, self.factor = kernel, factor
        self.halves = factor.halves if isinstance(factor, System) else factor.dtype == np.float64
        self.arrays = 2 if self.halves else _solving(factor)

    def explain(self, cross: Cross) -> Explained:
        """Return E as VᵀV with V = L⁻¹K_xᵀ or, without L in float64, as K_x times A⁻¹K_xᵀ.

        The latter is refined, so that E is as accurate as from a factor in float64, or is found by
        iterations to the tolerance of the model.
        """
        columns = cross[self.prior].T
        if self.halves:
            half = self.factor.half_solve(columns)
            return Explained(half, half)
        return Explained(columns, self.factor.solve(columns))


def _solving(factor: Cholesky | System) -> int:
    """Return the number of arrays of the size of the right-hand side that a solution makes."""
    return factor.arrays if isinstance(factor, System) else SOLVING


class Trained:
    """Trained networks: E = A Σ_Xx + Σ_xX Aᵀ − A Σ_XX Aᵀ with A = Θ_x g(Θ).

    Parameters
    ----------
    nngp : (N, N), or an operator
        Σ_XX.
    factor : of Θ + ridge·I, if the training ends at t = ∞; else None
    flow : g, if it ends earlier; else None
    """

    kernels: tuple[KernelName, ...] = ("nngp", "ntk")
    prior: KernelName = "nngp"
    arrays = SOLVING + 3  # for a factor in memory

    def __init__(
        self,
        nngp: NDArray[np.floating] | GramOperator,
        factor: Cholesky | System | None,
        flow: FlowFunctions | LargeFlow | None,
    ) -> None:
        self.nngp, self.factor, self.flow = nngp, factor, flow
        if isinstance(factor, System):
            self.arrays = _solving(factor) + 3

    def weights(self, columns: Doubles) -> tuple[Doubles, float]:
        """Return g(Θ) @ columns and its relative residual, NaN before the end of training."""
        if self.factor is not None:
            return self.factor.solve(columns), self.factor.residual
        assert self.flow is not None
        return self.flow.learned(columns), np.nan

    def explain(self, cross: Cross) -> Explained:
        """Return E with P = Aᵀ and Q = 2Σ_Xx − Σ_XX Aᵀ."""
        a, _ = self.weights(cross["ntk"].T)
        return Explained(a, 2 * cross["nngp"].T - self.nngp @ a)
