"""The leading eigenvalues of a kernel matrix of any size, and estimates from its whole spectrum."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from ntk_numba.arguments import (
    KernelName,
    not_negative,
    number_between,
    parse_bytes,
    whole_number,
)
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.operators.matrix import read_columns
from ntk_numba.operators.operator import GramOperator, as_operator
from ntk_numba.solvers.leading import Leading, Scaled, eigenpairs
from ntk_numba.solvers.spectral_sums import Estimate, SpectralSums

Doubles = NDArray[np.float64]

DENSE = 2048  # rows of a matrix, at most, all of whose eigenvalues are computed
WORKING = 48  # bytes that this takes for each entry
EXTRA = 20  # random columns by default, besides one for each eigenvalue: they save passes
FEWEST = 12  # random columns, so that their standard error means something
PASSES = 100  # at most, by default


class Condition(NamedTuple):
    """What is known of the condition number of K + ridge·I.

    least : float
        (λ_max + ridge)/(θ + ridge), where θ is the least eigenvalue of K on a subspace, which is
        not less than λ_min. So the condition number is at least this, but for rounding; it is
        equal to it if all eigenvalues were computed.
    largest : float
        A bound from above, (λ_max + ridge)/ridge: a kernel has no negative eigenvalues. It is
        infinite without a ridge, and equal to `least` if all eigenvalues were computed.
    """

    least: float
    largest: float


class Alignment(NamedTuple):
    """How targets are distributed over the leading eigenvectors.

    share : (k,), or (k, n_out) for targets (N, n_out)
        (vᵢ·y)²/|y|², the share of |y|² along each eigenvector; 0 for a column of zeros.
    cumulative : of the same shape
        The share along an eigenvector and all before it.
    total : (k,)
        The same as `cumulative`, for the sum of |y|² over all columns.
    """

    share: Doubles
    cumulative: Doubles
    total: Doubles


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """What `spectrum` has found of a kernel matrix K.

    Attributes
    ----------
    values : (k,) float64
        The largest eigenvalues, falling.
    vectors : (N, k) float64
        Their eigenvectors, in columns.
    residuals : (k,) float64
        ‖K v − λ v‖, from a product with K. An eigenvalue of K is within it of λ.
    trace : float
        The trace of K, from its diagonal.
    passes : int
        The number of products with K that it took.
    exact : bool
        Whether all eigenvalues were computed, so that the estimates have no error but rounding.
    all_values : (N,) float64 or None
        All eigenvalues, falling, if `exact`.
    """

    values: Doubles
    vectors: Doubles
    residuals: Doubles
    trace: float
    passes: int
    all_values: Doubles | None
    _sums: SpectralSums | None = None
    _unit: float = 1.0

    @property
    def exact(self) -> bool:
        return self.all_values is not None

    @property
    def size(self) -> int:
        """N."""
        return len(self.vectors)

    def effective_dimension(self, ridge: float) -> Estimate:
        """Estimate tr K (K + ridge·I)⁻¹, the number of directions that a ridge leaves free.

        Parameters
        ----------
        ridge : float
            A number > 0, absolute: it has the units of K.

        Returns
        -------
        Estimate
            `value` and its standard error, `error`.
        """
        shift = number_between("ridge", ridge, 0, math.inf)

        def function(values: Doubles) -> Doubles:
            positive = np.maximum(values, 0.0)
            return positive / (positive + shift)

        return self._sum(function)

    def log_det(self, ridge: float) -> Estimate:
        """Estimate log det(K + ridge·I).

        It is exact from a Cholesky factor (`Cholesky.log_det`); this needs none.

        Parameters
        ----------
        ridge : float
            A number ≥ 0, absolute: it has the units of K.

        Returns
        -------
        Estimate
            `value` and its standard error, `error`.

        Raises
        ------
        ValueError
            If K + ridge·I has an eigenvalue that is not positive.
        """
        shift = not_negative("ridge", ridge)
        least = self._least + shift
        if not least > 0:
            raise InvalidValueError(
                f"K + {shift:g}·I is not positive definite: it has an eigenvalue of at most "
                f"{least:.3g}, so that its determinant has no logarithm; give a larger ridge"
            )
        return self._sum(lambda values: np.log(values + shift))

    def condition(self, ridge: float = 0.0) -> Condition:
        """Bound the condition number (λ_max + ridge)/(λ_min + ridge) of K + ridge·I.

        Parameters
        ----------
        ridge : float
            A number ≥ 0, absolute: it has the units of K.

        Returns
        -------
        Condition
            `least` and `largest`; both are infinite if an eigenvalue is not positive.
        """
        shift = not_negative("ridge", ridge)
        above, below = float(self.values[0]) + shift, self._least + shift
        least = above / below if below > 0 else math.inf
        if self.exact or not least < math.inf:
            return Condition(least, least)
        return Condition(least, above / shift if shift > 0 else math.inf)

    def alignment(self, Y: ArrayLike) -> Alignment:
        """Return the shares of targets along the leading eigenvectors.

        Parameters
        ----------
        Y : (N,) or (N, n_out)

        Returns
        -------
        Alignment
        """
        columns, flat = read_columns(Y, self.size, "the matrix")
        targets = columns[:, 0] if flat else columns
        largest = np.abs(targets).max(axis=0, initial=0.0)
        if not np.any(largest > 0):
            raise InvalidValueError("Y is 0, which is along no eigenvector")
        unit = targets / np.where(largest > 0, largest, 1.0)  # so that no square overflows
        with blas_threads(1):
            power = np.square(unit).sum(axis=0)
            share = np.square(self.vectors.T @ unit) / np.where(largest > 0, power, 1.0)
        cumulative = np.cumsum(share, axis=0)
        weights = np.atleast_1d(power * np.square(largest / largest.max()))
        total = cumulative.reshape(len(share), -1) @ (weights / weights.sum())
        return Alignment(share, cumulative, total)

    @property
    def _least(self) -> float:
        """The least eigenvalue that is known: of K, or of K on a subspace."""
        if self.all_values is not None:
            return float(self.all_values[-1])
        assert self._sums is not None
        return self._sums.least * self._unit

    def _sum(self, function: Any) -> Estimate:
        """Return tr f(K)."""
        if self.all_values is not None:
            return Estimate(float(function(self.all_values).sum()), 0.0)
        assert self._sums is not None
        return self._sums.of(lambda values: function(values * self._unit))

    def __repr__(self) -> str:
        how = "all computed" if self.exact else f"{self.passes} passes"
        return f"<Spectrum: {len(self.values)} of {self.size:,} eigenvalues, {how}>"


def spectrum(
    gram: Any,
    k: int = 20,
    *,
    kernel: KernelName | None = None,
    tolerance: float = 1e-4,
    probes: int | None = None,
    max_passes: int = PASSES,
    seed: int = 0,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Spectrum:
    """Compute the leading eigenvalues and eigenvectors of a kernel matrix, stored or not.

    The matrix is only multiplied by columns, all of them in one pass: a block Krylov space of
    random columns grows until the residuals are small enough. The same products estimate sums over
    all eigenvalues: the effective dimension and the logarithm of the determinant, for any ridge.
    All eigenvalues of a matrix of at most 2,048 rows are computed, if the memory suffices.

    Parameters
    ----------
    gram : (N, N) array, Gram, GramFile, path of a Gram file, or operator
        K. An operator is what `kernel_operator` or `GramFile.operator` returns, or a symmetric
        `scipy.sparse.linalg.LinearOperator`.
    k : int
        The number of eigenvalues; all if there are fewer.
    kernel : "nngp" or "ntk"
        The kernel to take, if `gram` has both.
    tolerance : float
        The largest residual ‖K v − λ v‖ of an eigenpair, relative to its λ. The error of an
        eigenvalue is about the square of it, relative to the gap to the next one.
    probes : int, optional
        The number of random columns, at least k and 12; by default k + 20. More of them take fewer
        passes and more memory, and reduce the error of the estimates by their square root.
    max_passes : int
        The largest number of passes.
    seed : int
        Of the random columns.
    memory : int or str such as "2GiB", optional
        The most memory that the vectors may take; by default half of all that this process may
        still use.
    threads : int, optional
        The largest number of threads; by default all that this process may use. The bits of the
        result do not depend on it.
    progress : bool
        Whether to show a progress bar on standard error.

    Returns
    -------
    Spectrum
        With `values`, `vectors`, `residuals`, `trace`, and the methods `effective_dimension`,
        `log_det`, `condition` and `alignment`.

    Raises
    ------
    ValueError
        If the matrix is not square and symmetric, an argument is out of range, or the memory is
        too little.
    NotConvergedError
        A ValueError: the residuals are larger than the tolerance after `max_passes`.
    TypeError, OSError
        If an argument has the wrong type, or a file cannot be read.

    Notes
    -----
    If the memory is less than the space takes, it is restarted from its best vectors. The estimates
    then are those of the space before, and have a larger error. Sources: see
    `ntk_numba.solvers.leading` and `ntk_numba.solvers.spectral_sums`.

    Examples
    --------
    >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
    >>> X = numpy.random.default_rng(0).standard_normal((50, 8))
    >>> found = ntk_numba.spectrum(ntk_numba.gram(net, X).ntk, k=3)
    >>> found.values.shape, found.vectors.shape
    ((3,), (50, 3))
    >>> found.effective_dimension(found.trace / 50).error
    0.0
    """
    count = whole_number("k", k)
    goal = number_between("tolerance", tolerance, 0, 1)
    wide = count + EXTRA if probes is None else whole_number("probes", probes, max(count, FEWEST))
    most = whole_number("max_passes", max_passes)
    rng = np.random.default_rng(whole_number("seed", seed, 0))
    room = available_memory() // 2 if memory is None else parse_bytes(memory, "memory")
    operator = as_operator(gram, kernel, memory=memory, threads=threads)
    try:
        size, diagonal = _order(operator), operator.diag()
        scaled = Scaled(operator, diagonal)
        if size <= 3 * wide or (size <= DENSE and WORKING * size * size <= room):
            return _dense(operator, scaled.unit, min(count, size))
        start = rng.choice(np.array([-1.0, 1.0]), (size, wide))
        with (
            blas_threads(threads_to_use(threads)),  # which searches for BLAS when it is opened
            tqdm(disable=not progress, unit="pass", leave=False) as bar,
        ):

            def report(off: float) -> None:
                bar.update()
                bar.set_postfix_str(f"residual {off * goal:.1e} of {goal:.0e}")

            leading = Leading(scaled, start, room, threads, report)
            ritz = leading.converge(count, goal, most)
            vectors = leading.space.combine(np.ascontiguousarray(ritz.vectors[:, :count]))
            off = scaled @ vectors - vectors * ritz.values[:count]
        unit, trace = scaled.unit, math.fsum(diagonal / scaled.unit)
        assert leading.first is not None
        return Spectrum(
            ritz.values[:count] * unit,
            vectors,
            np.linalg.norm(off, axis=0) * unit,
            trace * unit,
            leading.passes + 1,
            None,
            SpectralSums(leading.first, goal, size, trace),
            unit,
        )
    finally:
        if operator is not gram:
            operator.close()


def largest_eigenvalue_of(
    operator: GramOperator, memory: int | str | None = None, threads: int | None = None
) -> float:
    """Return the largest eigenvalue of a symmetric operator, to about 1e-10 of it; at least 0."""
    size, scaled = _order(operator), Scaled(operator, operator.diag())
    room = available_memory() // 2 if memory is None else parse_bytes(memory, "memory")
    if size <= DENSE and WORKING * size * size <= room:
        return max(float(_dense(operator, scaled.unit, 1).values[0]), 0.0)
    start: Doubles = np.random.default_rng(0).standard_normal((size, FEWEST))
    with blas_threads(threads_to_use(threads)):
        ritz = Leading(scaled, start, room, threads, lambda _: None).converge(1, 1e-6, PASSES)
    return scaled.unit * max(float(ritz.values[0]), 0.0)


def _order(operator: GramOperator) -> int:
    """Return N, if the operator is symmetric."""
    rows, columns = operator.shape
    if rows != columns or not operator.symmetric:
        raise InvalidValueError(
            f"gram must be the kernel of one data set with itself, not of {rows} and {columns} "
            f"samples"
        )
    return int(rows)


def _dense(operator: GramOperator, unit: float, count: int) -> Spectrum:
    """Return the spectrum of a matrix from all of its eigenvalues."""
    matrix = operator.columns(np.arange(operator.shape[0])) / unit
    matrix = (matrix + matrix.T) / 2
    values, vectors = eigenpairs(matrix)
    vectors = np.ascontiguousarray(vectors[:, :count])
    with blas_threads(1):
        off = matrix @ vectors - vectors * values[:count]
    every, residuals = values * unit, np.linalg.norm(off, axis=0) * unit
    trace = math.fsum(np.diagonal(matrix)) * unit
    return Spectrum(every[:count], vectors, residuals, trace, 1, every)
