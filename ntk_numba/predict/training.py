"""The training samples of a model, and the kernels between them and new samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba.arguments import KernelName, parse_bytes, show_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.compute.memory import diagonal, gram
from ntk_numba.compute.plan import find_largest_norm
from ntk_numba.compute.verify import verify_sample
from ntk_numba.engine.fitted import needs_largest_norm
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.inputs.source import Source, open_source, result_dtype
from ntk_numba.machine import available_memory, threads_to_use
from ntk_numba.network import MLP, check_network
from ntk_numba.predict.preprocess import Standardize, fit_preprocess

Floats = NDArray[np.floating]

SAMPLE = 16  # rows of a given matrix that are computed again
# How far these may differ, relative to √(K(x,x)·K(x',x')): matrices of other programs are accepted
SAME = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-4}
MOST_BYTES = 256 << 20  # of the kernels of a block of new samples; larger blocks are no faster
# The same where each block takes passes over the matrix of the training samples
MOST_OF_PASSES = 2 << 30


@dataclass(frozen=True, eq=False)
class Training:
    """The samples that a model was trained on, and how its kernels are computed.

    Attributes
    ----------
    net : MLP
    samples : (N, n0) float32 or float64
        A copy of the samples, after `preprocess`.
    preprocess : Standardize or None
        What is done to new samples too.
    dtype : float32 or float64
        The dtype of the kernels.
    up_to : float or None
        The norm up to which activations are fitted (see `ntk_numba.gram`); None if none needs it.
    """

    net: MLP
    samples: Floats
    preprocess: Standardize | None
    dtype: np.dtype
    up_to: float | None

    @property
    def count(self) -> int:
        """N, the number of training samples."""
        return len(self.samples)

    def matrix(self, kernel: KernelName, threads: int | None = None) -> Floats:
        """Return a kernel of the training samples, a new (N, N) array."""
        return self.matrices((kernel,), threads)[kernel]

    def matrices(
        self, kernels: tuple[KernelName, ...], threads: int | None = None
    ) -> dict[KernelName, Floats]:
        """Return kernels of the training samples, new (N, N) arrays, from one pass."""
        return self.between(self.samples, None, kernels, threads, self.up_to)

    def new(self, X_new: Any, name: str = "X_new") -> "NewSamples":
        """Return new samples, after `preprocess`.

        Raises
        ------
        ValueError, TypeError, OSError
            If they cannot be read, are not finite, or have another number of features.
        """
        source = open_source(X_new, name)
        features = self.samples.shape[1]
        if source.shape[1] != features:
            raise InvalidValueError(
                f"{source.name} has {source.shape[1]} features, and the model was trained with "
                f"{features}"
            )
        return NewSamples(self, source.check())

    def between(
        self,
        left: Any,
        right: Floats | None,
        kernels: tuple[KernelName, ...],
        threads: int | None,
        up_to: float | None,
    ) -> dict[KernelName, Floats]:
        """Return kernels between samples, or of samples with themselves if `right` is None."""
        found = gram(
            self.net, left, right, kernels=kernels, dtype=self.dtype, threads=threads, up_to=up_to
        )
        return {name: getattr(found, name) for name in kernels}


class NewSamples:
    """New samples of a model, and their kernels with its training samples and each other.

    Attributes
    ----------
    count : int
        M, the number of samples.
    up_to : float or None
        The norm that activations are fitted to: that of the training, or that of a longer row.
    """

    def __init__(self, training: Training, source: Source) -> None:
        self._training, self._source = training, source
        self.count = source.shape[0]
        self.up_to = training.up_to
        if needs_largest_norm(training.net) and training.up_to is not None:
            if training.preprocess is None:
                longest = source.survey().largest_norm
            else:
                longest = max(
                    self._rows(slice(*run)).survey().largest_norm for run in source.blocks()
                )
            self.up_to = max(training.up_to, longest)

    def _rows(self, run: slice) -> Any:
        """Return some of the samples, after the preprocessing, as a Source that names them."""
        source, preprocess = self._source, self._training.preprocess
        rows = source.read(run.start, run.stop)
        whole = run.stop - run.start == self.count
        name = source.name if whole else f"{source.name}[{run.start}:{run.stop}]"
        return open_source(rows if preprocess is None else preprocess.apply(rows), name)

    def runs(
        self,
        row_bytes: int,
        memory: int | str | None,
        *,
        whole: bool = False,
        most: int = MOST_BYTES,
    ) -> Iterator[slice]:
        """Split the samples into runs whose kernels fit in memory.

        Parameters
        ----------
        row_bytes : bytes that the job takes for each sample
        memory : the most bytes that it may take; by default all that are available
        whole : whether one run has to have all samples
        most : bytes of a run, even if more are available

        Raises
        ------
        ValueError
            If the memory does not suffice for one sample, or for all if `whole`.
        """
        samples = self._training.samples
        # the engine copies the samples of a call, and makes tiles and tables of their own
        fixed = 2 * samples.nbytes + (16 << 20)
        each = row_bytes + 3 * samples.shape[1] * 8
        limit = available_memory() if memory is None else parse_bytes(memory, "memory")
        room = (limit - fixed) // each
        least = self.count if whole else 1
        if room < least:
            raise InvalidValueError(
                f"memory={show_bytes(limit)} is too little: {least} new sample"
                f"{'s take' if least > 1 else ' takes'} {show_bytes(fixed + least * each)} with "
                f"{self._training.count:,} training samples"
            )
        room = self.count if whole else min(room, max(1, most // each))
        for start in range(0, self.count, room):
            yield slice(start, min(start + room, self.count))

    def cross(
        self, run: slice, kernels: tuple[KernelName, ...], threads: int | None
    ) -> dict[KernelName, NDArray[np.float64]]:
        """Return kernels between some new samples and the training samples, (m, N) float64."""
        training = self._training
        found = training.between(self._rows(run), training.samples, kernels, threads, self.up_to)
        return {name: k.astype(float, copy=False) for name, k in found.items()}

    def outputs(
        self,
        kernel: KernelName,
        weights: NDArray[np.float64],
        memory: int | str | None,
        threads: int | None,
    ) -> NDArray[np.float64]:
        """Return K(x, X) @ weights for all new samples, computed in blocks that fit in memory."""
        found = np.empty((self.count, weights.shape[1]))
        for run in self.runs(16 * self._training.count, memory):
            cross = self.cross(run, (kernel,), threads)[kernel]
            with blas_threads(threads_to_use(threads)):
                found[run] = cross @ weights
        return found

    def themselves(
        self, run: slice, kernel: KernelName, threads: int | None
    ) -> NDArray[np.float64]:
        """Return a kernel of some new samples with each other, in float64."""
        found = self._training.between(self._rows(run), None, (kernel,), threads, self.up_to)
        return found[kernel].astype(float, copy=False)

    def diagonal(self, run: slice, kernel: KernelName) -> NDArray[np.float64]:
        """Return K(x, x) of some new samples."""
        training = self._training
        found = diagonal(
            training.net,
            self._rows(run),
            kernels=kernel,
            dtype=training.dtype,
            up_to=self.up_to,
        )
        return np.asarray(getattr(found, kernel), float)


def open_training(
    net: MLP,
    X: Any,
    *,
    preprocess: Any = None,
    dtype: DTypeLike | None = None,
    up_to: float | None = None,
) -> Training:
    """Read the training samples of a model.

    Parameters
    ----------
    net, X, dtype, up_to : see `ntk_numba.gram`
    preprocess : None, "standardize" or Standardize

    Raises
    ------
    ValueError, TypeError, OSError
        See `ntk_numba.gram`.
    """
    check_network(net)
    source = open_source(X, "X").check()
    real = result_dtype(dtype, source)
    fitted = fit_preprocess(preprocess, source)
    samples = np.empty(source.shape, source.dtype)
    for start, stop in source.blocks():
        rows = source.read(start, stop)
        samples[start:stop] = rows if fitted is None else fitted.apply(rows)
    inner = open_source(samples, "X")
    return Training(net, samples, fitted, real, find_largest_norm(net, inner, None, up_to))


def refuse_other_data(training: Training, gram: Any, matrix: Floats, kernel: KernelName) -> None:
    """Raise an error if a matrix is not the kernel of the training samples.

    A Gram file states the digest of its data, so that any change of a sample is found. Of other
    matrices, the entries of 16 evenly spaced samples are computed again.

    Parameters
    ----------
    gram : what the caller gave, of which `matrix` was read
    """
    size = matrix.shape[-1]  # a file may have several layers
    if size != training.count:
        raise InvalidValueError(
            f"gram is of {size} samples and X has {training.count}; give the matrix of X"
        )
    if isinstance(gram, GramFile):
        if gram.net != training.net:
            raise InvalidValueError(f"gram is of another network, {gram.net}, not {training.net}")
        if report := verify_sample(gram, training.samples):
            return
        raise InvalidValueError(f"gram is not that of X: {'; '.join(report.problems)}")
    rows = np.unique(np.linspace(0, size - 1, SAMPLE).astype(int))
    wanted = training.between(training.samples[rows], None, (kernel,), None, training.up_to)[kernel]
    found = matrix[np.ix_(rows, rows)]
    scale = np.sqrt(np.diagonal(wanted).astype(float))
    wrong = np.abs(found - wanted) > SAME[matrix.dtype] * scale[:, None] * scale
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        raise InvalidValueError(
            f"gram is not that of net and X: row {rows[i]}, column {rows[j]} (counted from 0) is "
            f"{found[i, j]:.8g}, and the {kernel} of these samples is {wanted[i, j]:.8g}"
        )
