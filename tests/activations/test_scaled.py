import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.activations.scaled import scaled


@pytest.mark.parametrize("name", ["relu", "erf:1,0.5,0.2", "leaky_relu:0.3"])
def test_a_multiple_has_the_kernels_of_larger_weights(name):
    x = np.random.default_rng(0).standard_normal((9, 4))
    factor = 1.25  # exact
    one = nk.gram(nk.MLP(4, f"1.25*{name}", [1, 1, 2, 1], 0.1), x)
    other = nk.gram(nk.MLP(4, name, [1, factor, 2 * factor, factor], 0.1), x)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("q", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("name", ["relu", "erf", "leaky_relu:0.3"])
def test_normalised(name, q):
    activation = activations.normalised(activations.get(name), q)
    k, _ = nk.dual(activation, q, q, 1)
    assert k == pytest.approx(1, rel=1e-14)
    assert activations.get(activation.name) == activation
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(activation(x), activation.factor * activations.get(name)(x))
    np.testing.assert_allclose(
        activation.derivative(x), activation.factor * activations.get(name).derivative(x)
    )


def test_multiples_of_multiples():
    relu = activations.get("relu")
    assert scaled(2, scaled(3, relu)) == activations.get("6*relu")
    assert scaled(0.5, scaled(2, relu)) is relu


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("0*relu", "must be finite and not 0"),
        ("x*relu", "'x' is no number"),
        ("2*rleu", "did you mean 'relu'"),
        ("nan*relu", "must be finite"),
    ],
)
def test_bad_factors(spec, text):
    with pytest.raises(ValueError, match=text):
        activations.get(spec)


def test_functions_that_cannot_be_normalised():
    with pytest.raises(ValueError, match="positive variance"):
        activations.normalised(activations.get("relu"), 0)
    with pytest.raises(nk.NtkNumbaError, match="positive variance, not '1'"):
        activations.normalised(activations.get("relu"), "1")
    with pytest.raises(ValueError, match="is 0"):
        activations.normalised(activations.get("ab_relu:0,0"))
    with pytest.raises(nk.NtkNumbaError, match="must be an Activation, such as"):
        activations.normalised("relu")
