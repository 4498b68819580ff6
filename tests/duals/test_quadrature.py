import numpy as np
import pytest
from scipy import special

from ntk_numba.duals.quadrature import MOST, REACH, nodes

QS = [0, 1e-30, 1e-6, 0.3, 1, 50, 1e4, 1e8]


@pytest.mark.parametrize("q", QS)
def test_moments_of_the_gaussian(q):
    t, weights = nodes(q, (0.0, 1.0))
    assert (abs(t) < REACH).all() and (weights > 0).all()
    for power, moment in [(0, 1), (2, 1), (4, 3), (12, 10395)]:
        assert weights @ t**power == pytest.approx(moment, rel=1e-13)
    assert abs(weights @ t**3) < 1e-14


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize(
    ("f", "mean"),
    [
        (lambda x: np.exp(-x * x), lambda q: 1 / np.sqrt(1 + 2 * q)),
        (lambda x: special.erf(x) ** 2, lambda q: 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))),
    ],
)
def test_functions_of_scale_one(f, mean, q):
    t, weights = nodes(q)
    assert weights @ f(np.sqrt(q) * t) == pytest.approx(mean(q), rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("q", [1e-6, 1.0, 1e4])
def test_functions_that_never_settle(q):
    t, weights = nodes(q, smooth_beyond=np.inf)
    mean = weights @ np.sin(np.sqrt(q) * t) ** 2
    assert mean == pytest.approx(-np.expm1(-2 * q) / 2, rel=1e-12)


@pytest.mark.parametrize("q", [0.01, 1.0, 400.0])
def test_kinks(q):
    t, weights = nodes(q, (-0.7, 2.0))
    x = np.sqrt(q) * t
    step = weights @ ((x > -0.7) & (x < 2.0))
    exact = special.ndtr(2 / np.sqrt(q)) - special.ndtr(-0.7 / np.sqrt(q))
    assert step == pytest.approx(exact, rel=1e-13)


def test_nodes_are_bounded():
    """If the nodes do not resolve the function, the mean of 1 is still right."""
    t, weights = nodes(1e12, (3.0,), np.inf)
    assert len(t) < 20 * MOST
    assert weights.sum() == pytest.approx(1, rel=1e-13)
