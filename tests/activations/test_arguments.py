"""Names and parameters of activations that users get wrong: each gets one clear sentence."""

import functools
import inspect

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.activations.table import TABLE, arity


class Module:
    """A function as other libraries have it, an object."""

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    "wrong",
    [
        np.tanh, abs, Module(), Module, functools.partial(np.maximum, 0), None, 3, b"relu",
        {"relu": 1}, {"relu"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("many", [False, True])
def test_what_is_no_activation_is_shown_numerical(wrong, many):
    with pytest.raises(nk.errors.InvalidTypeError, match=r"activations\.Numerical\("):
        nk.MLP(3, [wrong, "relu"] if many else wrong)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("linear", "identity"), ("logistic", "sigmoid"), ("leakyrelu", "leaky_relu"),
        ("LeakyReLU:0.1", "leaky_relu"), ("leaky-relu", "leaky_relu"), ("ReLU", "relu"),
        ("RELU6", "relu6"), ("softrelu", "softplus"), ("Swish", "swish"), ("SiLU", "silu"),
        ("hardtanh", "hard_tanh"), ("HardTanh", "hard_tanh"), ("atan", "arctan"), ("step", "heavi"),
        ("signum", "sign"), ("sine", "sin"), ("gauss", "gaussian"), ("square", "monomial:2"),
        ("gelutanh", "gelu_tanh"), ("prelu", "leaky_relu"), ("abrelu", "ab_relu"), ("Tanh", "tanh"),
        ("rleu", "relu"), ("softsine", "softsign"), ("normalcdf", "normal_cdf"),
    ],
)  # fmt: skip
def test_other_names_lead_to_the_known_one(written, meant):
    with pytest.raises(nk.errors.InvalidValueError, match=f"did you mean '{meant}"):
        nk.MLP(3, written)


@pytest.mark.parametrize(
    "several",
    ["relu,tanh", "relu, tanh", "relu tanh", "[relu,tanh]", "relu;erf", "leaky_relu:0.1,relu",
     "relu,leaky_relu:0.1", "elu:1,celu:2", "relu+tanh", "linear,relu"],
)  # fmt: skip
def test_several_names_in_one_text(several):
    with pytest.raises(nk.errors.InvalidValueError, match="by repeating the option, as --activ"):
        nk.MLP(3, several)


@pytest.mark.parametrize(
    ("zero", "right"),
    [("sin:0", "sin:1"), ("cos:0", ""), ("exp:0", ""), ("gaussian:0", ""), ("erf:0", "erf:0,1,1"),
     ("ab_relu:0,0", ""), ("polynomial:0", "polynomial:1"), ("polynomial:0,0", ""),
     ("piecewise_linear:0,0", ""), ("sin:1,0", "cos:1,0"), ("2*sin:0", "2*sin:1")],
)  # fmt: skip
def test_functions_that_are_0_are_refused(zero, right):
    with pytest.raises(nk.errors.InvalidValueError, match="is 0 for all x"):
        nk.MLP(3, zero)
    if right:
        nk.MLP(3, right)


WITH_PARAMETERS = [name for name, constructor in TABLE.items() if arity(constructor)[1] > 0]
# The range of tolerances has tests of its own
EXACT = [
    name for name in WITH_PARAMETERS if "tolerance" not in inspect.signature(TABLE[name]).parameters
]
BAD = ["nan", "inf", "-inf", "1e300", "-1e300", "1e-300", "1e31", "x", ""]


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("bad", BAD)
def test_bad_parameters_are_refused_when_given(name, bad):
    constructor = TABLE[name]
    fewest, largest = arity(constructor)
    count = 4 if largest == float("inf") else largest
    for place in range(count):
        values = ["1", "2", "3", "4"][:count]
        values[place] = bad
        with pytest.raises(
            nk.errors.InvalidValueError, match=f"activation.*{name}".replace("swish", "")
        ):
            nk.activations.get(f"{name}:{','.join(values)}")
    assert fewest <= count


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "value",
    marked(pytest.mark.slow, [0.0, -1.0, 1e-30, -1e30, 1e30, 1e-12], [0.0, 1e-30, -1e30]),
)
def test_extreme_parameters_are_refused_or_computed_soon(name, value):
    """What is accepted gives finite kernels, or an error that names the activation or the row."""
    constructor = TABLE[name]
    parameters = inspect.signature(constructor).parameters.values()
    defaults = [1.0 if p.default is p.empty else p.default for p in parameters]
    x = np.array([[1.0, 0.5], [0.25, -0.5]])
    for place in range(len(defaults)):
        values = list(defaults)
        values[place] = value
        said, k = "", None
        try:
            net = nk.MLP(2, f"{name}:{','.join(map(repr, values))}", 1.0, 0.1)
            with np.errstate(all="ignore"):
                k = nk.gram(net, x)
        except nk.NtkNumbaError as error:
            said = str(error)
        if k is None:
            assert name in said or "row" in said
        else:
            assert np.isfinite(k.nngp).all() and np.isfinite(k.ntk).all()


def test_an_elu_of_0_is_relu():
    assert nk.activations.get("elu:0") == nk.activations.get("relu")
