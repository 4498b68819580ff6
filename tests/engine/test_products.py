import numpy as np
import pytest

from ntk_numba.compiled.arrays import aligned
from ntk_numba.engine.products import (
    empty_panels,
    inner_products,
    panel_width,
    square_distances,
)


def panels_of(x):
    count, features = x.shape
    panels = empty_panels(count, features, x.dtype)
    padded = np.zeros((len(panels) * panel_width(x.dtype), features), x.dtype)
    padded[:count] = x
    panels[:] = padded.reshape(len(panels), -1, features).transpose(0, 2, 1)
    return panels


def all_products(x, y):
    """Return the products of all vectors, computed in blocks of 64 × 128."""
    out = np.zeros((len(x), len(y)))
    block = aligned((64, 128), float)
    left, right = panels_of(x), panels_of(y)
    for i in range(0, len(x), 64):
        for j in range(0, len(y), 128):
            block.fill(np.nan)
            inner_products(block, left, i, 64, right, j, 128)
            out[i : i + 64, j : j + 128] = block
    return out


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n0", [1, 2, 127, 128, 129, 257, 784])
def test_inner_products(dtype, n0):
    rng = np.random.default_rng(n0)
    x, y = (
        rng.standard_normal((128, n0)).astype(dtype),
        rng.standard_normal((256, n0)).astype(dtype),
    )
    exact = x.astype(np.longdouble) @ y.astype(np.longdouble).T
    scale = np.sqrt(np.outer((x.astype(float) ** 2).sum(1), (y.astype(float) ** 2).sum(1)))
    error = np.abs(all_products(x, y) - exact) / scale
    assert error.max() < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n0", [1, 3, 64, 385, 784])
def test_an_inner_product_does_not_depend_on_its_place(dtype, n0):
    """Equal samples have equal rows because of this."""
    a, b = np.random.default_rng(0).standard_normal((2, 128, n0)).astype(dtype)
    a[::3], b[::5], b[1::5] = a[0], b[0], a[0]
    a[1::3] = b[0]
    out = all_products(a, b)
    assert np.ptp(out[::3, ::5]) == 0
    assert np.ptp(out[1::3, 1::5]) == 0 and out[1, 1] == out[0, 0]
    assert (all_products(b, a) == out.T).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n0", [1, 300, 1000])
def test_square_distances(dtype, n0):
    x = np.random.default_rng(0).standard_normal((panel_width(dtype), n0)).astype(dtype)
    panel, out = panels_of(x)[0], np.empty((1, len(x)))
    square_distances(out, x[3].copy(), panel)
    exact = ((x[3].astype(float) - x) ** 2).sum(axis=1)
    np.testing.assert_allclose(out[0], exact, rtol=16 * np.finfo(dtype).eps)
    assert out[0, 3] == 0
    other = out.copy()
    square_distances(other, x[5].copy(), panel)
    assert other[0, 3] == out[0, 5]
