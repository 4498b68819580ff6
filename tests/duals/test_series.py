import numpy as np
import pytest
from gauss import normal

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.activations import Numerical
from ntk_numba.activations.table import _registered

T, WEIGHTS = normal(np.arange(-10, 10.25, 0.5))

NAMES = [
    "tanh", "tanh:1e-4", "sigmoid", "silu", "softplus:1e-3", "mish:1e-6", "gelu_tanh",
    "arctan:1e-6",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_derivative_and_second_moment(name):
    activation = activations.get(name)
    x = np.linspace(-40, 40, 801)
    h = 1e-5
    change = (activation(x + h) - activation(x - h)) / (2 * h)
    np.testing.assert_allclose(activation.derivative(x), change, atol=2e-9)
    for q in (1e-30, 1e-6, 0.3, 2.0):
        want = WEIGHTS @ activation(np.sqrt(q) * T) ** 2
        np.testing.assert_allclose(activation.second_moment(np.array([q])), want, rtol=4e-15)
    assert activation.second_moment(np.zeros(1)) == activation(np.zeros(1)) ** 2
    assert np.isfinite(activation.second_moment(np.array([1e30]))).all()


def test_what_cannot_be_had_says_what_can():
    with pytest.raises(ValueError, match=r"activation tanh: at variances up to 32 .* tanh:"):
        activations.get("tanh").dual(30)
    with pytest.raises(ValueError, match=r"scale the data or w_std down$"):
        activations.get("tanh").dual(1e4)
    with pytest.raises(ValueError, match="ask for softsign:"):
        activations.get("softsign:1e-10").dual(1.0)
    assert activations.get("softsign").dual(4.0).bounds[1] <= 3e-3
    with pytest.raises(ValueError, match="tolerance must be"):
        activations.get("tanh:1e-14")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gram_of_awkward_rows(dtype):
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(dtype)
    x[1], x[2], x[3], x[4] = x[0], -x[0], 0, x[0] * (1 + 1e-6)
    k = nk.gram(nk.MLP(3, "tanh", 0.7), x, dtype=dtype)
    for matrix in k:
        assert np.isfinite(matrix).all() and (matrix == matrix.T).all()
        assert (matrix[0] == matrix[1]).all() and (matrix[3] == 0).all()
        np.testing.assert_allclose(matrix[2], -matrix[0], atol=1e-6 * abs(matrix[0, 0]))


def test_numerical_is_the_named_one():
    mine = Numerical(np.tanh)
    assert mine.parity == -1 and mine == Numerical(np.tanh) and mine != Numerical(np.sin)
    rho = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(
        nk.dual(mine, 1.0, 0.5, rho), nk.dual("tanh", 1.0, 0.5, rho), atol=1e-10
    )


def test_an_oscillation_is_right():
    q, rho = 0.5, np.linspace(-1, 1, 9)
    k, k_dot = nk.dual(Numerical(lambda x: np.sin(5 * x), "wave"), q, q, rho)
    want = np.exp(-25 * q) * np.sinh(25 * q * rho)
    np.testing.assert_allclose(k, want, atol=1e-10)
    want = 25 * np.exp(-25 * q) * np.cosh(25 * q * rho)
    np.testing.assert_allclose(k_dot, want, atol=25e-10)


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (np.sum, "shape"),
        (lambda x: 1j * x, "real"),
        (lambda x: x / np.where(x == 0, np.nan, 1), "finite"),
        (lambda x: x - x.mean(), "by itself"),
    ],
)
def test_what_is_no_function_of_a_number(fn, text):
    with pytest.raises(ValueError, match=text):
        Numerical(fn, "f")


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(ValueError, match=r"grows too fast|not finite"):
        Numerical(lambda x: np.exp(np.minimum(x * x / 3, 600)), "fast").dual(1.0)
    with pytest.raises(ValueError, match="derivative"):
        Numerical(np.sin, derivative=np.sin).dual(1.0)
    with pytest.raises(ValueError, match=r"derivative|oscillates|reaches"):
        Numerical(np.sign, "step").dual(1.0)
    with pytest.raises(ValueError, match=r"derivative|oscillates|reaches"):
        Numerical(lambda x: np.sin(3000 * x), "noise").dual(1.0)


def test_names_of_functions():
    mine = Numerical(np.sin, "my_sine")
    written = nk.MLP(2, mine).to_dict()
    with pytest.raises(ValueError, match="registered first"):
        activations.get(mine.name)
    recorded = nk.MLP.from_dict(written)
    assert recorded.to_dict() == written
    with pytest.raises(ValueError, match="register"):
        nk.gram(recorded, np.ones((2, 2)))
    try:
        activations.register(mine)
        assert activations.get("my_sine") is mine and activations.get(mine.name) is mine
        assert "my_sine" in activations.names() and nk.MLP.from_dict(written) == nk.MLP(2, mine)
    finally:
        _registered.clear(), _registered.clear()
