"""The named activations without a closed form: σ' and E[σ²] against σ itself.

Their kernels are checked in tests/duals, and in tests/engine/test_all_activations.py.
"""

import numpy as np
import pytest
from gauss import normal
from piecewise import cases

from ntk_numba import activations

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "softsign": lambda x: x / (1 + cases(x, -x, 0, x)),
    "arctan": np.arctan,
}
KINKS = {"softsign": (0.0,)}

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
