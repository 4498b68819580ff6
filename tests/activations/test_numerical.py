"""Functions of Python as activations, and their names."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.activations import Numerical
from ntk_numba.activations.table import _registered
from ntk_numba.errors import InvalidTypeError


def test_numerical_is_the_named_one():
    numerical = Numerical(np.tanh)
    assert (
        numerical.parity == -1
        and numerical == Numerical(np.tanh)
        and numerical != Numerical(np.sin)
    )
    rho = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(
        nk.dual(numerical, 1.0, 0.5, rho), nk.dual("tanh", 1.0, 0.5, rho), atol=1e-10
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
def test_functions_that_are_not_elementwise_are_refused(fn, text):
    with pytest.raises(ValueError, match=text):
        Numerical(fn, "f")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kinks": 3}, "kinks must be a sequence of numbers, not 3"),
        ({"kinks": ["a"]}, r"kinks must be a sequence of numbers, not \['a'\]"),
        ({"tolerance": None}, "activation sin: the tolerance must be a number, not None"),
    ],
)
def test_options_of_a_wrong_type(options, text):
    with pytest.raises(InvalidTypeError, match=text):
        Numerical(np.sin, **options)


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
    numerical = Numerical(np.sin, "my_sine")
    written = nk.MLP(2, numerical).to_dict()
    with pytest.raises(ValueError, match="registered first"):
        activations.get(numerical.name)
    recorded = nk.MLP.from_dict(written)
    assert recorded.to_dict() == written
    with pytest.raises(ValueError, match="register"):
        nk.gram(recorded, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"Numerical\(fn, name='my_sine', …\)"):
        nk.gram(nk.MLP(2, activations.recall(f"2*{numerical.name}")), np.ones((2, 2)))
    try:
        activations.register(numerical)
        assert (
            activations.get("my_sine") is numerical and activations.get(numerical.name) is numerical
        )
        assert "my_sine" in activations.names() and nk.MLP.from_dict(written) == nk.MLP(
            2, numerical
        )
    finally:
        _registered.clear()
