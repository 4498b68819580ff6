"""Targets of training: numbers of one or several outputs, and classes as numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.containers import read_array


def read_targets(y: Any, count: int, name: str = "y") -> NDArray[np.float64]:
    """Return the targets of `count` samples as float64, (N, n_out).

    Parameters
    ----------
    y : (N,) or (N, n_out) real numbers, of any kind that `gram` takes for samples
    count : int
        N.
    name : str
        The name of the argument, for errors.

    Raises
    ------
    ValueError
        If there are more or fewer targets than samples, or one is not finite; the message names
        the row.
    TypeError
        If they are no real numbers.
    """
    return open_targets(y, count, name)[0]


def open_targets(y: Any, count: int, name: str = "y") -> tuple[NDArray[np.float64], bool]:
    """Return what `read_targets` returns, and whether the targets have the shape (N,)."""
    values = np.array(read_array(y, name), float)  # a copy: a model does not change with y
    if values.ndim not in (1, 2):
        raise InvalidValueError(
            f"{name} must be of shape (N,) or (N, n_out), with a row for each sample, not "
            f"{values.shape}"
        )
    if len(values) != count:
        raise InvalidValueError(
            f"{name} has {len(values)} rows and X has {count}; each sample needs its targets"
        )
    if values.size == 0:
        raise InvalidValueError(f"{name} has no columns; give at least one target for each sample")
    if not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0]
        column = f", column {place[1]}" if values.ndim == 2 else ""
        raise InvalidValueError(
            f"{name}: row {place[0]}{column} (counted from 0) is {values[tuple(place)]}; remove "
            f"the sample or fill in a finite number"
        )
    flat = values.ndim == 1
    return (values[:, None] if flat else values), flat


def one_hot(labels: Any) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Turn class labels into targets of regression with mean zero.

    Of C classes, the target of a sample is 1 − 1/C in the column of its class and −1/C in all
    others (Lee et al. 2018, *Deep Neural Networks as Gaussian Processes*, section 3.1). The
    predicted class is that of the largest output: ``classes[model.predict(X_new).argmax(axis=1)]``.

    Parameters
    ----------
    labels : (N,) array or sequence
        Labels of any type that can be sorted: integers, strings, truth values, dates.

    Returns
    -------
    targets : (N, C) float64
    classes : (C,) array of the labels in increasing order

    Raises
    ------
    ValueError
        If a label is missing (None, NaN), or all samples are of one class.
    TypeError
        If the labels cannot be sorted.

    Examples
    --------
    >>> targets, classes = ntk_numba.one_hot(["dog", "cat", "dog"])
    >>> targets
    array([[-0.5,  0.5],
           [ 0.5, -0.5],
           [-0.5,  0.5]])
    >>> classes
    array(['cat', 'dog'], dtype='<U3')
    """
    array = _label_array(labels)
    missing = [k for k, label in enumerate(array.tolist()) if _is_missing(label)]
    if missing:
        raise InvalidValueError(
            f"labels: row {missing[0]} (counted from 0) has no label ({array[missing[0]]}); remove "
            f"the sample or give it one"
        )
    try:
        classes, numbers = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise InvalidTypeError(
            f"labels of different types cannot be sorted ({error}); convert them to one type, for "
            f"example by [str(label) for label in labels]"
        ) from None
    count = len(classes)
    if count < 2:
        what = f"all samples are of one class, {classes.tolist()[0]!r}" if count else "it is empty"
        raise InvalidValueError(f"labels: {what}; classification needs at least two classes")
    targets = np.full((len(array), count), -1 / count)
    targets[np.arange(len(array)), numbers] += 1
    return targets, classes


def _label_array(labels: Any) -> NDArray[Any]:
    """Return labels as an array (N,), none of them converted to another type."""
    if np.ma.isMA(labels):
        hidden, labels = np.ma.getmaskarray(labels), np.array(labels.data, object)
        labels[hidden] = None
    try:
        array = np.asarray(labels)
    except ValueError:
        raise InvalidValueError(
            "labels must be of shape (N,), one for each sample, and some of them are sequences"
        ) from None
    if array.ndim != 1:
        raise InvalidValueError(
            f"labels must be of shape (N,), one for each sample, not {array.shape}"
        )
    # NumPy makes text of the numbers in a list that has text too, such as those of missing labels
    plain = isinstance(labels, list | tuple) and array.dtype != object
    if plain and any(a != b for a, b in zip(array, labels, strict=True)):
        return np.array(labels, object)
    return array


def _is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN, NaT or pandas.NA, which has no truth value."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True
