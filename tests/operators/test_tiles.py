"""Tiles of any symmetric matrix against blocks of it."""

import numpy as np
import pytest
from marks import marked
from scipy.sparse.linalg import aslinearoperator

import ntk_numba as nk
from ntk_numba.compiled.arrays import aligned
from ntk_numba.operators.operator import as_operator
from ntk_numba.operators.tiles import open_tiles

NET = nk.MLP(3, "relu", b_std=0.1)
GIVEN = ["full", "lower", "linked", "array", "map", "operator"]
X = np.random.default_rng(3).standard_normal((150, 6))


@pytest.fixture(params=marked(pytest.mark.slow, ["float64", "float32"]))
def k(request):
    return nk.gram(NET, X, kernels="ntk", dtype=request.param).ntk


@pytest.fixture(params=marked(pytest.mark.slow, GIVEN, ["lower", "array"]))
def given(request, k, tmp_path):
    path, kind = tmp_path / "g.h5", request.param
    if kind == "array":
        return k
    if kind == "map":
        np.save(tmp_path / "k.npy", k)
        return np.load(tmp_path / "k.npy", mmap_mode="r")
    if kind == "linked":
        for i in (1, 2):
            nk.write_gram(NET, X, path, part=(i, 2), dtype=k.dtype).close()
        nk.merge([tmp_path / f"g.part-{i}-of-2.h5" for i in (1, 2)], path, link=True).close()
    else:
        layout = "lower" if kind == "operator" else kind
        nk.write_gram(NET, X, path, layout=layout, dtype=k.dtype).close()
    return as_operator(path) if kind == "operator" else path


def blocks_of(k, tile):
    """Return the places of all blocks of an edge, and the blocks with zeros beyond the matrix."""
    down = -(-len(k) // tile)
    padded = np.zeros((down * tile, down * tile), k.dtype)
    padded[: len(k), : len(k)] = k
    places = [(i, j) for i in range(down) for j in range(i + 1)]
    cut = [padded[i * tile : (i + 1) * tile, j * tile : (j + 1) * tile] for i, j in places]
    return places, np.array(cut)


def test_blocks_of_any_edge(given, k):
    with open_tiles(given) as tiles:
        assert (
            tiles.size == 150
            and tiles.dtype == k.dtype
            and (tiles.diagonal() == k.diagonal()).all()
        )
        assert tiles.identity == tiles.identity and len(tiles.identity) == 32
        for edge in {tiles.tile, 64, 128, 256, 512} - {t for t in (64, 128, 256) if t < tiles.tile}:
            places, right = blocks_of(k, edge)
            for out in (np.full(right.shape, np.nan, k.dtype), aligned(right.shape, k.dtype)):
                tiles.load(places, out, edge)
                assert (out == right).all()
            order = np.random.default_rng(0).permutation(len(places))
            out = np.full(right.shape, np.nan, k.dtype)
            tiles.load([places[n] for n in order], out, edge)
            assert (out == right[order]).all()
            double = np.empty(right.shape, float)
            tiles.load(places, double, edge)
            assert (double == right).all()
        tiles.load([], np.empty((0, tiles.tile, tiles.tile), k.dtype), tiles.tile)


def test_matrices_smaller_than_a_tile(tmp_path):
    for size in (1, 5):
        x, path = X[:size], tmp_path / f"{size}.h5"
        k = nk.gram(NET, x, kernels="ntk").ntk
        nk.write_gram(NET, x, path, layout="lower").close()
        for given in (k, path):
            with open_tiles(given) as tiles:
                out = np.full((1, tiles.tile, tiles.tile), np.nan)
                tiles.load([(0, 0)], out, tiles.tile)
                assert (out[0, :size, :size] == k).all() and np.count_nonzero(out) == size**2


def test_a_damaged_tile_is_named(tmp_path):
    path = tmp_path / "g.h5"
    with nk.write_gram(NET, X, path, layout="lower") as f:
        at = f.tile_map.tile_at("ntk", 0, 1, 0)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"damage!!")
    with open_tiles(path) as tiles:
        out = np.empty((1, 128, 128))
        for edge, place in ((64, (1, 0)), (128, (0, 0))):
            with pytest.raises(ValueError, match=r"g.h5: tile \(1, 0\) of ntk does not match its"):
                tiles.load([place], out[:, :edge, :edge], edge)
        tiles.load([(1, 1)], out[:, :64, :64], 64)


def test_rounding_below_the_diagonal_counts():
    k = np.eye(5)
    k[0, 4] = 1e-12
    with open_tiles(k) as tiles:
        out = np.empty((1, 512, 512))
        tiles.load([(0, 0)], out, 512)
        assert out[0, 0, 4] == out[0, 4, 0] == 0


def test_what_has_no_tiles_is_refused(tmp_path):
    for wrong in (aslinearoperator(np.eye(3)), as_operator(aslinearoperator(np.eye(3)))):
        with pytest.raises(TypeError, match="an operator of SciPy"):
            open_tiles(wrong)
    with pytest.raises(ValueError, match="matrix is not symmetric"):
        open_tiles(np.arange(9.0).reshape(3, 3), name="matrix")
    with nk.write_gram(NET, X, tmp_path / "g.h5", part=(1, 2)) as part:
        for opened in (open_tiles, as_operator, lambda f: f.operator("ntk")):
            with pytest.raises(ValueError, match="is not done yet or belongs to another part"):
                opened(part)
    with nk.write_gram(NET, X, tmp_path / "c.h5", Z=X[:9], kernels=("nngp", "ntk")) as cross:
        with pytest.raises(ValueError, match="two kernels; choose one"):
            open_tiles(cross)
        with pytest.raises(ValueError, match=r"gram.nngp must be a square matrix, not \(150, 9\)"):
            open_tiles(cross, "nngp")
