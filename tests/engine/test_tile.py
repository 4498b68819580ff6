import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.engine.products import panel_width
from ntk_numba.engine.tile import TILE, tile_table


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bits_do_not_depend_on_the_other_samples_of_a_row(dtype, centre_of_rows):
    """Rows with obtuse pairs, without them, and with pairs to repair use different loops."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((70, 40))).astype(dtype)  # all acute
    z = np.concatenate([x, -x[:9], x[:5] * 2, -x[3:8] + dtype(1e-5)])
    right = np.zeros((4, 40), dtype)
    right[range(4), [0, 3, 5, 8]] = 1, -1, 2, 1
    z = np.concatenate([z, right])
    for net in (nk.MLP(4, b_std=0.1), nk.MLP(5, "leaky_relu:0.3"), nk.MLP(3, "abs")):
        together = nk.gram(net, z, z)
        for j in range(len(z)):
            alone = nk.gram(net, z, z[j : j + 1])
            assert (alone.nngp[:, 0] == together.nngp[:, j]).all()
            assert (alone.ntk[:, 0] == together.ntk[:, j]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_opposite_and_equal_samples_anywhere_in_a_panel(dtype):
    width = panel_width(dtype)
    x = np.random.default_rng(0).standard_normal((3 * width, 50)).astype(dtype)
    x[width:] = np.concatenate([-x[:width], x[:width]])
    k = nk.gram(nk.MLP(1), x).nngp
    norms = np.diag(k)[:width]
    half = np.arange(width)
    assert (k[half, half + 2 * width] == norms).all()
    np.testing.assert_allclose(k[half, half + width], -norms, rtol=4 * np.finfo(dtype).eps)
    relu = nk.gram(nk.MLP(2, w_std=2**0.5), x)
    scale = np.abs(relu.ntk).max()
    assert np.abs(relu.ntk[half, half + width]).max() < 4 * np.finfo(dtype).eps * scale


def test_the_table_of_tiles():
    reads, to = [(0, 5, 7, 9), (64, 0, 3, 2)], [(1, 2), (3, 4)]
    table = tile_table(reads, to, [(10, 20), (-1, -1)])
    assert table.dtype == TILE and table.tolist() == [
        (0, 5, 7, 9, 1, 2, 10, 20),
        (64, 0, 3, 2, 3, 4, -1, -1),
    ]
    assert tile_table(reads, (0, 0)).tolist() == [(*r, 0, 0, -1, -1) for r in reads]
    assert len(tile_table([], (0, 0))) == 0
