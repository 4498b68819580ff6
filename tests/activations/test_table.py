import pytest

from ntk_numba import activations
from ntk_numba.activations import table


@pytest.mark.parametrize("name", activations.names())
def test_every_name_gives_an_activation_that_its_own_name_gives_again(name):
    activation = activations.get(table.example(name))
    assert activations.get(activation.name) == activation
    assert activations.get(activation) is activation


def test_parameters():
    assert activations.get("leaky_relu:0.2").name == "leaky_relu:0.2"
    assert activations.get("leaky_relu") == activations.get("leaky_relu:0.01")
    assert activations.get("ab_relu: -1, 1e-3").b == 1e-3


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("rleu", ValueError, "did you mean 'relu'"),
        ("ReLU", ValueError, "did you mean 'relu'"),
        ("zzz", ValueError, "known are ab_relu, abs"),
        ("", ValueError, "known are"),
        ("relu:1", ValueError, "takes 0 parameters, not 1"),
        ("ab_relu:1", ValueError, "takes 2 parameters, not 1"),
        ("leaky_relu:1,2", ValueError, "takes 0 to 1 parameters, not 2"),
        ("leaky_relu:x", ValueError, "'x' is not a list of numbers"),
        ("leaky_relu:nan", ValueError, "must be finite"),
        (3, TypeError, "must be a name, an Activation or a sequence of them, not 3;"),
    ],
)
def test_bad_specs(spec, error, text):
    with pytest.raises(error, match=text):
        activations.get(spec)
