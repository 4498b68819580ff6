import numpy as np
from conftest import ROOT

from ntk_numba.accuracy import difference, promise, schwarz_slack

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def test_the_promise_is_the_one_that_is_documented():
    assert [promise(depth, DOUBLE) for depth in (1, 8, 32)] == [1e-14] * 3
    assert [promise(depth, SINGLE) for depth in (1, 8, 32)] == [1e-6, 1e-6, 4e-6]
    readme = (ROOT / "README.md").read_text()
    assert "1e-14 in float64" in readme and "1e-6" in readme


def test_two_computations_differ_by_twice_the_promise_and_the_condition():
    for dtype, condition in ((DOUBLE, 100), (SINGLE, 30)):
        assert difference(8, dtype, True) == 2 * promise(8, dtype)
        assert difference(8, dtype, False) == 2 * promise(8, dtype) * condition


def test_the_slack_of_the_inequality_is_some_roundings():
    for dtype in (SINGLE, DOUBLE):
        assert schwarz_slack(4, dtype) == 64 * np.finfo(dtype).eps
        assert schwarz_slack(16, dtype) == 128 * np.finfo(dtype).eps
