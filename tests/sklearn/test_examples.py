"""The examples in the docstrings for scikit-learn."""

import doctest
from importlib import import_module

import numpy as np
import pytest
from marks import marked

import ntk_numba.sklearn


@pytest.mark.parametrize("module", marked(pytest.mark.slow, ["kernel", "estimators"]))
def test_examples(module):
    names = {"np": np, "NTKKernel": ntk_numba.sklearn.NTKKernel}
    found = doctest.testmod(import_module(f"ntk_numba.sklearn.{module}"), extraglobs=names)
    assert found.attempted > 0 and found.failed == 0
