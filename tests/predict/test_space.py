"""Hyperparameters as vectors of logarithms."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.predict.space import Space

BOUNDS = {"w_std": (0.1, 10.0), "b_std": (0.01, 5.0), "noise": (1e-6, 2.0)}
ALL = ("w_std", "b_std", "noise")
NET = nk.MLP(3, "relu", [1.0, 1.5, 2.0], [0.0, 0.2, 0.3])


def test_vectors_of_each_layer():
    space = Space(NET, 0.1, ALL, False, BOUNDS)
    assert space.names == ["w_std"] * 3 + ["b_std"] * 3 + ["noise"]
    vector = space.start({})
    assert np.exp(vector) == pytest.approx([1, 1.5, 2, 0.1, 0.2, 0.3, 0.1])  # 0 has no logarithm
    net, noise = space.place(vector)
    assert net.w_std == pytest.approx(NET.w_std) and net.b_std == pytest.approx((0.1, 0.2, 0.3))
    assert noise == pytest.approx(0.1) and net.activation == NET.activation
    assert np.exp(space.start({"w_std": 0.7})) == pytest.approx([*[0.7] * 3, 0.1, 0.2, 0.3, 0.1])
    assert (space.directions == np.eye(6).reshape(6, 2, 3)).all()


def test_vectors_that_all_layers_share():
    space = Space(NET.replace(w_std=3.0), 7.0, ("w_std", "noise"), True, BOUNDS)
    vector = space.start({})
    assert np.exp(vector) == pytest.approx([3, 2])  # the noise is moved into its bounds
    assert space.at_bounds(vector) == ("noise",)
    net, noise = space.place(vector)
    assert net.w_std == pytest.approx((3, 3, 3)) and net.b_std == NET.b_std and noise == 2.0
    assert space.directions.tolist() == [[[1, 1, 1], [0, 0, 0]]]
    only = Space(NET, 0.1, ("noise",), True, BOUNDS)
    assert only.directions.shape == (0, 2, 3) and only.place(only.start({}))[0] == NET
    with pytest.raises(ValueError, match="w_std of net is not the same in all layers"):
        Space(NET, 0.1, ALL, True, BOUNDS).check()
    with pytest.raises(ValueError, match="w_std of layer 2 is 0"):
        Space(NET.replace(w_std=[1, 0, 1]), 0.1, ALL, False, BOUNDS).check()
