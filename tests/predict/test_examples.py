"""The examples in the docstrings of `gram` and of what predicts."""

import doctest
from importlib import import_module

import numpy
import pytest

import ntk_numba

MODULES = [
    "compute.memory", "linalg.cholesky", "predict.classification", "predict.gaussian_process",
    "linalg.spectrum", "predict.gradient_flow", "predict.nystrom", "predict.regression",
    "predict.targets",
    pytest.param("predict.hyperparameters", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    found = doctest.testmod(
        import_module(f"ntk_numba.{module}"), extraglobs={"ntk_numba": ntk_numba, "numpy": numpy}
    )
    assert found.attempted > 0 and found.failed == 0
