"""What is kept of a fitted model in its file, and its way there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.factors.factor import GOAL
from ntk_numba.gramfile.whole import check_output
from ntk_numba.inputs.paths import split
from ntk_numba.inputs.source import Source, open_source
from ntk_numba.network import MLP
from ntk_numba.predict.model_file import Values, rows_of, write_model
from ntk_numba.predict.training import Training
from ntk_numba.solvers.eigenbasis import RidgeChoice

LABELS = "Ubiuf"  # the kinds of dtypes of class labels that a file keeps


@dataclass(eq=False, repr=False)
class Saved:
    """A fitted model that can be saved; `KernelRidge` and `GaussianProcess` are such models.

    Attributes
    ----------
    training, targets, flat, ridge, relative_ridge, dual_coef, residual, choice
        See `KernelRidge`.
    kind : str
        What files call such a model.
    ridge_name : "ridge" or "noise"
        What such a model calls its ridge.
    classes : (n_out,) array or None
        The class of each output, if the targets are those of `one_hot`: set it, so that the file
        of the model has it.
    reference : str or None
        The data file that has the training samples, if the model was read from a file without them.
    target_names : list of str or None
        The name of each output, or of the column that has the classes, if there is one.
    method : "cholesky", "block_krylov" or "nystrom_pcg"
        How the coefficients were found, and how further systems are solved.
    tolerance : float
        The relative residual that iterations were to reach.
    """

    kind: ClassVar[str]
    ridge_name: ClassVar[Literal["ridge", "noise"]]

    training: Training
    kernel: Any
    targets: NDArray[np.float64]
    flat: bool
    ridge: float
    relative_ridge: float
    dual_coef: NDArray[np.float64]
    residual: float
    choice: RidgeChoice | None = None
    classes: NDArray[Any] | None = None
    reference: str | None = None
    target_names: list[str] | None = None
    method: str = "cholesky"
    tolerance: float = GOAL

    @property
    def net(self) -> MLP:
        """The network."""
        return self.training.net

    def __repr__(self) -> str:
        count, outputs = self.targets.shape
        return (
            f"<{type(self).__name__}: {self.kernel} of {self.net}, {count:,} samples, {outputs} "
            f"output{'s' if outputs != 1 else ''}, {self.ridge_name} {self.ridge:.3g} "
            f"({self.relative_ridge:.3g} of the mean diagonal)>"
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        reference: str | os.PathLike[str] | None = None,
    ) -> None:
        """Write the model to a file, which `load_model` reads.

        The file has the network, the ridge, the coefficients, the targets, the map of the
        preprocessing and the training samples, which are needed for every prediction. It is an
        HDF5 file with a checksum of all of its bytes, of 8·N·(n0 + 2·n_out) bytes in float64. The
        factor of the kernel matrix, N² numbers, is not kept: what needs it, such as standard
        deviations, computes it again. The file appears under its name when it is complete; after
        an error, a full disk or a kill, there is no file, or still the old one.

        Parameters
        ----------
        path : str or path
            The file, usually with the ending ``.h5``.
        overwrite : bool
            Whether to replace an existing file.
        reference : str or path, optional
            The data file that the training samples are in, as for `ntk_numba.gram`. The model file
            then has its path and its digest instead of the samples, and `load_model` reads the
            samples from there, if they are still the same.

        Raises
        ------
        OSError
            The folder is missing or cannot be written, the file exists, the disk is full, or
            another process writes the same file.
        ValueError
            The samples of `reference` are not those of the model.

        Examples
        --------
        >>> net = ntk_numba.MLP(3, "relu", b_std=0.1)
        >>> model = ntk_numba.kernel_ridge(net, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
        >>> model.save("line.h5")
        >>> ntk_numba.load_model("line.h5").predict([[1.0]]).round(3)
        array([1.])
        """
        check_output(path, overwrite=overwrite)
        training = self.training
        rows, features = training.samples.shape
        attributes = {
            "kind": self.kind,
            "kernel": self.kernel,
            "dtype": str(training.dtype),
            "ridge": self.ridge,
            "relative_ridge": self.relative_ridge,
            "residual": self.residual,
            "rows": rows,
            "features": features,
            "outputs": self.dual_coef.shape[1],
        }
        notes = {
            "net": training.net.to_dict(),
            "flat": self.flat,
            "up_to": None if training.up_to is None else float(training.up_to),
            "choice": None if self.choice is None else self.choice._asdict(),
            "classes": _labels_of(self.classes, self.dual_coef.shape[1]),
            "target_names": self._names(),
            "reference": None if reference is None else _reference(reference, training),
            "method": self.method,
            "tolerance": self.tolerance,
            **self._more_notes(),
        }
        datasets = {
            "dual_coef": Values.of(self.dual_coef),
            "targets": Values.of(self.targets),
        }
        if reference is None:
            samples = training.samples
            datasets["samples"] = Values(samples.shape, samples.dtype, rows_of(samples))
        if training.preprocess is not None:
            datasets["mean"] = Values.of(training.preprocess.mean)
            datasets["scale"] = Values.of(training.preprocess.scale)
        write_model(path, attributes, notes, datasets, overwrite=overwrite)

    def _names(self) -> list[str] | None:
        """Return the names of the targets as text; None if they have none."""
        if self.target_names is None:
            return None
        names = [str(name) for name in self.target_names]
        if len(names) != (count := names_of(self.classes, self.dual_coef.shape[1])):
            raise InvalidValueError(f"target_names must have {count} of them, not {len(names)}")
        return names

    def _more_notes(self) -> dict[str, Any]:
        """Return what only this kind of model has."""
        return {}


def names_of(classes: Any, outputs: int) -> int:
    """Return the number of names that targets have: that of columns before they became outputs."""
    return outputs if classes is None else 1


def _labels_of(classes: Any, count: int) -> list[Any] | None:
    """Return class labels as values of JSON, None if there are none."""
    if classes is None:
        return None
    labels = np.asarray(classes)
    if labels.shape != (count,):
        raise InvalidValueError(f"classes must be {count} labels, one for each output")
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)  # text of a data frame
    if labels.dtype.kind == "f":
        labels = labels.astype(float)  # JSON has no other numbers
    if labels.dtype.kind not in LABELS:
        raise InvalidTypeError(
            f"classes of {labels.dtype} cannot be saved; convert the labels to text or integers"
        )
    return list(labels.tolist())


def _reference(reference: str | os.PathLike[str], training: Training) -> dict[str, str]:
    """Return the path and the digest of a data file, if it has the samples of a training."""
    source = open_source(os.fspath(reference), "reference")
    if (row := first_difference(source, training)) is not None:
        raise InvalidValueError(
            f"reference: {source.name} does not have the samples that the model was trained on; "
            f"row {row} (counted from 0) differs"
        )
    path, key = split(os.fspath(reference))
    digest = source.survey(digest=True).digest.hex
    return {"path": f"{path.absolute()}:{key}" if key else str(path.absolute()), "digest": digest}


def first_difference(source: Source, training: Training) -> int | None:
    """Return the first row of a source that is not that of a training; None if all are."""
    if source.shape[1] != training.samples.shape[1]:
        return 0
    count = len(training.samples)
    for start, block in preprocessed(source, training.preprocess):
        known = training.samples[start : start + len(block)]
        different = (block[: len(known)] != known).any(axis=1)
        if different.any():
            return start + int(np.argmax(different))
    return None if source.shape[0] == count else min(source.shape[0], count)


def preprocessed(source: Source, preprocess: Any) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Yield the rows of a source after the preprocessing, in blocks with their first number."""
    for start, stop in source.blocks():
        rows = source.read(start, stop)
        yield start, rows if preprocess is None else preprocess.apply(rows)
