import dataclasses
import json

import numpy as np
import pytest

import ntk_numba as nk


def test_is_frozen_hashable_comparable():
    a, b = nk.MLP(4, "relu", 1, 0.1), nk.MLP(4, ["relu"] * 3, [1.0] * 4, b_std=[0.1] * 4)
    assert a == b and hash(a) == hash(b) and a.fingerprint == b.fingerprint
    with pytest.raises(AttributeError):
        a.depth = 5
    others = [nk.MLP(5, "relu", 1, 0.1), nk.MLP(4, "abs", 1, 0.1), nk.MLP(4, "relu", 1, 0.2)]
    assert len({a, *others}) == 4
    assert len({a.fingerprint, *(o.fingerprint for o in others)}) == 4


def test_survives_json():
    net = nk.MLP(3, ["leaky_relu:0.1", "abs"], [0.1, 1 / 3, 2], 1e-3)
    assert nk.MLP.from_dict(json.loads(json.dumps(net.to_dict()))) == net


def test_attributes_are_written_out():
    net = nk.MLP(np.int64(2), "relu", np.float32(0.5))
    assert net.depth == 2 and net.w_std == (0.5, 0.5) and net.b_std == (0.0, 0.0)
    assert [a.name for a in net.activation] == ["relu"]
    assert str(nk.MLP(2, "abs", 1, 0.1)) == "depth 2, activation abs, w_std 1, b_std 0.1"
    assert "'abs', 'relu'" in str(nk.MLP(3, ["abs", "relu"]))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"depth": 0}, ValueError, "depth must be at least 1"),
        ({"depth": -2}, ValueError, "depth must be at least 1"),
        ({"depth": 2.5}, ValueError, "depth must be a whole number"),
        ({"depth": float("nan")}, ValueError, "depth must be a whole number"),
        ({"depth": float("inf")}, ValueError, "depth must be a whole number"),
        ({"depth": "3"}, ValueError, "depth must be a whole number"),
        ({"depth": True}, ValueError, "depth must be a whole number"),
        ({"depth": 2, "w_std": -1}, ValueError, "w_std of layer 1 must be finite and not negative"),
        ({"depth": 2, "w_std": [1, float("nan")]}, ValueError, "w_std of layer 2"),
        ({"depth": 2, "b_std": float("inf")}, ValueError, "b_std of layer 1"),
        ({"depth": 2, "b_std": [1]}, ValueError, "b_std: depth 2 takes 1 or 2 numbers, not 1"),
        ({"depth": 2, "b_std": "1"}, TypeError, "b_std must be a number"),
        ({"depth": 2, "b_std": None}, TypeError, "b_std must be a number or one number per layer"),
        ({"depth": 2, "activation": None}, TypeError, "activation must be a name, an Activation"),
        ({"depth": 2, "w_std": [1, None]}, TypeError, "w_std of layer 2 must be a number"),
        ({"depth": 3, "activation": ["relu"]}, ValueError, "has 2 hidden layers, but 1"),
        ({"depth": 1, "activation": "relo"}, ValueError, "did you mean 'relu'"),
        ({"depth": 3, "activation": ["relu", "asb"]}, ValueError, "did you mean 'abs'"),
    ],
)
def test_bad_descriptions(arguments, error, text):
    with pytest.raises(error, match=text):
        nk.MLP(**arguments)


@pytest.mark.parametrize(
    "value", [np.array(2.0), np.float32(2), np.float64(2), np.int64(2), [2, np.array(2.0)]]
)
def test_numbers_of_numpy(value):
    assert nk.MLP(2, "relu", value, value) == nk.MLP(2, "relu", 2.0, 2.0)
    assert nk.MLP(np.array(2)) == nk.MLP(2.0) == nk.MLP(2)


@pytest.mark.parametrize("name", ["w_std", "b_std"])
@pytest.mark.parametrize(
    "wrong",
    ["1", b"1", True, None, 1j, np.array(True), np.array("1"), {1, 2}, {1: 2}, [[1, 2], [3, 4]],
     [True, 1], ["1", 1], np.ones((2, 2)), object()],
)  # fmt: skip
def test_scales_that_are_no_numbers(name, wrong):
    with pytest.raises(nk.errors.InvalidTypeError, match=f"{name}.* must be a number"):
        nk.MLP(2, **{name: wrong})


@pytest.mark.parametrize("name", ["w_std", "b_std"])
@pytest.mark.parametrize("wrong", [-1, np.nan, np.inf, np.array(-1.0), 10**400, [1, -1]])
def test_scales_that_are_out_of_range(name, wrong):
    with pytest.raises(nk.errors.InvalidValueError, match=f"{name} of layer"):
        nk.MLP(2, **{name: wrong})


def test_replace():
    net = nk.MLP(3, "erf", 1.5, 0.1)
    for replace in (dataclasses.replace, nk.MLP.replace):
        assert replace(net, depth=5) == nk.MLP(5, "erf", 1.5, 0.1)
        assert replace(net, w_std=2, activation="abs") == nk.MLP(3, "abs", 2, 0.1)
        assert replace(net, depth=2, b_std=[0, 1]) == nk.MLP(2, "erf", 1.5, [0, 1])
        assert replace(replace(net, depth=1), depth=2, activation="abs").depth == 2
        assert replace(net) == net and hash(replace(net)) == hash(net)


@pytest.mark.parametrize("name", ["activation", "w_std", "b_std"])
def test_replacing_the_depth_needs_what_differs_by_layer(name):
    values = {"activation": ["relu", "abs"], "w_std": [1, 2, 3], "b_std": [0, 0, 1]}
    net = nk.MLP(3, **{name: values[name]})
    with pytest.raises(nk.errors.InvalidValueError, match=f"; give {name} too"):
        net.replace(depth=4)
    one = {"activation": "relu", "w_std": 1, "b_std": 0}[name]
    assert net.replace(depth=4, **{name: one}) == nk.MLP(4)
    with pytest.raises(nk.errors.InvalidValueError, match="give activation too"):
        nk.MLP(1).replace(depth=2)
