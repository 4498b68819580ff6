"""Gaussian processes with the kernels of an infinitely wide network, and their evidence."""

import os
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ntk_numba.arguments import Data, KernelName, one_of, whole_number
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.factors.factor import LeaveOneOut, leave_one_out
from ntk_numba.machine import threads_to_use
from ntk_numba.network import MLP
from ntk_numba.predict.evidence import Objective, evidence_gradient, marginal_likelihood
from ntk_numba.predict.factors import ensemble_again, factorise_again
from ntk_numba.predict.fitting import Options, Ridge, fit, fit_ensemble
from ntk_numba.predict.flow import check_time
from ntk_numba.predict.large import Solving, System, explained, half
from ntk_numba.predict.posterior import Conditioned, Posterior
from ntk_numba.predict.preprocess import Preprocess
from ntk_numba.predict.saving import Saved
from ntk_numba.predict.training import MOST_BYTES, MOST_OF_PASSES
from ntk_numba.solvers.choice import Method

ProcessName: TypeAlias = Literal["nngp", "ntk", "ensemble"]
Doubles = NDArray[np.float64]


@dataclass(eq=False, repr=False)
class GaussianProcess(Saved):
    """A Gaussian process after its training samples, which `gaussian_process` returns.

    Attributes
    ----------
    training : Training
        The training samples.
    kernel : "nngp", "ntk" or "ensemble"
    targets : (N, n_out) float64
    flat : bool
        Whether the targets were given in the shape (N,).
    ridge, relative_ridge : float
        The variance of the noise, and its ratio to the mean of the diagonal of K; of an ensemble,
        the ridge of Θ.
    absolute : bool
        Whether the noise was given as an absolute number, which `gradient` then keeps.
    time : float
        The time at which the training of an ensemble ends; else infinity.
    dual_coef : (N, n_out) float64
        α, with which the mean is K(x, X) α; for an ensemble Θ(x, X) α.
    residual : float
        ‖y − (K + ridge·I) α‖/‖y‖, the largest of all outputs; of an ensemble at a finite time NaN
        or, if its matrices do not fit in memory, the estimated error relative to ‖y‖.
    choice : RidgeChoice or None
        How the noise was chosen, if it was not given as a number.
    """

    kind = "gaussian_process"
    ridge_name = "noise"

    kernel: ProcessName
    absolute: bool = False
    time: float = np.inf
    _posterior: Posterior | None = None

    @property
    def posterior(self) -> Posterior:
        """What the training samples explain; computed again in a model that was unpickled."""
        return self._restored()

    def _restored(
        self,
        memory: int | str | None = None,
        threads: int | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Return the posterior; where it is computed again, within `memory` and by `threads`."""
        if self._posterior is None:
            if self.kernel == "ensemble":
                self._posterior = ensemble_again(self, self.time, memory, threads, scratch)
            else:
                factor = factorise_again(self, memory, threads, scratch)
                self._posterior = Conditioned(self.kernel, factor)
        elif isinstance(system := getattr(self._posterior, "factor", None), System):
            system.limit(memory, threads)
        return self._posterior

    @property
    def factor(self) -> Cholesky | System:
        """The Cholesky factor of K + ridge·I, or its system of equations; not for an ensemble."""
        self._refuse_ensemble("the evidence and leave-one-out predictions")
        assert isinstance(self.posterior, Conditioned)
        return self.posterior.factor

    def _refuse_ensemble(self, what: str) -> None:
        if self.kernel == "ensemble":
            raise InvalidValueError(
                f"{what} are those of a Gaussian process; the outputs of trained networks are not "
                f"the posterior of one. Use kernel='ntk' or 'nngp', or kernel_ridge"
            )

    def predict(
        self,
        X_new: Data,
        return_std: bool = False,
        return_cov: bool = False,
        *,
        memory: int | str | None = None,
        threads: int | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Predict the mean of the outputs at new samples, and their standard deviation.

        With A = K + ridge·I, the posterior of the outputs f is Gaussian with

            mean K(x, X) A⁻¹ y,   covariance K(x, x') − K(x, X) A⁻¹ K(X, x')

        (Rasmussen and Williams 2006, eq. 2.25 and 2.26). An ensemble has those of T8 of
        docs/training.md.

        Parameters
        ----------
        X_new : (M, n0), of the kinds that `ntk_numba.gram` takes
        return_std, return_cov : bool
            Whether to return the standard deviations, or the covariance, too.
        memory, threads : see `KernelRidge.predict`
            A covariance is computed at once, and needs the memory for M (4N + 3M) numbers, with a
            factor in float32 M (9N + 3M), and for an ensemble M (14N + 3M).
        scratch : path, optional
            The file of the factor, if it has to be computed again and does not fit in memory; one
            that `gaussian_process` or `kernel_ridge` has left is used. By default a temporary one.

        Returns
        -------
        mean : (M, n_out) float64, or (M,) if the targets had the shape (N,)
        std : (M,), if wanted
            Of the outputs without noise, the same for all outputs. A new observation has the
            variance std² + ridge.
        cov : (M, M), if wanted

        Raises
        ------
        ValueError, TypeError, OSError
            See `KernelRidge.predict`; and if both std and cov are wanted.

        Notes
        -----
        Where the training samples determine the outputs, the variance is a small difference of
        large numbers, with rounding errors of about ε K(x, x); a negative one is returned as 0.
        """
        if return_std and return_cov:
            raise InvalidValueError("return_std and return_cov: choose one of them")
        new = self.training.new(X_new)
        spread = return_std or return_cov
        if spread:
            self._restored(memory, threads, scratch)
        kernels = self.posterior.kernels if spread else (self._mean_kernel,)
        arrays = (self.posterior.arrays if spread else 0) + 2 * len(kernels)
        row_bytes = 8 * self.training.count * arrays + (24 * new.count if return_cov else 0)
        iterates = spread and self.method != "cholesky"
        most = MOST_OF_PASSES if iterates else MOST_BYTES
        # the iterations take the other half, whatever the number of new samples
        room = half(memory) if iterates else memory
        with explained(memory if iterates else None):
            runs = list(new.runs(row_bytes, room, whole=return_cov, most=most))
        mean = np.empty((new.count, self.dual_coef.shape[1]))
        std = np.empty(new.count)
        cov = np.empty((0, 0))
        for run in runs:
            cross = new.cross(run, kernels, threads)
            if return_std:
                variance = new.diagonal(run, self.posterior.prior)
            if return_cov:
                cov = new.themselves(run, self.posterior.prior, threads)
            with blas_threads(threads_to_use(threads)):
                mean[run] = cross[self._mean_kernel] @ self.dual_coef
                if return_std:
                    variance -= self.posterior.explain(cross).diagonal
                    std[run] = np.sqrt(np.maximum(variance, 0))
                if return_cov:
                    cov -= self.posterior.explain(cross).matrix
        found = mean[:, 0] if self.flat else mean
        return (found, std) if return_std else (found, cov) if return_cov else found

    @property
    def _mean_kernel(self) -> KernelName:
        return "ntk" if self.kernel == "ensemble" else self.kernel

    @property
    def log_marginal_likelihood(self) -> float:
        """The logarithm of the density of the targets under the prior, summed over the outputs.

            −½ Σ yᵀA⁻¹y − ½ n_out log det A − ½ n_out N log 2π,   A = K + ridge·I

        (Rasmussen and Williams 2006, eq. 2.30).
        """
        return marginal_likelihood(self.factor.log_det, self.targets, self.dual_coef)

    def gradient(self, objective: Objective = "evidence") -> dict[str, Any]:
        """Return the derivatives of `log_marginal_likelihood` by the logarithms of its parameters.

        Parameters
        ----------
        objective : "evidence" or "loo"
            "loo" is the sum of the leave-one-out log densities, ``leave_one_out().log_density``.

        Returns
        -------
        dict
            "w_std" and "b_std" : (L,) float64, by log σ_w and log β of each layer; their sums are
            the derivatives by a σ_w and a β that all layers share. "noise" : float, by the
            logarithm of the noise. Noise that is relative to the mean of the diagonal of K changes
            with σ_w and β; noise that was given with absolute=True does not.

        Raises
        ------
        ValueError
            If the process is an ensemble, or the objective is unknown.

        Notes
        -----
        With α = A⁻¹y, the derivative of the evidence is ½ tr((Σ ααᵀ − n_out A⁻¹) ∂A) (Rasmussen and
        Williams 2006, eq. 5.9), and that of the leave-one-out density is their eq. 5.13. It takes
        one inverse, and one pass over the pairs of samples for the derivatives of K. The errors are
        those of A⁻¹, about ε times its condition number.

        Examples
        --------
        >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
        >>> process = ntk_numba.gaussian_process(net, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
        >>> process.gradient()["w_std"].shape
        (3,)
        """
        self._refuse_ensemble("gradients of the evidence")
        return evidence_gradient(self, objective)

    def leave_one_out(self) -> LeaveOneOut:
        """Predict the target of each training sample from all others, in closed form.

        Returns
        -------
        LeaveOneOut
            Means, residuals and log densities (N, n_out), or (N,), and variances (N,) of the
            targets with their noise (Rasmussen and Williams 2006, eq. 5.10 to 5.12).
        """
        diagonal = self.factor.inverse_diagonal()
        return leave_one_out(self.targets, self.dual_coef, diagonal, self.flat)

    def sample(self, X_new: Data, n: int = 1, seed: int = 0, *, prior: bool = False) -> Doubles:
        """Draw outputs at new samples from the posterior, or from the prior.

        Parameters
        ----------
        X_new : (M, n0)
        n : int
            The number of draws.
        seed : int
            The seed of NumPy's default generator.
        prior : bool
            Whether to draw from the prior: mean 0 and covariance K, or Σ for an ensemble.

        Returns
        -------
        (n, M, n_out) float64, or (n, M) if the targets had the shape (N,)
            Outputs without noise; those of different outputs are independent.

        Notes
        -----
        The covariance is decomposed by its eigenvalues. Those that are negative by rounding count
        as 0.

        Examples
        --------
        >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
        >>> process = ntk_numba.gaussian_process(net, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
        >>> process.sample([[0.5], [3.0]], 5).shape
        (5, 2)
        """
        number, seed = whole_number("n", n), whole_number("seed", seed, 0)
        if prior:
            new = self.training.new(X_new)
            (run,) = new.runs(32 * new.count, None, whole=True)
            mean: Doubles = np.zeros((new.count, self.targets.shape[1]))
            cov = new.themselves(run, "nngp" if self.kernel == "ensemble" else self.kernel, None)
        else:
            mean, cov = self.predict(X_new, return_cov=True)
            mean = mean[:, None] if self.flat else mean
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0))
        noise = np.random.default_rng(seed).standard_normal((number, *mean.shape))
        draws = mean + root @ noise
        return np.asarray(draws[..., 0] if self.flat else draws)

    def _more_notes(self) -> dict[str, Any]:
        return {"time": str(self.time), "absolute": self.absolute}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_posterior": None}


def gaussian_process(
    net: MLP,
    X: Data,
    y: ArrayLike,
    *,
    kernel: ProcessName = "nngp",
    noise: float | Literal["loo", "evidence"] = 1e-6,
    absolute: bool = False,
    time: float = np.inf,
    method: Method = "auto",
    tolerance: float = 1e-6,
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    gram: Any = None,
    preprocess: Preprocess = None,
    dtype: DTypeLike | None = None,
    up_to: float | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> GaussianProcess:
    """Condition a Gaussian process with the kernel of an infinitely wide network on samples.

    The outputs are a Gaussian process with mean 0 and covariance K, independent of each other, and
    the targets are outputs with noise: y = f(X) + ε, ε ~ N(0, noise).

    Parameters
    ----------
    net : MLP
    X : (N, n0), of the kinds that `ntk_numba.gram` takes
        The training samples, of which the model keeps a copy.
    y : (N,) or (N, n_out) real numbers
        The targets, used as they are: nothing is subtracted from them.
    kernel : "nngp", "ntk" or "ensemble"
        The covariance K: Σ, that of the network at random parameters (a Bayesian network of
        infinite width; Lee et al. 2018), or Θ∞. "ensemble" gives the mean and covariance of the
        outputs of wide networks from random starts, trained by gradient flow up to `time` (T8 of
        docs/training.md; Lee et al. 2019).
    noise : float, "loo" or "evidence"
        The variance of the noise, relative to the mean of the diagonal of K. Nothing else is added
        to the diagonal. Texts choose it from the targets, see `kernel_ridge`. For an ensemble it is
        a ridge of Θ: training is regularised towards the start (see `gradient_flow`), and
        "evidence" is refused.
    absolute : bool
        Whether `noise` is absolute, with the units of K.
    time : float
        Of an ensemble: t = learning rate × steps, of the loss Σ|f − y|²/2N. An infinite time needs
        a Cholesky factor, a finite one an eigendecomposition.
    method, tolerance, scratch, overwrite : see `kernel_ridge`
        If K does not fit in memory. Without a factor, by "block_krylov" or "nystrom_pcg", the
        marginal likelihood and leave-one-out predictions raise an error, and each block of new
        samples takes the iterations for its standard deviations. An ensemble at a finite time is
        computed as by `gradient_flow`, whatever the method; of a `scratch` that is a folder it uses
        a factor, which stays there.
    gram : (N, N) array, Gram, GramFile or path, optional
        The kernel of X if it is computed already; for an ensemble, a Gram or a file with both.
    preprocess, dtype, up_to, memory, threads, progress : see `kernel_ridge`

    Returns
    -------
    GaussianProcess
        With `predict`, `sample`, `leave_one_out`, `log_marginal_likelihood` and `gradient`.

    Raises
    ------
    NotPositiveDefiniteError, ValueError, TypeError, OSError
        See `kernel_ridge`.

    Examples
    --------
    >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
    >>> process = ntk_numba.gaussian_process(net, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    >>> mean, std = process.predict([[1.0], [1.5]], return_std=True)
    >>> mean.round(2)
    array([1. , 1.5])
    """
    one_of("kernel", kernel, ("nngp", "ntk", "ensemble"))
    ridge = Ridge("noise", noise, absolute)
    solving = Solving(method, tolerance, scratch, overwrite)
    options = Options(gram, preprocess, dtype, up_to, memory, threads, progress, solving)
    until = check_time(time)
    posterior: Posterior
    if kernel == "ensemble":
        done, posterior = fit_ensemble(net, X, y, ridge, until, options)
    else:
        if until != np.inf:
            raise InvalidValueError("time is of trained networks only: kernel='ensemble'")
        done, factor = fit(net, X, y, kernel, ridge, options)
        posterior = Conditioned(kernel, factor)
    return GaussianProcess(
        kernel=kernel, **done._asdict(), absolute=absolute, time=until, _posterior=posterior
    )
