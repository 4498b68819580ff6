import numpy as np
import pytest

from ntk_numba.engine.transpose import transpose


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (16, 16), (17, 5), (3, 40), (50, 50), (64, 96)]
)
def test_a_block(height, width, dtype):
    out = np.zeros((200, 200), dtype)
    block = np.random.default_rng(0).standard_normal((height, width)).astype(dtype)
    out[100 : 100 + height, :width] = block
    transpose(out, 0, 101, out, 100, 0, height, width, width)
    assert (out[:width, 101 : 101 + height] == block.T).all()
    assert np.count_nonzero(out) == 2 * block.size


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("side", [1, 15, 16, 17, 100, 160])
def test_below_the_diagonal_strip_by_strip(side, dtype):
    square = np.random.default_rng(0).standard_normal((side, side)).astype(dtype)
    square = np.tril(square)
    out = np.zeros((170, 170), dtype)
    out[3 : 3 + side, 5 : 5 + side] = square
    for first in range(0, side, 64):
        height = min(64, side - first)
        transpose(out, 3, 5 + first, out, 3 + first, 5, height, first + height, first)
    assert (out[3 : 3 + side, 5 : 5 + side] == square + np.tril(square, -1).T).all()
    assert np.count_nonzero(out) == side * side
