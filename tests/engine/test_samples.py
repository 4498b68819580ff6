import numpy as np
from mpmath import mp, mpf

import ntk_numba as nk
from ntk_numba.engine.products import empty_panels
from ntk_numba.engine.samples import centre_of, layer_statistics, normalise
from ntk_numba.inputs.source import CENTRE_ROWS, open_source


def normalised(x, centre):
    panels = empty_panels(len(x), x.shape[1], float)
    spread, norm = np.empty(len(x)), np.empty(len(x))
    for first in range(0, len(x), 7):  # in pieces that are not whole panels
        at = slice(first, first + 7)
        normalise(x[at], first, centre, panels, spread, norm)
    return panels.transpose(0, 2, 1).reshape(-1, x.shape[1])[: len(x)], spread, norm


def test_norms_are_exact_over_the_whole_range():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 1000)) * np.logspace(-300, 300, 40)[:, None]
    unit, spread, norm = normalised(x, np.zeros(1000))
    for row, u, s, n in zip(x, unit, spread, norm, strict=True):
        exact = mp.sqrt(mp.fsum(mpf(float(v)) ** 2 for v in row))
        assert abs(n / exact - 1) < 3e-16
        assert abs(np.float64(row[0] / n) - u[0]) < 1e-16
        assert abs(s - 0.25) < 1e-15


def test_zero_and_subnormal_rows():
    unit, _, norm = normalised(np.array([[0.0, 0], [5e-324, 0], [3e-310, 4e-310]]), np.zeros(2))
    assert (unit[0] == 0).all() and norm[0] == 0
    assert (unit[1] == [1, 0]).all() and norm[1] == 5e-324
    np.testing.assert_allclose(unit[2], [0.6, 0.8], rtol=1e-12)


def test_the_centre_shrinks_what_is_multiplied(digits):
    """Images lie in a cone; smaller products have smaller rounding errors."""
    x = digits.astype(float)
    real = np.dtype(float)
    centre = centre_of(open_source(x, "X"), None, real)
    _, far, _ = normalised(x, np.zeros(64))
    _, near, _ = normalised(x, centre)
    assert near.mean() < 0.4 * far.mean()
    few = x[:CENTRE_ROWS]
    shuffled = np.random.default_rng(0).permutation(few)
    one, other = (centre_of(open_source(rows, "X"), None, real) for rows in (few, shuffled))
    assert (one == other).all()


def duals_of(net):
    return [activation.dual(np.inf) for activation in net.activation]


def test_shares_are_a_unit_vector():
    net = nk.MLP(32, "relu", 1.1, 0.3)
    std, half_weight, half_bias, _ = layer_statistics(
        net.layers, duals_of(net), np.logspace(-5, 5, 9), 3, np.dtype(float)
    )
    np.testing.assert_allclose(half_weight**2 + half_bias**2, 0.25, rtol=4e-16)
    np.testing.assert_allclose(half_bias * std, 0.15, rtol=4e-16)
    zero = layer_statistics(nk.MLP(2).layers, duals_of(nk.MLP(2)), np.zeros(1), 3, np.dtype(float))
    assert all((table == 0).all() for table in zero)
