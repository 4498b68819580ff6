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
