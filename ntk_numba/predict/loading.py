"""Fitted models from files: the public function `load_model`."""

import math
import os
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import FileError, InvalidValueError, NtkNumbaError
from ntk_numba.factors.cholesky import Cholesky
from ntk_numba.inputs.source import open_source
from ntk_numba.network import MLP
from ntk_numba.predict.flow import check_time
from ntk_numba.predict.gaussian_process import GaussianProcess
from ntk_numba.predict.large import Solving, System
from ntk_numba.predict.model_file import Stored, read_model
from ntk_numba.predict.posterior import Conditioned
from ntk_numba.predict.preprocess import Standardize
from ntk_numba.predict.regression import KernelRidge
from ntk_numba.predict.saving import Saved, names_of, preprocessed
from ntk_numba.predict.training import Training
from ntk_numba.solvers.eigenbasis import RidgeChoice

KERNELS = {KernelRidge.kind: ("ntk", "nngp"), GaussianProcess.kind: ("ntk", "nngp", "ensemble")}


def load_model(path: str | os.PathLike[str]) -> KernelRidge | GaussianProcess:
    """Read a fitted model from the file that its method `save`, or ``ntk-numba fit``, has written.

    Every byte of the file is compared with its checksum. A file is data and no program: reading it
    runs nothing that is in it. What takes the factor of the kernel matrix, such as standard
    deviations and leave-one-out predictions, computes it again when it is first used.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    KernelRidge or GaussianProcess
        Its predictions are those of the model that was saved, bit for bit on the same kind of
        processor.

    Raises
    ------
    OSError
        The file, or the data file that it refers to, is missing or cannot be read.
    ValueError
        The file is no model, is damaged or truncated, or of a newer version; or the data file that
        it refers to has other samples now.

    Examples
    --------
    >>> model = ntk_numba.load_model("digits.h5")  # of ``ntk-numba fit … --targets labels.npy``
    >>> model.classes[model.predict(X_new).argmax(axis=1)]
    array([3, 8, 8, 0])
    """
    stored = read_model(path)
    try:
        return _restored(stored)
    except FileError:
        raise
    except (NtkNumbaError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(f"{path} cannot be used: {error}") from None


def as_process(
    model: KernelRidge | GaussianProcess, factor: Cholesky | System | None = None
) -> GaussianProcess:
    """Return the Gaussian process whose mean a model predicts: its noise is the model's ridge.

    factor : that of the model; by default it is computed again when it is needed
    """
    if isinstance(model, GaussianProcess):
        return model
    shared = {field.name: getattr(model, field.name) for field in fields(Saved)}
    return GaussianProcess(
        **shared,
        _posterior=None if factor is None else Conditioned(model.kernel, factor),
    )


def _restored(stored: Stored) -> KernelRidge | GaussianProcess:
    """Return the model of the contents of a file, all of which are checked."""
    values, notes, arrays = stored
    kind, kernel = values["kind"], values["kernel"]
    if kernel not in KERNELS.get(kind, ()):
        raise InvalidValueError(f"it is a {kind!r} with the kernel {kernel!r}, which is unknown")
    if values["dtype"] not in ("float64", "float32"):
        raise InvalidValueError(f"its dtype is {values['dtype']!r}")
    if not (0 <= values["ridge"] < math.inf and values["relative_ridge"] >= 0):
        raise InvalidValueError(f"its ridge is {values['ridge']} ({values['relative_ridge']})")
    flat, up_to = notes["flat"], notes["up_to"]
    if not isinstance(flat, bool) or (flat and values["outputs"] != 1):
        raise InvalidValueError("it does not say whether it has one output")
    if up_to is not None and not (isinstance(up_to, float) and 0 <= up_to < math.inf):
        raise InvalidValueError(f"its largest norm is {up_to!r}")
    preprocess = None
    if "mean" in arrays:
        if not (arrays["scale"] > 0).all():
            raise InvalidValueError("it divides a feature by a number that is not positive")
        preprocess = Standardize(arrays["mean"], arrays["scale"])
    samples, reference = arrays.get("samples"), None
    if samples is None:
        shape, reference = (values["rows"], values["features"]), notes["reference"]["path"]
        samples = _referenced(reference, notes["reference"]["digest"], shape, preprocess)
    common: dict[str, Any] = {
        "training": Training(
            MLP.from_dict(notes["net"]),
            samples,
            preprocess,
            np.dtype(values["dtype"]),
            up_to,
        ),
        "kernel": kernel,
        "targets": arrays["targets"],
        "flat": flat,
        "ridge": values["ridge"],
        "relative_ridge": values["relative_ridge"],
        "dual_coef": arrays["dual_coef"],
        "residual": values["residual"],
        "choice": _choice_of(notes["choice"]),
    }
    model: KernelRidge | GaussianProcess
    if kind == KernelRidge.kind:
        model = KernelRidge(**common)
    else:
        time, absolute = check_time(float(notes["time"])), notes["absolute"]
        if not isinstance(absolute, bool):
            raise InvalidValueError("it does not say whether its noise is absolute")
        model = GaussianProcess(**common, absolute=absolute, time=time)
    model.classes = labels_of(notes["classes"], values["outputs"])
    names, count = notes["target_names"], names_of(model.classes, values["outputs"])
    if names is not None and not (
        isinstance(names, list) and len(names) == count and all(type(n) is str for n in names)
    ):
        raise InvalidValueError("its targets have no names that fit")
    model.target_names, model.reference = names, reference
    # models of versions that knew one method do not name it
    solving = Solving(notes.get("method", model.method), notes.get("tolerance", model.tolerance))
    if solving.method == "auto":
        raise InvalidValueError("it does not say how it was solved")
    model.method, model.tolerance = solving.method, solving.tolerance
    return model


def _referenced(
    path: Any, digest: Any, shape: tuple[int, int], preprocess: Standardize | None
) -> NDArray[np.floating]:
    """Return the training samples from the data file that a model refers to.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    ValueError
        It has other samples.
    """
    source = open_source(path, "the data that the model refers to")
    if source.shape != shape or source.survey(digest=True).digest.hex != digest:
        raise InvalidValueError(
            f"its samples are in {path}, which has other contents now; restore it, or fit the "
            f"model again"
        )
    samples = np.empty(shape, source.dtype)
    for start, block in preprocessed(source, preprocess):
        samples[start : start + len(block)] = block
    return samples


def _choice_of(choice: Any) -> RidgeChoice | None:
    """Return how the ridge was chosen; None if it was given."""
    if choice is None:
        return None
    try:
        return RidgeChoice(**choice)
    except TypeError:
        raise InvalidValueError("its ridge was chosen in an unknown way") from None


def labels_of(values: Any, outputs: int) -> NDArray[Any] | None:
    """Return the classes of the outputs, which have to be of one type; None if there are none."""
    if values is None:
        return None
    kinds = {type(value) for value in values}
    if len(values) != outputs or len(kinds) != 1 or not kinds <= {str, int, float, bool}:
        raise InvalidValueError(f"its classes are not {outputs} labels of one type")
    if kinds == {int}:  # without a dtype, some large ones would become floats
        return np.array(values, np.uint64 if max(values) >= 2**63 else np.int64)
    return np.array(values)
