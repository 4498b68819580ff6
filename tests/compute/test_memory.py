import copy
import dataclasses
import pickle
import threading

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compute import plan
from ntk_numba.inputs.source import open_source

NET = nk.MLP(4, ["relu", "abs", "leaky_relu:0.2"], [1, 1.2, 0.8, 1], [0, 0.1, 0, 0.3])


def same(a: nk.Gram, b: nk.Gram) -> bool:
    return all((x == y).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_symmetric_with_the_analytic_diagonal(points, dtype, layers):
    k = nk.gram(NET, points, layers=layers, dtype=dtype)
    d = nk.diagonal(NET, points, layers=layers, dtype=dtype)
    for matrix, diagonal in zip(k, d, strict=True):
        assert matrix.dtype == diagonal.dtype == dtype
        assert matrix.shape == (4, 150, 150)[layers == "last" :]
        assert (matrix == np.swapaxes(matrix, -1, -2)).all()
        assert (np.diagonal(matrix, axis1=-2, axis2=-1) == diagonal).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n0", [1, 7, 100, 784])
def test_duplicates_have_exactly_equal_rows(dtype, n0):
    rng = np.random.default_rng(n0)
    x = rng.standard_normal((600, n0))
    copies = np.array([3, 64, 130, 131, 300, 511, 599])
    x[copies] = x[3]
    for matrix in nk.gram(NET, x, dtype=dtype):
        assert (matrix[copies] == matrix[3]).all()
    for matrix in nk.gram(NET, x, x[:77], dtype=dtype):
        assert (matrix[copies] == matrix[3]).all()


@pytest.mark.parametrize("layers", [[4], (1, 3), range(2, 5)])
def test_layers_in_a_list_are_those_of_all(points, layers):
    at = np.array(layers) - 1
    everything, found = (nk.gram(NET, points, points[:20], layers=k) for k in ("all", layers))
    assert same(found, nk.Gram(everything.nngp[at], everything.ntk[at]))
    filled = nk.Gram(None, np.empty((len(layers), 150, 150)))
    nk.gram(NET, points, kernels="ntk", layers=layers, out=filled)
    diagonal = nk.diagonal(NET, points, kernels="ntk", layers=layers).ntk
    assert (np.diagonal(filled.ntk, axis1=1, axis2=2) == diagonal).all()
    assert diagonal.shape == (len(layers), 150)


def test_layers_behind_the_last_in_a_list_are_not_computed(points):
    net = nk.MLP(4, "relu", [1.0, 1.0, 1e200, 1e200])
    assert np.isfinite(nk.gram(net, points, layers=[1, 2]).ntk).all()
    with pytest.raises(ValueError, match="too large for float64"):
        nk.gram(net, points, layers=[1, 4])


def test_the_last_of_all_layers_is_the_last(points):
    all_layers = nk.gram(NET, points, layers="all")
    last = nk.gram(NET, points)
    assert same(last, nk.Gram(all_layers.nngp[-1], all_layers.ntk[-1]))
    shallow = nk.MLP(2, "relu", [1, 1.2], [0, 0.1])
    assert same(nk.gram(shallow, points), nk.Gram(all_layers.nngp[1], all_layers.ntk[1]))


def test_one_kernel_is_one_of_both(points):
    both = nk.gram(NET, points)
    for name in ("nngp", "ntk"):
        one = nk.gram(NET, points, kernels=name)
        assert (getattr(one, name) == getattr(both, name)).all()
        assert (one.ntk if name == "nngp" else one.nngp) is None
    assert nk.diagonal(NET, points, kernels="ntk").nngp is None


def test_cross_is_the_same_function(points):
    full = nk.gram(NET, points)
    for rows, columns in ((150, 40), (1, 150), (150, 150), (150, 1)):
        cross = nk.gram(NET, points[:rows], points[:columns])
        for a, b in zip(cross, full, strict=True):
            # the centre is computed from X, so the last bits may differ
            scale = np.sqrt(np.outer(np.diag(b)[:rows], np.diag(b)[:columns]))
            assert (np.abs(a - b[:rows, :columns]) <= 1e-14 * scale).all()
    square = nk.gram(NET, points, points)
    assert same(square, full)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bits_do_not_depend_on_threads_tiles_or_order(points, dtype, monkeypatch):
    reference = nk.gram(NET, points, dtype=dtype)
    assert same(nk.gram(NET, points, dtype=dtype, threads=1), reference)
    assert same(nk.gram(NET, points, dtype=dtype, threads=64), reference)
    order = np.random.default_rng(1).permutation(150)
    shuffled = nk.gram(NET, points[order], dtype=dtype)
    back = np.argsort(order)
    assert same(nk.Gram(*(m[np.ix_(back, back)] for m in shuffled)), reference)
    for tile in (128, 256, 512):
        monkeypatch.setattr(plan, "tile_size", lambda *shape, tile=tile: tile)
        assert same(nk.gram(NET, points, dtype=dtype), reference)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 129])
def test_any_number_of_samples(n):
    x = np.random.default_rng(0).standard_normal((200, 3))
    few, many = nk.gram(NET, x[:n]), nk.gram(NET, x)
    for a, b in zip(few, many, strict=True):
        assert a.shape == (n, n)
        np.testing.assert_allclose(a, b[:n, :n], rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_positive_semidefinite_to_rounding(digits, dtype):
    """The data contains duplicates and near duplicates."""
    rng = np.random.default_rng(0)
    x = digits[:300] / 16
    x = np.concatenate([x, x[:30], x[:30] + 1e-9 * rng.standard_normal((30, 64)), x[30:60] * 2])
    for b_std in (0, 0.1):
        for matrix in nk.gram(nk.MLP(5, "relu", 2**0.5, b_std), x.astype(dtype)):
            values = np.linalg.eigvalsh(matrix.astype(float))
            assert values[0] >= -len(x) * np.finfo(dtype).eps * values[-1]


def test_scaling_the_data_scales_a_network_without_bias(points):
    net = nk.MLP(5, "leaky_relu:0.1", 1.3)
    a, b = nk.gram(net, points), nk.gram(net, points * 2.0**40)
    assert same(nk.Gram(a.nngp * 2.0**80, a.ntk * 2.0**80), b)


def test_dtype_follows_the_data():
    x = np.random.default_rng(0).standard_normal((3, 2))
    for given, result in (("f8", "f8"), ("f4", "f4"), ("f2", "f8"), ("i4", "f8"), ("?", "f8")):
        assert nk.gram(NET, x.astype(given)).ntk.dtype == np.dtype(result)
        assert nk.diagonal(NET, x.astype(given)).ntk.dtype == np.dtype(result)
    assert nk.gram(NET, x.astype("f4"), x).ntk.dtype == np.float64
    assert nk.gram(NET, x, dtype="float32").ntk.dtype == np.float32


def test_out_is_filled_and_returned(points):
    out = nk.Gram(None, np.full((150, 150), np.nan))
    k = nk.gram(NET, points, kernels="ntk", out=out)
    assert k.ntk is out.ntk and (k.ntk == nk.gram(NET, points).ntk).all()
    filled = nk.Gram(np.empty((4, 150, 150)), np.empty((4, 150, 150)))
    assert nk.gram(NET, points, layers="all", out=filled).nngp is filled.nngp


def test_a_gram_is_a_pair(points):
    k = nk.gram(NET, points)
    nngp, ntk = k
    assert nngp is k.nngp is k[0] and ntk is k.ntk is k[1] and len(k) == 2
    assert k[-1] is ntk and nk.Gram(nngp, ntk).error == (0.0, 0.0)
    with pytest.raises(IndexError):
        k[2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        k.error = (1.0, 1.0)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda k: pickle.loads(pickle.dumps(k))]
)
def test_a_gram_keeps_its_error_when_it_is_copied(copied):
    k = nk.Gram(np.arange(6.0).reshape(2, 3), None, (1e-9, 2e-8))
    new = copied(k)
    assert isinstance(new, nk.Gram) and new is not k and new.error == (1e-9, 2e-8)
    assert (new.nngp == k.nngp).all() and new.ntk is None


def test_a_gram_is_shown_without_its_numbers():
    k = nk.Gram(None, np.zeros((1000, 2000), "f4"), (0.0, 2e-8))
    assert repr(k) == "Gram(nngp=None, ntk=<1000 × 2000, float32>, error=(0.0, 2e-08))"


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (nk.Gram(None, np.empty((3, 3))), ValueError, r"must be float64 of shape \(150, 150\)"),
        (nk.Gram(None, np.empty((150, 150), "f4")), ValueError, "not float32"),
        (nk.Gram(None, np.empty((150, 300))[:, ::2]), ValueError, "C-contiguous"),
        (nk.Gram(None, None), TypeError, "out.ntk must be an array"),
        (np.empty((150, 150)), TypeError, "out must be an ntk_numba.Gram"),
    ],
)
def test_bad_out(points, out, error, text):
    with pytest.raises(error, match=text):
        nk.gram(NET, points, kernels="ntk", out=out)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"kernels": "nkt"}, ValueError, "kernels: 'nkt' is none of nngp, ntk"),
        ({"kernels": []}, ValueError, "kernels is empty"),
        ({"layers": "first"}, ValueError, "layers must be 'last', 'all' or a list"),
        ({"layers": [2, 5]}, ValueError, "there is no layer 5; the network has layers 1 to 4"),
        ({"dtype": "float16"}, ValueError, "dtype must be float64 or float32"),
        ({"dtype": "nonsense"}, ValueError, "dtype must be float64 or float32"),
        ({"threads": 0}, ValueError, "threads must be"),
        ({"Z": np.ones((3, 6))}, ValueError, "Z has 6 features but X has 7"),
        ({"Z": np.full((3, 7), np.nan)}, ValueError, "Z: row 0, column 0"),
        ({"net": "relu"}, TypeError, "net must be an ntk_numba.MLP"),
    ],
)
def test_bad_arguments(points, options, error, text):
    with pytest.raises(error, match=text):
        nk.gram(**{"net": NET, "X": points} | options)


def test_not_finite_data(points):
    points[77, 4] = np.nan
    for call in (nk.gram, nk.diagonal):
        with pytest.raises(ValueError, match="X: row 77, column 4"):
            call(NET, points)


@pytest.mark.parametrize(
    ("dtype", "size", "text"),
    [
        (np.float32, 1e20, "float32; scale the data down or use"),
        (np.float32, 1e200, "float32; scale the data down or use"),
        (np.float64, 1e155, "float64; scale"),
    ],
)
def test_overflow_of_the_norms_names_the_row(dtype, size, text):
    x = np.ones((200, 3))
    x[101] = size
    for call in (nk.gram, nk.diagonal):
        with pytest.raises(ValueError, match=f"X: row 101 has norm .*too large for {text}"):
            call(nk.MLP(2), x, dtype=dtype)
    with pytest.raises(ValueError, match="row 101"):
        nk.gram(nk.MLP(2), np.ones((2, 3)), x, dtype=dtype)


def test_tiny_norms_do_not_underflow_on_the_way():
    """A variance of 1e-320 has almost no digits in float64, but its root has all of them."""
    x = np.array([[1e-160, 0], [1e150, 1e150]])
    with pytest.warns(nk.UnderflowWarning, match="row 0 has norm 1e-160"):  # its own variance
        k = nk.gram(nk.MLP(1), x)
    assert k.nngp[0, 1] == pytest.approx(1e-10 / 2, rel=1e-14)


def test_from_several_threads_at_once(points):
    reference = nk.gram(NET, points)
    results = [None] * 4

    def work(k):
        results[k] = nk.gram(NET, points)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(same(r, reference) for r in results)


def test_data_larger_than_memory_is_read_in_bands(monkeypatch):
    """The matrix of a few samples with many features is small, but the samples are large."""
    x = np.random.default_rng(0).standard_normal((300, 5000))
    reference = nk.gram(NET, x), nk.gram(NET, x, x[:200])
    monkeypatch.setattr(plan, "available_memory", lambda: 4 * 16 << 20)
    assert plan.make_plan(NET, open_source(x, "X"), in_memory=True).band < 3
    assert same(nk.gram(NET, x), reference[0])
    assert same(nk.gram(NET, x, x[:200]), reference[1])
