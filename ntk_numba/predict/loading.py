"""Fitted models from files: the public function `load_model`."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import FileError, InvalidValueError, NtkNumbaError
from ntk_numba.inputs.source import open_source
from ntk_numba.linalg.spectrum import RidgeChoice
from ntk_numba.network import MLP
from ntk_numba.predict.gaussian_process import GaussianProcess
from ntk_numba.predict.model_file import Stored, read_model
from ntk_numba.predict.preprocess import Standardize
from ntk_numba.predict.regression import KernelRidge
from ntk_numba.predict.saving import LABELS, preprocessed
from ntk_numba.predict.training import Training

import json

KINDS = {"kernel_ridge": KernelRidge, "gaussian_process": GaussianProcess}


def load_model(path: str | os.PathLike[str]) -> KernelRidge | GaussianProcess:
    """Read a fitted model from the file that its method `save`, or ``ntk-numba fit``, wrote."""
    stored = read_model(path)
    try:
        return _restored(stored)
    except FileError:
        raise
    except (NtkNumbaError, KeyError, TypeError, ValueError) as error:
        raise InvalidValueError(f"{path} cannot be used: {error}") from None
