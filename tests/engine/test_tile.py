import numba
import numpy as np
import pytest

from ntk_numba.engine.tile import apart, mirror, together


def test_an_inner_product_does_not_depend_on_its_place():
    """What equal rows for equal samples rest on."""

    @numba.njit
    def product(a, b, out):
        np.dot(a, b.T, out)

    rng = np.random.default_rng(0)
    for size in (64, 128, 256, 512):
        for n0 in (1, 3, 17, 64, 385, 784, 1500):
            a, b = rng.standard_normal((2, size, n0))
            a[::3], b[::5], b[1::5] = a[0], b[0], a[0]
            a[1::3] = b[0]
            out = np.empty((size, size))
            product(a, b, out)
            assert np.ptp(out[::3, ::5]) == 0
            assert np.ptp(out[1::3, 1::5]) == 0 and out[1, 1] == out[0, 0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_distances(dtype):
    u, v, m = np.random.default_rng(0).standard_normal((3, 101)).astype(dtype)
    assert apart(u, v) == apart(v, u) == pytest.approx(np.sum((u - v) ** 2) / 4, rel=1e-5)
    assert apart(u, u) == 0
    assert together(u, v, 2 * m) == together(v, u, 2 * m)
    assert together(u, v, 2 * m) == pytest.approx(np.sum((u + v + 2 * m) ** 2) / 4, rel=1e-5)
    assert together(u - m, -u - m, 2 * m) < 1e-10


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 5), (3, 40), (50, 50)])
def test_mirror(height, width):
    out = np.zeros((120, 120))
    block = np.random.default_rng(0).standard_normal((height, width))
    out[60 : 60 + height, :width] = block
    mirror(out, 60, 0, height, width, 0, 60)
    assert (out[:width, 60 : 60 + height] == block.T).all()
    assert np.count_nonzero(out) == 2 * block.size
    if height == width:
        square = np.tril(block)
        out = np.zeros((60, 60))
        out[3 : 3 + height, 3 : 3 + height] = square
        mirror(out, 3, 3, height, height, 3, 3)
        assert (out[3 : 3 + height, 3 : 3 + height] == square + np.tril(square, -1).T).all()
