"""Tests of all activations in networks against quadrature of σ and σ', layer by layer.

The oracle is tests/layered_quadrature.py.
"""

import itertools

import numpy as np
import pytest
from layered_quadrature import kernels
from marks import marked
from plain import KINKS, SIGMA

import ntk_numba as nk
from ntk_numba.activations import table


def test_every_name_has_a_plain_function():
    missing = table.TABLE.keys() - {spec.partition(":")[0] for spec in SIGMA}
    assert not missing, (
        f"add {', '.join(sorted(missing))} to the dictionary SIGMA of its family's file "
        "tests/activations/test_*.py, and its kinks, if it has any, to KINKS beside it"
    )
    assert SIGMA.keys() >= KINKS.keys()


@pytest.mark.parametrize("name", SIGMA)
def test_kinks_are_those_of_the_activation(name):
    assert KINKS.get(name, ()) == nk.activations.get(name).kinks


@pytest.mark.parametrize("name", SIGMA)
def test_gram_of_every_activation(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4))
    x[2] = -0.5 * x[0] + 0.3 * x[2]
    kinks = KINKS.get(name, ())
    net = nk.MLP(3, name, 0.9, 0.3)
    got = nk.gram(net, x, layers="all")
    diagonal = nk.diagonal(net, x, layers="all")
    exact = {
        (i, j): kernels(SIGMA[name], x[i], x[j], 0.9, 0.3, 3, kinks)
        for i, j in itertools.combinations_with_replacement(range(3), 2)
        if i == j or not kinks or i == 0
    }
    for (i, j), layers in exact.items():
        for layer, values in enumerate(layers):
            for k, error in enumerate(got.error):
                scale = np.sqrt(exact[i, i][layer][k] * exact[j, j][layer][k])
                bound = (error + 3e-12) * scale
                assert abs(got[k][layer, i, j] - values[k]) <= bound
                assert got[k][layer, i, i] == diagonal[k][layer, i]
    activation = nk.activations.get(name)
    assert (got.error == (0, 0)) == (
        activation.facts.method == "closed form" or not activation.facts.needs_largest
    )


# One activation for each way to compute a dual.
EXAMPLES = ("relu", "relu6", "elu:0.7", "rectified_monomial:3", "sign", "erf:1.5,0.7,0.2", "gelu",
         "sin:2,1.5,0.3", "gaussian:2,-0.4", "gabor", "monomial:3", "tanh")  # fmt: skip


@pytest.mark.parametrize("name", marked(pytest.mark.slow, SIGMA, EXAMPLES))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_opposite_and_zero_samples_of_every_activation(name, dtype):
    x = np.random.default_rng(1).standard_normal((40, 5)).astype(dtype)
    x[0] = np.round(x[0] * 4) / 4  # so that the multiple of row 4 is exact
    x[1], x[2], x[3] = x[0], -x[0], 0
    x[4] = x[0] * dtype(1 + 2.0**-20)
    for b_std in (0.0, 0.2):
        k = nk.gram(nk.MLP(3, name, 1.0, b_std), x, layers="all")
        for matrix, alone in zip(k, nk.diagonal(nk.MLP(3, name, 1.0, b_std), x, layers="all"),
                                 strict=True):  # fmt: skip
            assert (np.diagonal(matrix, axis1=1, axis2=2) == alone).all()
            assert np.isfinite(matrix).all()
            assert (matrix[:, 0] == matrix[:, 1]).all()
            if name == "sign" and b_std == 0:  # of equal directions
                assert (matrix[1:, 0] == matrix[1:, 4]).all()
            assert (matrix == matrix.transpose(0, 2, 1)).all()
            for layer in matrix.astype(float):
                low = np.linalg.eigvalsh(layer)[0]
                assert low >= -60 * np.finfo(dtype).eps * np.abs(layer).max()
        shuffled = np.random.default_rng(2).permutation(40)
        again = nk.gram(nk.MLP(3, name, 1.0, b_std), x[shuffled], layers="all")
        for a, b in zip(k, again, strict=True):
            moved = a[:, shuffled][:, :, shuffled]
            root = np.sqrt(np.diagonal(b, axis1=1, axis2=2).astype(float))
            scale = root[:, :, None] * root[:, None, :]
            assert (abs(moved - b) <= 500 * np.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("name", marked(pytest.mark.slow, SIGMA, EXAMPLES))
def test_an_entry_does_not_depend_on_whether_its_neighbours_are_obtuse(name, centre_of_rows):
    x = abs(np.random.default_rng(0).standard_normal((40, 4)))
    net = nk.MLP(3, [name, "relu"], 0.8, 0.1)
    acute, mixed = (
        nk.gram(net, x[:20], np.concatenate([x[20:], sign * x[20:]])) for sign in (1, -1)
    )
    for a, b in zip(acute, mixed, strict=True):
        assert (a[:, :20] == b[:, :20]).all()


@pytest.mark.parametrize("name", ["gelu", "tanh", "sin", "erf", "silu", "polynomial:1,1,0.5"])
def test_small_angles_survive_smooth_layers(name):
    """A kink after a smooth layer depends on angles of 1e-9, which a cosine cannot represent."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 6))
    direction = rng.standard_normal(6)
    steps = 10.0 ** -np.arange(3.0, 10.0)
    rows = np.concatenate([x, x + steps[:, None] * direction])
    k = nk.gram(nk.MLP(3, [name, "relu"], 1.0, 0.1), rows, layers="all").ntk[2]
    # Behind a ReLU, the difference of Θ from its diagonal is proportional to the distance.
    fall = 1 - k[0, 1:] / np.sqrt(k[0, 0] * np.diag(k)[1:])
    ratio = fall / steps
    assert (fall > 0).all()
    np.testing.assert_allclose(ratio[2:] / ratio[-3], 1, atol=2e-3)


def test_mixed_layers_of_all_kinds():
    x = np.random.default_rng(0).standard_normal((30, 4))
    names = ["tanh", "relu", "sin", "erf", "abs", "gelu", "silu", "monomial:2", "gabor"]
    net = nk.MLP(10, names, 1.0, 0.1)
    whole = nk.gram(net, x)
    for threads in (1, 2):
        again = nk.gram(net, x, threads=threads)
        assert (again.ntk == whole.ntk).all() and (again.nngp == whole.nngp).all()
    assert 0 < whole.error[0] < 1e-8 and 0 < whole.error[1] < 1e-3


@pytest.mark.parametrize("name", SIGMA)
def test_a_layer_is_the_network_of_its_depth(name):
    x = np.random.default_rng(0).standard_normal((5, 4))
    x[1], x[2] = -x[0], x[3] * (1 + 1e-7)
    _assert_layers_are_networks(nk.MLP(3, [name, "relu"], 0.9, 0.3), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGMA)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_layer_of_a_deeper_network_is_the_network_of_its_depth(name, dtype):
    x = np.random.default_rng(0).standard_normal((150, 4)).astype(dtype) / 4
    _assert_layers_are_networks(nk.MLP(5, name, 0.9, 0.1), x, threads=2)


@pytest.mark.parametrize(
    ("name", "depth"),
    marked(
        pytest.mark.slow,
        [("silu", 5), ("mish", 4), ("gelu_tanh", 5), ("tanh", 10), ("softplus:1e-6", 6)],
        but=(("silu", 5),),
    ),
)
def test_a_layer_of_a_network_whose_errors_grow_is_the_network_of_its_depth(name, depth):
    """With the tolerance of its activation in every layer, the errors would be above it."""
    x = np.random.default_rng(1).standard_normal((12, 5))
    _assert_layers_are_networks(nk.MLP(depth, name, 1.5, 0.1), x)


def test_a_layer_of_different_tolerances_is_the_network_of_its_depth():
    x = np.random.default_rng(1).standard_normal((12, 5))
    names = ["silu:1e-6", "relu", "silu:1e-4", "erf", "silu:1e-8"]
    _assert_layers_are_networks(nk.MLP(6, names, 1.5, 0.1), x)


@pytest.mark.slow
@pytest.mark.parametrize(("w_std", "depth"), [(0.9, 4), (1.5, 5)])
def test_a_layer_of_a_function_of_python_is_the_network_of_its_depth(w_std, depth):
    x = np.random.default_rng(0).standard_normal((20, 4))
    net = nk.MLP(depth, nk.activations.Numerical(np.tanh, "a_tanh"), w_std, 0.1)
    _assert_layers_are_networks(net, x)


def _assert_layers_are_networks(net, x, **options):
    whole = nk.gram(net, x, layers="all", **options)
    for depth in range(1, net.depth + 1):
        alone = nk.gram(net.first(depth), x, **options)
        for layers, last in zip(whole, alone, strict=True):
            assert (layers[depth - 1] == last).all()


def test_a_layer_of_a_network_that_amplifies_errors_is_within_the_errors_of_both():
    x = np.random.default_rng(1).standard_normal((12, 5))
    net = nk.MLP(10, "tanh:1e-4", 2.5, 0.1)
    whole, alone = nk.gram(net, x, layers="all"), nk.gram(net.first(5), x)
    for k in range(2):
        difference = abs(whole[k][4] - alone[k])
        root = np.sqrt(np.diag(alone[k]))
        bound = whole.error[k] + alone.error[k] + 1e-14
        assert difference.max() > 0 and (difference <= bound * root[:, None] * root).all()
