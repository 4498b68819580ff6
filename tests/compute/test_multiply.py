"""Products that are computed tile by tile, against matrices by plain NumPy and by `gram`."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba import stopping
from ntk_numba.activations.table import example
from ntk_numba.compute.multiply import ComputedMatrix
from ntk_numba.compute.plan import make_plan
from ntk_numba.engine.product_tile import WIDTH
from ntk_numba.grid import Part

DTYPES = [np.float64, np.float32]
NET = nk.MLP(3, "relu", [1.2, 1.4, 1.1], [0.1, 0.0, 0.3])
RNG = np.random.default_rng(0)
X, Z = RNG.standard_normal((200, 5)), RNG.standard_normal((71, 5))
V = RNG.standard_normal((200, WIDTH + 3))


def relu_kernel(net: nk.MLP, x: np.ndarray, z: np.ndarray, kernel: str) -> np.ndarray:
    """A kernel of a ReLU network by the formula of the arc-cosine kernel."""

    def covariance(product, layer):
        return net.w_std[layer] ** 2 * product + net.b_std[layer] ** 2

    n0 = x.shape[1]
    sigma = covariance(x @ z.T / n0, 0)
    own, others = (covariance((a * a).sum(axis=1) / n0, 0) for a in (x, z))
    theta = sigma
    for layer in range(1, net.depth):
        scale = np.sqrt(np.outer(own, others))
        cos = np.clip(sigma / scale, -1, 1)
        if x is z:
            np.fill_diagonal(cos, 1)
        angle = math.pi - np.arccos(cos)
        sigma = covariance(scale * (np.sqrt(1 - cos**2) + angle * cos) / (2 * math.pi), layer)
        theta = net.w_std[layer] ** 2 * angle / (2 * math.pi) * theta + sigma
        own, others = covariance(own / 2, layer), covariance(others / 2, layer)
    return sigma if kernel == "nngp" else theta


def matrix(*data, net=NET, **options) -> ComputedMatrix:
    return ComputedMatrix(net, *data, **options)


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_a_product_is_that_of_the_formula(kernel):
    k, cross = relu_kernel(NET, X, X, kernel), relu_kernel(NET, X, Z, kernel)
    for columns in (V, V[:, :1], np.asfortranarray(V[:, :10])):
        np.testing.assert_allclose(
            matrix(X, kernel=kernel).multiply(columns), k @ columns, rtol=0, atol=1e-11
        )
    both = matrix(X, Z, kernel=kernel)
    np.testing.assert_allclose(both.multiply(V[:71]), cross @ V[:71], rtol=0, atol=1e-11)
    np.testing.assert_allclose(both.multiply(V, True), cross.T @ V, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "m"), marked(pytest.mark.slow, [(200, 71), (1, 1), (1, 200), (129, 3)])
)
def test_entries_are_those_of_gram_and_products_are_in_float64(n, m, dtype):
    x, z = X[:n], np.resize(Z, (m, 5))
    for data, k in (
        ((x,), nk.gram(NET, x, dtype=dtype)),
        ((x, z), nk.gram(NET, x, z, dtype=dtype)),
    ):
        own, k = matrix(*data, dtype=dtype), k.ntk.astype(float)
        right, left = V[: k.shape[1]], V[: k.shape[0]]
        for found, exact, size in (
            (own.multiply(right), k @ right, np.abs(k) @ np.abs(right)),
            (own.multiply(left, True), k.T @ left, np.abs(k.T) @ np.abs(left)),
        ):
            assert (np.abs(found - exact) <= 4e-15 * size).all()
        indices = [k.shape[1] - 1, 0, k.shape[1] - 1]
        assert (own.columns(np.array(indices)) == k[:, indices]).all()
    assert (matrix(x, dtype=dtype).diagonal() == nk.diagonal(NET, x, dtype=dtype).ntk).all()


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, DTYPES))
def test_bits_depend_neither_on_threads_nor_on_columns_parts_or_bands(dtype, monkeypatch):
    own = matrix(X, dtype=dtype)
    whole = own.multiply(V)
    assert (matrix(X, dtype=dtype, threads=1).multiply(V) == whole).all()
    for k in (0, WIDTH - 1, WIDTH + 1):
        assert (own.multiply(V[:, k : k + 2]) == whole[:, k : k + 2]).all()
    for count in (1, 3, 7):
        sums, exponents = own.multiply_part(V, Part(1, count))
        for number in range(2, count + 1):
            more, _ = own.multiply_part(V, Part(number, count))
            sums.merge(more.totals, more.rests)
        assert (np.ldexp(sums.result(), exponents) == whole).all()

    def in_bands(*arguments, **options):
        found = make_plan(*arguments, **options)
        return replace(found, band=1, batch=2, resident=False)

    monkeypatch.setattr("ntk_numba.compute.multiply.make_plan", in_bands)
    banded = matrix(X, dtype=dtype)
    assert (banded.multiply(V) == whole).all()
    assert (banded.columns(np.array([3, 199])) == own.columns(np.array([3, 199]))).all()
    blocks, padded = np.empty((2, 3, 128, 128), dtype)
    held = counted(banded, monkeypatch)
    banded.load(places := [(0, 0), (1, 0), (1, 1)], padded, 128)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: banded.load([places[n]], blocks[n : n + 1], 128), range(3)))
    assert max(held) == 2 * banded.tile  # of all blocks together, as the plan counts
    own.load(places, padded, 128)
    assert (blocks == padded).all() and not blocks[1, 72:].any()
    both = matrix(X, Z, dtype=dtype).multiply(V[:71])
    monkeypatch.undo()
    assert (both == matrix(X, Z, dtype=dtype).multiply(V[:71])).all()


def counted(own, monkeypatch):
    """Return a list of the samples that are in memory while single blocks are computed."""
    compute, held, now = own._alone.compute_alone, [], []

    def compute_alone(tiles, rows, columns, *outputs):
        now.append(len(rows.spread) + (columns is not rows) * len(columns.spread))
        time.sleep(1e-3)
        held.append(sum(now))
        compute(tiles, rows, columns, *outputs)
        now.pop()

    monkeypatch.setattr(own._alone, "compute_alone", compute_alone)
    return held


def test_powers_of_two_of_columns_pass_through():
    own, scales = matrix(X), np.array([2.0**900, 2.0**-900, 1.0])
    plain = own.multiply(V[:, :3])
    assert (own.multiply(V[:, :3] * scales) == plain * scales).all()
    assert (own.multiply(np.zeros((200, 2))) == 0).all()
    assert own.multiply(np.zeros((200, 0))).shape == (200, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_and_of_extreme_lengths(dtype):
    x, small, large = X[:70].copy(), (1e-150, 1e-18)[dtype == np.float32], 1e15
    x[3], x[5], x[7], x[9] = 0, x[5] * small, x[7] * large, x[9] * small**1.3
    net = nk.MLP(2, "relu", 2**0.5)
    with pytest.warns(nk.UnderflowWarning, match="row 9"):
        found = matrix(x, net=net, dtype=dtype).multiply(V[:70])
    with pytest.warns(nk.UnderflowWarning, match="row 9"):
        k = nk.gram(net, x, kernels="ntk", dtype=dtype).ntk.astype(float)
    assert k[9, 9] == 0 < abs(k[9]).max()
    size, error = np.abs(k) @ np.abs(V[:70]), np.abs(found - k @ V[:70])
    assert (np.delete(error - 1e-14 * size, 9, axis=0) <= 0).all()
    # a row whose diagonal has underflowed has few digits, but no wrong ones
    assert (error[9] <= size[9]).all() and (found[3] == 0).all()


@pytest.mark.parametrize("name", marked(pytest.mark.slow, ["erf", "elu", "tanh", "abs"]))
def test_activations_of_all_kinds(name):
    net, x = nk.MLP(3, example(name), 1.1, 0.2), 0.3 * X[:130]
    k = nk.gram(net, x, kernels="ntk").ntk
    own = matrix(x, net=net)
    np.testing.assert_allclose(own.multiply(V[:130]), k @ V[:130], rtol=0, atol=1e-12 * k.max())
    assert (own.columns(np.arange(130)) == k).all()


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, DTYPES))
def test_blocks_are_those_of_gram(dtype):
    own = matrix(X, dtype=dtype)
    padded = np.zeros((256, 256), dtype)
    padded[:200, :200] = nk.gram(NET, X, kernels="ntk", dtype=dtype).ntk
    for tile in (own.tile, 2 * own.tile, 4 * own.tile):
        for kind in DTYPES:
            places = [(i, j) for i in range(256 // tile) for j in range(i + 1)][::-1]
            out = np.full((len(places), tile, tile), np.nan, kind)
            own.load(places, out, tile)
            alone = np.full_like(out, np.nan)
            with ThreadPoolExecutor(3) as pool:
                parts = zip(places, alone, strict=True)
                list(pool.map(lambda p, t=tile: own.load([p[0]], p[1][None], t), parts))
            assert (alone == out).all()
            for block, (i, j) in zip(out, places, strict=True):
                a, b = i * tile, j * tile
                assert (block == padded[a : a + tile, b : b + tile].astype(kind)).all()


def test_what_is_known_is_not_read_again_and_changes_are_noticed(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    np.save(path, X)
    own = matrix(path)
    first = own.multiply(V)
    monkeypatch.setattr("ntk_numba.inputs.source.Source.read", None)
    assert own.resident and (own.multiply(V) == first).all()
    monkeypatch.undo()
    np.save(path, X + 1)
    for call in (lambda: own.multiply(V), lambda: own.columns(np.array([0]))):
        with pytest.raises(OSError, match="has changed since it was opened"):
            call()


def test_memory_counts_vectors_and_is_respected():
    own = matrix(X, memory="20MiB")
    with pytest.raises(ValueError, match="memory=20 MiB is too little"):
        own.multiply(np.ones((200, 2000)))
    with pytest.raises(ValueError, match="memory=1 MiB is too little"):
        matrix(X, memory="1MiB")


def test_a_longer_row_and_nan_are_refused():
    with pytest.raises(ValueError, match="up_to"):
        matrix(X, net=nk.MLP(2, "elu"), up_to=1e-3)
    bad = X.copy()
    bad[4, 2] = np.nan
    with pytest.raises(ValueError, match="Z: row 4, column 2"):
        matrix(X, bad)


def test_the_identity_is_of_all_that_entries_follow_from():
    different = [
        matrix(X),
        matrix(X, kernel="nngp"),
        matrix(X, dtype=np.float32),
        matrix(X, net=nk.MLP(3, "relu")),
        matrix(X, X),
        matrix(X + 1e-9),
        matrix(X, net=nk.MLP(2, "elu"), up_to=10),
        matrix(X, net=nk.MLP(2, "elu"), up_to=11),
    ]
    assert len({m.identity for m in different}) == len(different)
    assert matrix(X.copy(), threads=1, memory="1GiB").identity == different[0].identity


def test_a_request_to_stop_is_heard_between_batches(monkeypatch):
    own = matrix(X)
    monkeypatch.setattr(stopping, "_asked", True)
    with pytest.raises(stopping.StopRequested):
        own.multiply(V)
