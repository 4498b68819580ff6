import numpy as np
import pytest

from ntk_numba.duals.panels import (
    HIGHEST,
    LOWEST,
    NODES,
    Panels,
    interpolated,
    nodes_of,
    panel_of,
)
from ntk_numba.extended import LN4, extended


def test_panels_are_powers_of_four():
    assert panel_of(np.array([0.25, 0.9, 1, 3.99, 4, 16])).tolist() == [-1, -1, 0, 0, 1, 2]
    assert panel_of(np.array([0, 1e300])).tolist() == [LOWEST, HIGHEST]
    nodes = nodes_of(1)
    assert len(nodes) == NODES and (nodes > 4).all() and (nodes < 16).all()


@pytest.mark.parametrize(
    "f", [lambda q: 1 / np.sqrt(1 + 4 * q), lambda q: np.sqrt(q), lambda q: np.log1p(q)]
)
def test_smooth_functions_are_exact(f):
    # relative to q, the rounding of ln q is ε|ln q|
    q = np.concatenate([np.logspace(-20, 20, 500), 4.0 ** np.arange(-5, 6)])
    table = interpolated(lambda v: np.stack([f(v), 2 * f(v)], axis=1))
    np.testing.assert_allclose(table(q)[0], f(q), rtol=2e-14)
    np.testing.assert_allclose(table(q)[1], 2 * table(q)[0], rtol=2e-14)


def test_a_value_depends_on_its_own_variance_alone():
    table = interpolated(lambda v: np.sqrt(v)[:, None])
    q = np.array([0.3, 7, 0.31, 900])
    together = table(q)[0]
    for k in range(4):
        assert table(q[k : k + 1])[0, 0] == together[k]


@pytest.mark.parametrize("count", [2, 3, 18, 40])
def test_values_have_the_bits_of_numpy(count):
    rng = np.random.default_rng(count)
    table, q = rng.standard_normal((count, 7)), np.exp(rng.uniform(0, np.log(4), 200))
    x = np.clip((np.log(extended(q)) / (LN4 / 2) - 1).astype(float), -1, 1)
    assert (Panels(lambda panel: table)(q) == np.polynomial.chebyshev.chebval(x, table)).all()


def test_beyond_the_last_panels_values_stay():
    table = interpolated(lambda v: np.log(v)[:, None])
    low, high = np.log(4.0) * LOWEST, np.log(4.0) * (HIGHEST + 1)
    np.testing.assert_allclose(table(np.array([0, 1e-300, 1e300]))[0], [low, low, high], rtol=1e-14)
