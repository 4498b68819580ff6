import numpy as np
import pytest

from ntk_numba.compiled.arrays import aligned
from ntk_numba.engine.transpose import copy, transpose

# Widths of outputs whose rows begin and end at lines of the cache, and of one whose rows do not.
WIDTHS = (208, 200 + 1)


def output(width, dtype):
    out = aligned((200, width), dtype)
    out[:] = 0
    return out


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("of_output", WIDTHS)
@pytest.mark.parametrize("at", [96, 101])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (16, 16), (17, 5), (3, 40), (50, 50), (64, 96)]
)
def test_a_block(height, width, at, of_output, dtype):
    out = output(of_output, dtype)
    block = np.random.default_rng(0).standard_normal((height + 3, width + 5)).astype(dtype)
    wanted = block[:height, :width]
    copy(out, 100, 0, block, height, width, width)
    transpose(out, 0, at, block, height, width, width)
    assert (out[100 : 100 + height, :width] == wanted).all()
    assert (out[:width, at : at + height] == wanted.T).all()
    assert np.count_nonzero(out) == 2 * wanted.size


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("of_output", WIDTHS)
@pytest.mark.parametrize("at", [16, 5])
@pytest.mark.parametrize("side", [1, 15, 16, 17, 100, 160])
def test_below_the_diagonal_strip_by_strip(side, at, of_output, dtype):
    square = np.random.default_rng(0).standard_normal((side, side)).astype(dtype)
    out = output(of_output, dtype)
    for first in range(0, side, 64):
        height = min(64, side - first)
        strip = np.full((64, side), np.nan, dtype)
        for r in range(height):
            strip[r, : first + r + 1] = square[first + r, : first + r + 1]
        copy(out, 3 + first, at, strip, height, first + height, first + 1)
        transpose(out, 3, at + first, strip, height, first + height, first + 1)
    lower = np.tril(square)
    assert (out[3 : 3 + side, at : at + side] == lower + np.tril(lower, -1).T).all()
    assert np.count_nonzero(out) == side * side
