import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.errors import InvalidValueError


def test_relu_by_hand():
    k, k_dot = nk.dual("relu", [1, 1, 2, 0], [1, 1, 0.5, 3], [1, -1, 0, 0.5])
    np.testing.assert_allclose(k, [0.5, 0, 1 / (2 * np.pi), 0], atol=1e-16)
    np.testing.assert_allclose(k_dot, [0.5, 0, 0.25, 1 / 3], rtol=1e-15, atol=1e-16)


def test_shapes_are_broadcast():
    k, k_dot = nk.dual("erf", 1.0, [[1.0], [2.0]], [0.1, 0.2, 0.3])
    assert k.shape == k_dot.shape == (2, 3)
    assert nk.dual("erf", 1, 1, 0.5)[0].shape == ()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("relu", -1, 1, 0), "q1 and q2 must be variances"),
        (("relu", 1, np.nan, 0), "q1 and q2 must be variances"),
        (("relu", 1, 1, 1.5), "rho must be correlations"),
        (("relu", "a", 1, 0), "numbers, or arrays that broadcast: could not convert"),
        (("relu", [1, 2], [1, 2, 3], 0), "numbers, or arrays that broadcast: shape mismatch"),
        (("rleu", 1, 1, 0), "did you mean 'relu'"),
        pytest.param(
            ("mish", 1e4, 1, 0), "at variances up to .* the series reaches", marks=pytest.mark.slow
        ),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(InvalidValueError, match=text):
        nk.dual(*arguments)


# One activation for each way to compute a dual
EXAMPLES = ("relu", "relu6", "elu", "rectified_monomial", "sign", "erf", "gelu", "sin", "gaussian",
            "gabor", "monomial", "tanh")  # fmt: skip


@pytest.mark.parametrize("name", marked(pytest.mark.slow, nk.activations.names(), EXAMPLES))
def test_every_dual_is_symmetric_bounded_and_finite(name):
    """K and K̇ are symmetric, bounded by Cauchy and Schwarz, and finite for all variances."""
    name = nk.activations.table.example(name)
    rng = np.random.default_rng(0)
    q1, q2 = 10 ** rng.uniform(-6, 0, (2, 200))
    rho = rng.uniform(-1, 1, 200)
    k, k_dot = nk.dual(name, q1, q2, rho)
    again = nk.dual(name, q2, q1, rho)
    (a, a_dot), (b, b_dot) = nk.dual(name, q1, q1, 1), nk.dual(name, q2, q2, 1)
    np.testing.assert_allclose(k, again[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(k_dot, again[1], rtol=1e-12, atol=1e-13)
    assert (abs(k) <= np.sqrt(a * b) * (1 + 1e-13)).all()
    assert (abs(k_dot) <= np.sqrt(a_dot * b_dot) * (1 + 1e-10)).all()
    for q in (0.0, 1e-30):
        assert np.isfinite(nk.dual(name, q, [0.0, 1e-3, 1.0], [0.5, -1, 1])).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_arrays_give_empty_arrays(shape):
    for k in nk.dual("relu", 1.0, 1.0, np.empty(shape)):
        assert k.shape == shape and k.dtype == np.float64
    with pytest.raises(nk.errors.InvalidValueError, match="did you mean"):
        nk.dual("rleu", 1.0, 1.0, [])
