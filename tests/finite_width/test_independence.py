"""Networks of finite width take functions, which have no dual: σ and σ', and nothing else."""

import ast
from pathlib import Path

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import finite_width as fw
from ntk_numba.duals.base import Activation
from ntk_numba.function import Function
from ntk_numba.network import Layer


class Bare(Function):
    """σ(x) = max(x, 0), with neither a second moment nor a dual."""

    def __call__(self, x):
        return np.maximum(x, 0)

    def derivative(self, x):
        return (x > 0).astype(x.dtype)

    def second_moment(self, q):
        raise AssertionError("a network of finite width has no use for a second moment")


@pytest.fixture
def net():
    """Return a network whose activations are functions without anything else."""
    made = nk.MLP(3, "relu", 1.2, 0.1)
    layers = [Layer(layer.activation and Bare("bare"), 1.2, 0.1) for layer in made.layers]
    object.__setattr__(made, "layers", tuple(layers))
    return made


def test_a_function_without_a_dual_is_all_that_is_used(net):
    relu = nk.MLP(3, "relu", 1.2, 0.1)
    x = np.random.default_rng(0).standard_normal((6, 4))
    bare, full = (fw.sample(n, 4, 32, 2, seed=1) for n in (net, relu))
    for ask in (fw.forward, fw.empirical_ntk, fw.empirical_nngp):
        np.testing.assert_array_equal(ask(bare, x), ask(full, x))
    one, other = (fw.monte_carlo(n, x, width=32, draws=4, seed=1) for n in (net, relu))
    np.testing.assert_array_equal(one.ntk, other.ntk)
    np.testing.assert_array_equal(one.nngp_sem, other.nngp_sem)
    y = np.ones((6, 2))
    one, other = (fw.train(p, x, y, 0.1, 3) for p in (bare, full))
    np.testing.assert_array_equal(one.outputs, other.outputs)


def test_no_member_that_only_activations_have_is_used():
    additional = {name for name in dir(Activation) if name not in dir(Function)}
    assert additional == {
        "dual", "facts", "finer", "moment", "slopes_at", "tolerance", "values_at",
    }  # fmt: skip
    assert hasattr(Function, "second_moment")
    for path in Path(fw.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not used & (additional | {"second_moment", "activation"}), path.name
