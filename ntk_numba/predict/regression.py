"""Ridge regression with the kernel of an infinitely wide network."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ntk_numba.arguments import Data, KernelName, one_of
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.factors.factor import LeaveOneOut, leave_one_out
from ntk_numba.network import MLP
from ntk_numba.predict.factors import factorise_again
from ntk_numba.predict.fitting import Options, Ridge, fit
from ntk_numba.predict.large import Solving, System
from ntk_numba.predict.preprocess import Preprocess
from ntk_numba.predict.saving import Saved
from ntk_numba.solvers.choice import Method


@dataclass(eq=False, repr=False)
class KernelRidge(Saved):
    """A fitted ridge regression, which `kernel_ridge` returns.

    Attributes
    ----------
    training : Training
        The training samples.
    kernel : "ntk" or "nngp"
    targets : (N, n_out) float64
    flat : bool
        Whether the targets were given in the shape (N,).
    ridge, relative_ridge : float
        The number that was added to the diagonal, and its ratio to the mean of the diagonal.
    dual_coef : (N, n_out) float64
        α = (K + ridge·I)⁻¹ y.
    residual : float
        ‖y − (K + ridge·I) α‖/‖y‖, the largest of all outputs.
    choice : RidgeChoice or None
        How the ridge was chosen, if it was not given as a number.
    """

    kind = "kernel_ridge"
    ridge_name = "ridge"

    kernel: KernelName
    _factor: Cholesky | System | None = None

    @property
    def factor(self) -> Cholesky | System:
        """The factor of K + ridge·I; computed again if the model was unpickled or loaded.

        Where the matrix does not fit in memory, or the model was solved by iterations, it is the
        system of equations, with the same methods.
        """
        if self._factor is None:
            self._factor = factorise_again(self)
        return self._factor

    def predict(
        self, X_new: Data, *, memory: int | str | None = None, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Predict the outputs f(x) = K(x, X) α of new samples.

        Parameters
        ----------
        X_new : (M, n0), of the kinds that `ntk_numba.gram` takes
        memory : int or str such as "2GiB", optional
            The most memory that the prediction may take, besides X_new and the result; by default
            all that this process may still use. The kernels are computed in blocks of rows.
        threads : int, optional
            The largest number of threads; by default all that this process may use.

        Returns
        -------
        (M, n_out) float64, or (M,) if the targets had the shape (N,)

        Raises
        ------
        ValueError, TypeError, OSError
            If X_new has another number of features than the training samples, is not finite, or
            cannot be read; or if the memory does not suffice for one row.
        """
        new = self.training.new(X_new)
        outputs = new.outputs(self.kernel, self.dual_coef, memory, threads)
        return outputs[:, 0] if self.flat else outputs

    def leave_one_out(self) -> LeaveOneOut:
        """Predict the target of each training sample from all others, with the same ridge.

        The predictions equal those of N fits to N − 1 samples each, with the same absolute ridge.
        The residual of sample i is α_i/(A⁻¹)_ii with A = K + ridge·I. It takes as long as another
        factorisation.

        Returns
        -------
        LeaveOneOut
            `mean` and `residual` (N, n_out), or (N,); `variance` and `log_density` are those of the
            Gaussian process with covariance K and noise variance `ridge`.

        Examples
        --------
        >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
        >>> model = ntk_numba.kernel_ridge(net, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
        >>> model.leave_one_out().residual.round(2)
        array([-0.05,  0.03,  0.05])
        """
        diagonal = self.factor.inverse_diagonal()
        return leave_one_out(self.targets, self.dual_coef, diagonal, self.flat)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_factor": None}


def kernel_ridge(
    net: MLP,
    X: Data,
    y: ArrayLike,
    *,
    kernel: KernelName = "ntk",
    ridge: float | Literal["loo", "evidence"] = 1e-6,
    absolute: bool = False,
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
) -> KernelRidge:
    """Fit a ridge regression with the kernel of an infinitely wide network.

    The prediction for x is f(x) = K(x, X) α, where the coefficients solve

        (K + ridge·I) α = y

    With kernel="ntk" and without a ridge, it is the mean of infinitely wide networks after training
    to the end (docs/training.md, T8); with kernel="nngp", that of Bayesian ones.

    Parameters
    ----------
    net : MLP
    X : (N, n0), of the kinds that `ntk_numba.gram` takes
        The training samples, of which the model keeps a copy.
    y : (N,) or (N, n_out) real numbers
        The targets. They are used as they are: nothing is subtracted from them, so subtract the
        mean if it is far from 0 compared with their spread. For classes, see `one_hot`.
    kernel : "ntk" or "nngp"
        The kernel K: Θ∞ or Σ.
    ridge : float, "loo" or "evidence"
        A number ≥ 0, relative to the mean of the diagonal of K. Nothing else is added to the
        diagonal. "loo" chooses the ridge with the least mean squared leave-one-out residual, and
        "evidence" the one with the largest marginal likelihood (see `RidgeChoice`), from one
        eigendecomposition, which takes about 30 times as long as the factorisation. If the
        targets have no noise, the best ridge may be the least that rounding errors allow; a
        `RidgeWarning` is given if it is the largest that was tried.
    absolute : bool
        Whether `ridge` is absolute, with the units of K.
    method : "auto", "cholesky", "block_krylov" or "nystrom_pcg"
        "auto" and "cholesky" factorise K + ridge·I in memory if it fits there. If it does not,
        "cholesky" writes the factor to a file, and the others find α by products with K, without
        storing it, see `ntk_numba.solve`; "auto" takes what it expects to be faster. The samples
        have to fit in memory in any case.
    tolerance : float
        The relative residual that iterations are to reach; `residual` is the true one. A factor has
        residuals of about 1e-10 or less.
    scratch : path, optional
        If the matrix does not fit in memory: the file of the factor, of N²/2 numbers, or of the
        checkpoint of the iterations; or a folder for it. It stays, and the same call goes on from
        it, in this process or another. By default it is in a temporary folder, which is removed
        with the model.
    overwrite : bool
        Whether to replace a file at `scratch` that belongs to another fit.
    gram : (N, N) array, Gram, GramFile or path, optional
        The kernel of X, if it is computed already; it is compared with X, and not changed.
    preprocess : None or "standardize"
        "standardize" subtracts the mean of each feature of X and divides by its standard deviation,
        also for the samples of `predict`. A feature that is constant in X is not divided.
    dtype : float64 or float32, optional
        The dtype of K and its factor; by default float64, unless X is float32. The coefficients are
        refined with residuals in float64 in either case.
    up_to : float, optional
        See `ntk_numba.gram`; by default the norm of the longest training sample. Longer samples can
        be predicted; activations are then fitted to them, within the error that `Gram.error`
        states.
    memory : int or str such as "2GiB", optional
        The most memory that the matrices may take; by default all that this process may still use.
        If they do not fit, see `method`.
    threads : int, optional
        The largest number of threads; by default all that this process may use. Results for another
        number are equal to rounding.
    progress : bool
        Whether to show a progress bar on standard error.

    Returns
    -------
    KernelRidge
        With `predict`, `leave_one_out`, and the attributes `dual_coef`, `ridge`, `residual`.

    Raises
    ------
    NotPositiveDefiniteError
        A ValueError: K + ridge·I is not positive definite in its dtype. The message names the row
        at which the factorisation fails, samples that are equal, and a ridge that is large enough.
    ValueError
        If y has another length than X or is not finite (the message names the row), if `gram` is
        not the kernel of X, or an argument is out of range; if the matrix does not fit in memory
        and the ridge is to be chosen.
    NotConvergedError, StoppedError
        See `ntk_numba.solve`.
    TypeError, OSError
        See `ntk_numba.gram`.

    Notes
    -----
    The factor takes the memory of one matrix, N² numbers, as long as the model lives. A pickled
    model has the samples and coefficients, and not the factor.

    A model that was found by iterations has no factor: standard deviations take the iterations for
    each block of new samples, and leave-one-out predictions raise an error.

    Examples
    --------
    >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
    >>> model = ntk_numba.kernel_ridge(net, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0], ridge=1e-9)
    >>> model.predict([[1.0], [1.5]]).round(3)
    array([1. , 1.5])
    """
    one_of("kernel", kernel, ("ntk", "nngp"))
    solving = Solving(method, tolerance, scratch, overwrite)
    options = Options(gram, preprocess, dtype, up_to, memory, threads, progress, solving)
    done, factor = fit(net, X, y, kernel, Ridge("ridge", ridge, absolute), options)
    return KernelRidge(kernel=kernel, **done._asdict(), _factor=factor)
