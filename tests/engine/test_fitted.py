import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.compute.plan import find_largest_norm
from ntk_numba.engine.fitted import fit_network
from ntk_numba.inputs.source import open_source


def test_closed_forms_leave_no_error_and_need_no_data():
    net = nk.MLP(3, ["relu", "gelu"])
    source = open_source(np.ones((2, 2)), "X")
    source.read = None  # its rows must not be read
    fitted = fit_network(net, find_largest_norm(net, source, None), 2)
    assert fitted.net is net and fitted.error == (0.0, 0.0)
    assert [dual.bounds for dual in fitted.duals] == [(0.0, 0.0)] * 2


@pytest.mark.parametrize("name", ["tanh:1e-4", "silu:1e-6", "sigmoid:1e-3"])
@pytest.mark.parametrize("after", marked(pytest.mark.slow, ["relu", "tanh:1e-12", "erf"]))
def test_the_bound_of_a_network_holds(name, after):
    """The reference is the same network at the tightest tolerance."""
    x = np.random.default_rng(0).standard_normal((60, 8))
    net = nk.MLP(3, [name, after], 1.2, 0.1)
    got = nk.gram(net, x, layers="all")
    tight = nk.gram(nk.MLP(3, [name.split(":")[0] + ":1e-13", after], 1.2, 0.1), x, layers="all")
    for k, e, bound in zip(got, tight, got.error, strict=True):
        root = np.sqrt(np.diagonal(e, axis1=1, axis2=2))
        error = np.abs(k - e) / (root[:, :, None] * root[:, None, :])
        assert 0 < error.max() <= bound
    assert got.error[0] < 100 * float(name.split(":")[1])


def test_the_degree_follows_from_all_of_the_data():
    """Parts of a job read only some of the rows, but must use the same degree."""
    x = np.random.default_rng(0).standard_normal((50, 8))
    x[49] *= 2
    net = nk.MLP(2, "tanh:1e-4")
    whole = nk.gram(net, x)
    upper = nk.gram(net, x[:10], x)
    assert (upper.ntk[:, :10] == upper.ntk[:, :10].T).all()
    assert upper.error == whole.error != nk.gram(net, x[:10]).error


def test_files_store_the_bound(tmp_path):
    x = np.random.default_rng(0).standard_normal((300, 8))
    net = nk.MLP(3, "tanh:1e-5", b_std=0.1)
    error = nk.gram(net, x).error
    with nk.write_gram(net, x, tmp_path / "whole.h5") as f:
        whole = f.ntk[:]
        assert f.contents.error == error != (0, 0)
        assert f.verify()
    with nk.write_gram(net, x, tmp_path / "parts.h5", parts=3) as f:
        assert (f.ntk[:] == whole).all() and f.contents.error == error
    with nk.write_gram(nk.MLP(3, b_std=0.1), x, tmp_path / "relu.h5") as f:
        assert f.contents.error == (0, 0)


def test_a_function_of_python_in_a_file(tmp_path):
    x = np.random.default_rng(0).standard_normal((30, 8)) / 2
    own = nk.activations.Numerical(lambda v: v * np.exp(-v * v / 4), "bump", tolerance=1e-4)
    with nk.write_gram(nk.MLP(3, own), x, tmp_path / "a.h5") as f:
        written = f.ntk[:]
    np.testing.assert_array_equal(nk.gram(nk.MLP(3, own), x).ntk, written)
    with nk.open_gram(tmp_path / "a.h5") as f:
        assert f.net.activation[0].name == own.name and (f.ntk[:] == written).all()
        with pytest.raises(ValueError, match=r"activations.register"):
            nk.gram(f.net, x)
    nk.activations.register(own)
    try:
        with nk.open_gram(tmp_path / "a.h5") as f:
            assert f.net == nk.MLP(3, "bump")
            assert (nk.gram(f.net, x).ntk == written).all()
        assert "bump" in nk.activations.names()
    finally:
        nk.activations.table._registered.clear()


@pytest.mark.parametrize(
    ("name", "depth", "w_std"),
    marked(
        pytest.mark.slow,
        [("tanh:1e-6", 12, 2.0), ("tanh", 10, 1.5), ("2*sigmoid", 6, 2.0), ("silu", 10, 1.0)],
        but=(("tanh:1e-6", 12, 2.0),),
    ),
)
def test_the_tolerance_is_that_of_the_result(name, depth, w_std):
    net = nk.MLP(depth, name, w_std, 0.1)
    wanted = net.activation[0].tolerance
    fitted = fit_network(net, 2.0, 4)
    one_layer = nk.activations.get(name).dual(w_std**2 + 0.01).bounds
    assert 0 < max(fitted.error) <= wanted < 100 * max(one_layer) + wanted
    assert fitted.net is net  # its name, in files too, has the tolerance asked for


@pytest.mark.slow
@pytest.mark.parametrize("w_std", [0.9, 1.2, 1.5])
@pytest.mark.parametrize("name", ["tanh", "silu", "softplus", "mish", "gelu_tanh", "arctan:1e-5"])
def test_the_first_layers_are_fitted_as_a_network_of_their_own(name, w_std):
    net = nk.MLP(8, name, w_std, 0.1)
    whole = [dual.bounds for dual in fit_network(net, 3.0, 8).duals]
    for depth in range(2, 8):
        fitted = fit_network(net.first(depth), 3.0, 8)
        assert [dual.bounds for dual in fitted.duals] == whole[: depth - 1]
        assert max(fitted.error) <= net.activation[0].tolerance


def test_with_a_kink_behind_a_series_the_tolerance_is_that_of_the_nngp():
    error = fit_network(nk.MLP(4, ["tanh:1e-6", "tanh:1e-6", "relu"], 1.5), 2.0, 4).error
    assert error[0] <= 1e-6 < error[1] < 1e-2


@pytest.mark.slow
def test_a_finer_tolerance_than_series_have_is_refused_with_one_that_is_reached():
    with pytest.raises(ValueError, match=r"grow from layer to layer.*ask for tanh:") as refused:
        fit_network(nk.MLP(20, "tanh:1e-13", 2.0), 2.0, 4)
    within = refused.value.args[0].rpartition(" ")[2]
    assert max(fit_network(nk.MLP(20, within, 2.0), 2.0, 4).error) <= float(within[5:])


SERIES = [
    "tanh",
    "sigmoid",
    "silu",
    "softplus",
    "mish",
    "gelu_tanh",
    "softsign",
    "arctan",
]


@pytest.mark.parametrize("name", marked(pytest.mark.slow, SERIES, but=("softsign",)))
def test_calls_with_one_range_compute_one_kernel(name):
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((40, 3)), rng.standard_normal((25, 3)) / 4
    net, both = nk.MLP(3, name, 0.8, 0.1), np.concatenate([x, z])
    up_to = float(np.linalg.norm(both, axis=1).max()) * 1.3
    whole = nk.gram(net, both, up_to=up_to)
    for k, xx, zx, zz, d in zip(
        whole,
        nk.gram(net, x, up_to=up_to),
        nk.gram(net, z, x, up_to=up_to),
        nk.gram(net, z, up_to=up_to),
        nk.diagonal(net, z, up_to=up_to),
        strict=True,
    ):
        joint = np.block([[xx, zx.T], [zx, zz]])
        np.testing.assert_allclose(joint, k, rtol=0, atol=2e-14 * k.max())
        assert (d == np.diagonal(zz)).all()
        for matrix in (k, joint):
            values = np.linalg.eigvalsh(matrix)
            assert values[0] > -1e-14 * len(matrix) * values[-1]


def test_a_row_beyond_the_range_is_refused():
    net, x = nk.MLP(2, "tanh:1e-4"), np.array([[1.0, 0.0], [3.0, 4.0]])
    for call in (nk.gram, nk.diagonal):
        with pytest.raises(ValueError, match=r"X: row 1 has norm 5.0, more than up_to=4.0"):
            call(net, x, up_to=4.0)
    with pytest.raises(ValueError, match=r"Z: row 1 has norm 5.0"):
        nk.gram(net, x[:1], x, up_to=4.0)
    assert (nk.gram(net, x[:1], up_to=5).ntk == nk.gram(net, x).ntk[:1, :1]).all()
    with pytest.raises(ValueError, match="up_to must be"):
        nk.gram(net, x, up_to=-1.0)
