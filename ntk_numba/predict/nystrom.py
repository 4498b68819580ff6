"""Ridge regression with a part of the kernel: m centres instead of all N samples.

The prediction is f(x) = K(x, C) β, where C are m of the samples, and β minimises

    |K_NC β − y|² + ridge·βᵀ K_CC β

If all samples are centres, this is kernel ridge regression. With K_CC = LLᵀ, γ = Lᵀβ and
B = K_NC L⁻ᵀ, it is the least-squares problem of [B; √ridge·I] γ ≈ [y; 0]. BBᵀ is the Nyström
approximation of K, so its singular values are well behaved where those of K_NC are not. QR
solves it, one block of rows after the other: nothing is squared.

Centres whose rows depend on those of others, but for rounding, add nothing. The Cholesky
factorisation of K_CC chooses pivots, and leaves such centres out instead of adding to the diagonal.

Sources: C. Williams, M. Seeger, *Using the Nyström method to speed up kernel machines*, 2001;
A. Rudi, L. Carratino, L. Rosasco, *FALKON: an optimal large scale kernel method*, 2017 (the same
problem and the same factor of K_CC); J. Demmel and others, *Communication-optimal parallel and
sequential QR and LU factorizations*, 2012.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.linalg import lapack
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import (
    Data,
    KernelName,
    one_of,
    parse_bytes,
    show_bytes,
    whole_number,
)
from ntk_numba.blas import blas_threads
from ntk_numba.compute.plan import find_largest_norm
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.containers import read_array
from ntk_numba.inputs.source import Source, open_source, result_dtype
from ntk_numba.linalg.factor import scaled
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.network import MLP, check_network
from ntk_numba.predict.fitting import Ridge
from ntk_numba.predict.preprocess import Preprocess, fit_preprocess
from ntk_numba.predict.targets import open_targets
from ntk_numba.predict.training import NewSamples, Training

Doubles = NDArray[np.float64]

LEAST_ROWS = 1024  # of a block, which has as many rows as there are centres, or this many


class Comparison(NamedTuple):
    """How far predictions are from those of another model.

    relative : float
        ‖f − g‖/‖g‖ of the predictions f of this model and g of the other one, over all samples and
        outputs.
    largest : float
        The largest |f − g|.
    agreement : float
        The share of samples for which the largest of several outputs is the same one; NaN for one
        output.
    """

    relative: float
    largest: float
    agreement: float


@dataclass(frozen=True, eq=False, repr=False)
class NystromRegression:
    """A regression with centres, which `nystrom_regression` returns.

    Attributes
    ----------
    training : Training
        The centres, as the samples of a model. The model keeps no other samples.
    kernel : "ntk" or "nngp"
    centres : (m,) int64
        The rows of X that are centres, in the order of the pivots of the factorisation. Those that
        depend on others are left out.
    dual_coef : (m, n_out) float64
        β.
    flat : bool
        Whether the targets were given in the shape (N,).
    count : int
        N, the number of training samples.
    ridge, relative_ridge : float
        The ridge, and its ratio to the mean of the diagonal of K.
    residual : float
        ‖y − (K + ridge·I) α‖/‖y‖, the largest of all outputs, where α has β in the rows of the
        centres and 0 elsewhere: how far the coefficients are from solving the exact system. The
        predictions of this model and the exact one on the training samples differ by no more than
        this, relative to ‖y‖ of the output.
    left_out : float
        (tr K − tr BBᵀ)/tr K, the share of the trace of K that Nyström's approximation lacks.
    """

    training: Training
    kernel: KernelName
    centres: NDArray[np.int64]
    dual_coef: Doubles
    flat: bool
    count: int
    ridge: float
    relative_ridge: float
    residual: float
    left_out: float

    @property
    def net(self) -> MLP:
        """The network."""
        return self.training.net

    def predict(
        self, X_new: Data, *, memory: int | str | None = None, threads: int | None = None
    ) -> Doubles:
        """Predict the outputs K(x, C) β of new samples.

        Parameters, results and errors are those of `KernelRidge.predict`.
        """
        new = self.training.new(X_new)
        outputs = new.outputs(self.kernel, self.dual_coef, memory, threads)
        return outputs[:, 0] if self.flat else outputs

    def error(self, X_test: Data, y_test: ArrayLike, **limits: Any) -> Doubles:
        """Return the root mean square error of predictions, (n_out,), or a scalar array.

        Parameters
        ----------
        X_test, y_test : samples and targets of the shapes of X and y
        limits : memory, threads
            See `predict`.
        """
        found = np.asarray(self.predict(X_test, **limits))
        wanted = np.asarray(read_array(y_test, "y_test"), float)
        if wanted.shape != found.shape:
            raise InvalidValueError(f"y_test must be of shape {found.shape}, not {wanted.shape}")
        return np.asarray(np.sqrt(np.mean(np.square(found - wanted), axis=0)))

    def compare(self, model: Any, X_test: Data, **limits: Any) -> Comparison:
        """Compare the predictions with those of another model, such as the exact regression.

        Parameters
        ----------
        model : KernelRidge, or any model with `predict`
        X_test : (M, n0)
        limits : memory, threads
            See `predict`.

        Returns
        -------
        Comparison

        Examples
        --------
        >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
        >>> X = numpy.random.default_rng(0).standard_normal((40, 3))
        >>> model = ntk_numba.nystrom_regression(net, X, X[:, 0], centres=40)
        >>> exact = ntk_numba.kernel_ridge(net, X, X[:, 0])
        >>> model.compare(exact, X).relative < 1e-6
        True
        """
        found = np.asarray(self.predict(X_test, **limits))
        other = np.asarray(model.predict(X_test, **limits))
        if found.shape != other.shape:
            raise InvalidValueError(
                f"the other model has outputs of shape {other.shape}, not {found.shape}"
            )
        off = found - other
        scale = float(np.linalg.norm(other))
        relative = float(np.linalg.norm(off)) / scale if scale > 0 else math.inf
        same = math.nan
        if found.ndim == 2 and found.shape[1] > 1:
            same = float(np.mean(found.argmax(axis=1) == other.argmax(axis=1)))
        return Comparison(relative, float(np.abs(off).max(initial=0.0)), same)

    def __repr__(self) -> str:
        return (
            f"<NystromRegression: {len(self.centres):,} of {self.count:,} samples as centres, "
            f"within {self.residual:.2g} of the exact outputs on them, "
            f"{100 * self.left_out:.2g} % of the trace left out>"
        )


def nystrom_regression(
    net: MLP,
    X: Data,
    y: ArrayLike,
    *,
    centres: int | ArrayLike = 1000,
    kernel: KernelName = "ntk",
    ridge: float = 1e-6,
    absolute: bool = False,
    preprocess: Preprocess = None,
    dtype: DTypeLike | None = None,
    up_to: float | None = None,
    seed: int = 0,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> NystromRegression:
    """Fit an approximate ridge regression, whose function is a sum over m centres.

    The prediction is f(x) = K(x, C) β with C of m training samples, where β minimises
    |K(X, C) β − y|² + ridge·βᵀK(C, C)β. It takes N m entries of the kernel instead of N²/2, and
    N m² operations. Exact regression is better if it can be afforded: on 4,000 images of digits
    (MNIST), 1,000 centres move predictions by 16 %, and the share of right ones from 95 % to about
    94 %.

    Parameters
    ----------
    net : MLP
    X : (N, n0), of the kinds that `ntk_numba.gram` takes
        The training samples. They are read in blocks of rows; only the centres are kept.
    y : (N,) or (N, n_out) real numbers
        The targets.
    centres : int, or (m,) integers
        The number of centres, which are drawn at random without repeats, or the rows of X that they
        are. All samples, if there are fewer than the number.
    kernel, ridge, absolute, preprocess, dtype, up_to, progress
        See `kernel_ridge`; the ridge is a number.
    seed : int
        Of the choice of the centres.
    memory : int or str such as "2GiB", optional
        The most memory to use, besides X and y; by default all that this process may still use.
    threads : int, optional
        The largest number of threads; by default all that this process may use. Results for another
        number are equal to rounding.

    Returns
    -------
    NystromRegression
        With `predict`, `error`, `compare`, and the attributes `dual_coef`, `centres`, `residual`
        and `left_out`.

    Raises
    ------
    ValueError, TypeError, OSError
        See `kernel_ridge`; also if a centre is no row of X, or occurs twice.

    Notes
    -----
    Nothing is added to K(C, C). Centres that depend on others within the rounding of `dtype` are
    left out of the sum, which changes f by rounding only.

    Examples
    --------
    >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
    >>> X = numpy.random.default_rng(0).standard_normal((500, 3))
    >>> model = ntk_numba.nystrom_regression(net, X, X[:, 0], centres=100)
    >>> model.predict(X[:2]).shape, len(model.centres)
    ((2,), 100)
    """
    one_of("kernel", kernel, ("ntk", "nngp"))
    check_network(net)
    shift = Ridge("ridge", ridge, absolute)
    if shift.chosen:
        raise InvalidValueError(f"ridge must be a number, not {ridge!r}")
    source = open_source(X, "X").check()
    targets, flat = open_targets(y, source.shape[0])
    indices = _centres(centres, source.shape[0], seed)
    fitted = fit_preprocess(preprocess, source)
    rows = _rows(source, indices)
    rows = rows if fitted is None else fitted.apply(rows)
    own = open_source(rows, "X")
    training = Training(
        net, rows, fitted, result_dtype(dtype, source), find_largest_norm(net, own, None, up_to)
    )
    samples = NewSamples(training, source)
    training = replace(training, up_to=samples.up_to)
    limit = available_memory() if memory is None else parse_bytes(memory, "memory")
    needed = _bytes(len(indices), targets.shape[1], source.shape[1])
    if needed > limit:
        raise InvalidValueError(
            f"memory={show_bytes(limit)} is too little: {len(indices):,} centres take "
            f"{show_bytes(needed)}; give more memory or fewer centres"
        )
    with blas_threads(threads_to_use(threads)):
        fit = _Fit(training, kernel, indices, threads)
        right, sizes = scaled(targets)
        with tqdm(total=source.shape[0], disable=not progress, leave=False, unit="row") as bar:
            fit.read(samples, right, shift, bar)
        return fit.model(right, sizes, flat)


def _bytes(centres: int, outputs: int, features: int) -> int:
    """Return the bytes that a fit takes."""
    block = max(LEAST_ROWS, centres)
    return 8 * (5 * centres * centres + 3 * block * (centres + outputs) + 4 * block * features)


def _centres(centres: Any, size: int, seed: int) -> NDArray[np.int64]:
    """Return the rows that are centres, in increasing order."""
    if np.ndim(centres) == 0:
        count = min(whole_number("centres", centres), size)
        rng = np.random.default_rng(whole_number("seed", seed, 0))
        return np.sort(rng.choice(size, count, replace=False)).astype(np.int64)
    given = np.asarray(centres)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given):
        raise InvalidTypeError("centres must be a number, or the numbers of rows of X")
    wrong = (given < 0) | (given >= size)
    if wrong.any():
        raise InvalidValueError(
            f"centres: X has no row {given[wrong][0]} (counted from 0), but {size} rows"
        )
    found, counts = np.unique(given, return_counts=True)
    if (counts > 1).any():
        raise InvalidValueError(f"centres: row {found[counts > 1][0]} occurs twice")
    return found.astype(np.int64)


def _rows(source: Source, indices: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return some rows of the data, by one pass over its blocks."""
    out = np.empty((len(indices), source.shape[1]), source.dtype)
    for start, stop in source.blocks():
        first, last = np.searchsorted(indices, (start, stop))
        if last > first:
            out[first:last] = source.read(start, stop)[indices[first:last] - start]
    return out


class _Fit:
    """A least-squares problem, whose rows are read one block after the other."""

    def __init__(
        self,
        training: Training,
        kernel: KernelName,
        indices: NDArray[np.int64],
        threads: int | None,
    ) -> None:
        self._kernel, self._threads = kernel, threads
        matrix = training.matrix(kernel, threads)
        epsilon = len(matrix) * float(np.finfo(matrix.dtype).eps)
        matrix = matrix.astype(float)
        least = epsilon * float(np.diagonal(matrix).max())
        factor, pivots, rank, _ = lapack.dpstrf(matrix, lower=1, tol=least)
        if rank == 0:
            raise InvalidValueError("the kernel of the centres is 0, so that it explains nothing")
        self._kept = chosen = pivots[:rank] - 1
        self._lower = np.tril(factor[:rank, :rank])
        self._own = matrix[np.ix_(chosen, chosen)]
        self._indices = indices[chosen]
        self._training = replace(training, samples=training.samples[chosen])
        self._ridge = self._relative = self._trace = self._explained = 0.0

    def read(self, samples: NewSamples, targets: Doubles, ridge: Ridge, bar: Any) -> None:
        """Read all samples, and reduce their rows of the problem to a triangle."""
        size, count = samples.count, len(self._kept)
        block = max(LEAST_ROWS, count)
        triangle = np.zeros((0, count + targets.shape[1]))
        own = np.empty(size)
        for start in range(0, size, block):
            stopping.check()
            run = slice(start, min(start + block, size))
            cross = samples.cross(run, (self._kernel,), self._threads)[self._kernel][:, self._kept]
            own[run] = samples.diagonal(run, self._kernel)
            half = scipy.linalg.solve_triangular(self._lower, cross.T, lower=True).T
            self._explained += float(np.square(half).sum())
            rows = np.concatenate([triangle, np.hstack([half, targets[run]])])
            triangle = scipy.linalg.qr(rows, mode="r", overwrite_a=True, check_finite=False)[0]
            triangle = triangle[: min(len(rows), rows.shape[1])]
            bar.update(run.stop - run.start)
        self._trace = float(own.sum())
        mean = self._trace / size
        self._ridge = ridge.of(mean)
        self._relative = self._ridge / mean if mean > 0 else math.inf
        shift = np.zeros((count, triangle.shape[1]))
        np.fill_diagonal(shift, math.sqrt(self._ridge))
        rows = np.concatenate([triangle, shift])
        self._whole = triangle
        self._triangle = scipy.linalg.qr(rows, mode="r", check_finite=False)[0]

    def model(self, targets: Doubles, sizes: Doubles, flat: bool) -> NystromRegression:
        """Return the model that solves the problem; sizes : the units of the targets."""
        count = len(self._kept)
        upper, right = self._triangle[:count, :count], self._triangle[:count, count:]
        if not np.abs(np.diagonal(upper)).min() > 0:
            raise InvalidValueError("the problem is singular; give a positive ridge")
        half = scipy.linalg.solve_triangular(upper, right)
        weights = scipy.linalg.solve_triangular(self._lower, half, lower=True, trans=1)
        return NystromRegression(
            training=self._training,
            kernel=self._kernel,
            centres=self._indices,
            dual_coef=np.ascontiguousarray(weights * sizes),
            flat=flat,
            count=len(targets),
            ridge=self._ridge,
            relative_ridge=self._relative,
            residual=self._residual(targets, half, weights),
            left_out=max(0.0, 1 - self._explained / self._trace) if self._trace > 0 else 0.0,
        )

    def _residual(self, targets: Doubles, half: Doubles, weights: Doubles) -> float:
        """Return ‖y − (K + ridge·I) α‖/‖y‖ for α with the weights in the rows of the centres."""
        count = len(self._kept)
        # |y − Bγ| from the triangle of [B, y], and the rows of the centres, where it is changed
        off = np.square(self._whole[:, count:] - self._whole[:, :count] @ half).sum(axis=0)
        inner = targets[self._indices] - self._own @ weights
        changed = inner - self._ridge * weights
        off += np.square(changed).sum(axis=0) - np.square(inner).sum(axis=0)
        lengths = np.linalg.norm(targets, axis=0)
        lengths[lengths == 0] = 1
        return float((np.sqrt(np.maximum(off, 0.0)) / lengths).max())
