import h5py
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk

NET = nk.MLP(3, "relu", b_std=0.1)
KEYS = [
    np.s_[...], np.s_[..., 5, :], np.s_[..., :, 5], np.s_[..., 140, 3], np.s_[..., 3, 140],
    np.s_[..., -1, :], np.s_[..., [3, 70, 149], 60:70], np.s_[..., 60:70, [3, 70, 149]],
    np.s_[..., ::7, 1:140:3], np.s_[..., np.arange(150) % 2 == 0, :5], np.s_[..., 0:0, 5],
    np.s_[..., 100:, :], np.s_[..., 64, 64], np.s_[..., np.int64(3), np.array([0, 149])],
]  # fmt: skip


def random_keys(ndim, count):
    """Return random indices of NumPy's for a matrix of 150 × 150, of up to three layers."""
    rng = np.random.default_rng(0)

    def one(n, kinds):
        kind = rng.choice(kinds)
        if kind == "number":
            return int(rng.integers(-n, n))
        if kind == "slice":
            ends = [None if rng.random() < 0.3 else int(rng.integers(-n - 5, n + 5)) for _ in "ab"]
            step = int(rng.choice([-7, -1, 1, 1, 3]))
            return slice(*ends, step)
        if kind == "mask":
            return rng.random(n) < 0.3
        size = {"list": 5, "empty": 0, "same": 5, "square": (5, 1), "other": (1, 5)}[kind]
        return rng.integers(-n, n, size)

    for _ in range(count):
        first = rng.choice(["number", "slice", "list", "mask", "square"])
        second = ["number", "slice", *(["list", "square"] if first != "mask" else [])]
        lengths = (3, 150, 150)[-ndim:]
        key = [one(150, [first]), one(150, [*second, "other"][: 9 if first != "mask" else 2])]
        if ndim == 3:
            key = [one(lengths[0], ["number", "slice", "same"]), *key]
        yield tuple(key[: int(rng.integers(1, ndim + 1))])


@pytest.fixture(params=["full", "lower"])
def stored(request):
    return request.param


@pytest.mark.parametrize("layers", ["last", "all"])
def test_any_index_of_numpy(points, tmp_path, layers, stored):
    k = nk.gram(NET, points, kernels="ntk", layers=layers).ntk
    nk.write_gram(NET, points, tmp_path / "g.h5", layers=layers, layout=stored).close()
    keys = [
        *random_keys(k.ndim, 150), (..., [3, 1], [2, 5]), (..., np.ix_([9, 3, 9], [-1, 2])[0], 2),
        (..., *np.ix_([149, 3, 149], [-1, 2])), k > np.median(k), (..., [], 3), (..., [], []),
        (..., k.reshape(-1, 150, 150)[0] > 1e9), (..., slice(None, None, -1), [5, 5]), (), ...,
    ]  # fmt: skip
    with nk.open_gram(tmp_path / "g.h5") as f:
        for key in keys:
            try:
                right = k[key]
            except IndexError:  # lists that cannot be broadcast
                with pytest.raises((IndexError, ValueError)):
                    f.ntk[key]
                continue
            found = f.ntk[key]
            assert np.shape(found) == right.shape, key
            assert (found == right).all() and found.dtype == right.dtype


@pytest.mark.parametrize(
    ("layers", "dtype"),
    marked(
        pytest.mark.slow,
        [("last", "float32"), ("all", "float64"), ("last", "float64"), ("all", "float32")],
        [("last", "float32"), ("all", "float64")],
    ),
)
@pytest.mark.parametrize(("other", "stored"), [(None, "full"), (None, "lower"), (70, "full")])
def test_products_are_those_of_the_array(points, tmp_path, layers, dtype, other, stored):
    z = None if other is None else points[:other]
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    k = nk.gram(NET, points, z, kernels="ntk", layers=layers, dtype=dtype).ntk
    path = tmp_path / "g.h5"
    nk.write_gram(
        NET, points, path, Z=z, layers=layers, dtype=dtype, layout=stored
    ).close()  # fmt: skip
    rng = np.random.default_rng(0)
    with nk.open_gram(path) as f:
        for wanted in (np.float64, np.float32, np.int64, complex):
            for shape in ((k.shape[-1],), (k.shape[-1], 1), (k.shape[-1], 3), (k.shape[-1], 0)):
                v = (rng.standard_normal(shape) * 9).astype(wanted)
                right, found = k.astype(float) @ v, f.ntk @ v
                assert found.dtype == (k @ v).dtype and found.shape == right.shape
                scale = np.abs(k).astype(float) @ np.abs(v) + 1
                assert (
                    np.abs(found - right) <= (tolerance + 1e-5 * (found.itemsize == 4)) * scale
                ).all()
                assert (f.ntk @ v == found).all()
            for shape in ((k.shape[-2],), (2, k.shape[-2])):
                v = (rng.standard_normal(shape) * 9).astype(wanted)
                right, found = v @ k.astype(float), v @ f.ntk
                assert found.dtype == (v @ k).dtype and found.shape == right.shape
                scale = np.abs(v) @ np.abs(k).astype(float) + 1
                assert (
                    np.abs(found - right) <= (tolerance + 1e-5 * (found.itemsize == 4)) * scale
                ).all()
        rows, columns = k.shape[-2:]
        for wrong in (
            np.ones(columns + 1),
            np.ones((columns + 1, 2)),
            3.0,
            np.ones((1, columns, 1)),
        ):
            with pytest.raises(ValueError, match="the right factor"):
                f.ntk @ wrong
        with pytest.raises(ValueError, match=r"the left factor .* has .* columns, not"):
            np.ones(rows + 1) @ f.ntk
        with pytest.raises(TypeError, match="holds <U1, not numbers"):
            f.ntk @ np.array(["a"] * columns)
        assert (np.add(f.ntk, 1) == k + 1).all() and (np.asarray(f.ntk) == k).all()


def test_products_of_links_and_of_parts(points, tmp_path):
    k, v = nk.gram(NET, points).ntk, np.arange(150.0)
    parts = [tmp_path / f"g.part-{i}-of-2.h5" for i in (1, 2)]
    for i in (1, 2):
        with (
            nk.write_gram(NET, points, tmp_path / "g.h5", part=(i, 2)) as f,
            pytest.raises(ValueError, match="belongs to another part"),
        ):
            f.ntk @ v
    with nk.merge(parts, tmp_path / "g.h5", link=True) as f:
        assert np.allclose(f.ntk @ v, k @ v, rtol=1e-13) and np.allclose(v @ f.ntk, v @ k)
        assert (f.ntk[[140, 3, 140], [2, 2, 149]] == k[[140, 3, 140], [2, 2, 149]]).all()


def test_a_closed_file_is_named(points, tmp_path, stored):
    with nk.write_gram(NET, points, tmp_path / "g.h5", layout=stored) as f:
        matrix = f.ntk
    for use in (lambda: matrix[0], lambda: matrix[[1, 2]], lambda: matrix @ points[:, 0]):
        with pytest.raises(nk.NtkNumbaError, match="is closed; open it again"):
            use()


def test_each_tile_is_read_once(points, tmp_path, monkeypatch, stored):
    nk.write_gram(NET, points, tmp_path / "g.h5", layout=stored).close()
    reads = []
    original = h5py.Dataset.__getitem__

    def count(self, key, *more):
        found = original(self, key, *more)
        reads.append(found.size)
        return found

    with nk.open_gram(tmp_path / "g.h5") as f:
        monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
        rng = np.random.default_rng(0)
        rows = rng.integers(0, 150, 1000)
        for key, tiles in ((rows, 9), ((rows, rng.integers(0, 150, 1000)), 9)):
            reads.clear()
            f.ntk[key]
            assert len(reads) == tiles


@pytest.fixture(scope="module", params=["last", "all"])
def layers(request):
    return request.param


@pytest.fixture(scope="module", params=["float64", "float32"])
def lower(tmp_path_factory, layers, request):
    points = np.random.default_rng(7).standard_normal((150, 7))
    dtype, path = request.param, tmp_path_factory.mktemp("lower") / "g.h5"
    nk.write_gram(
        NET, points, path, kernels=("nngp", "ntk"), layers=layers, dtype=dtype, layout="lower"
    ).close()  # fmt: skip
    k = nk.gram(NET, points, layers=layers, dtype=dtype)
    with nk.open_gram(path) as f:
        yield f, k


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_the_lower_triangle_answers_everywhere(lower, key):
    f, k = lower
    for name in ("nngp", "ntk"):
        entries, right = getattr(f, name), getattr(k, name)
        found = entries[key]
        assert found.shape == right[key].shape and found.dtype == right.dtype
        assert (found == right[key]).all()


def test_layers_are_chosen_like_rows(lower):
    f, k = lower
    if f.contents.all_layers:
        for key in (1, -1, np.s_[1:], np.s_[[0, 2], 5], np.s_[2, 3:5, 100], np.s_[::2, 3, 3:9]):
            assert (f.ntk[key] == k.ntk[key]).all() and f.ntk[key].shape == k.ntk[key].shape
    else:
        assert (f.ntk[7] == k.ntk[7]).all()
        assert all((a == b).all() for a, b in zip(f.ntk, k.ntk, strict=True))


def test_it_is_like_a_dataset(lower):
    f, k = lower
    assert f.ntk.shape == k.ntk.shape == f.shape and f.ntk.ndim == k.ntk.ndim
    assert f.ntk.size == k.ntk.size and len(f.ntk) == len(k.ntk) and f.ntk.dtype == k.ntk.dtype
    assert (np.asarray(f.ntk) == k.ntk).all()
    assert np.asarray(f.nngp, np.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (np.s_[..., 150, 0], IndexError), (np.s_[..., 0, -151], IndexError),
        (np.s_[0, 0, 0, 0], IndexError), (np.s_[..., [1, 2], [3, 4, 5]], ValueError),
        (np.s_[..., True], TypeError), (np.s_[..., None], TypeError), ("ntk", IndexError),
        (np.s_[..., [150], 0], IndexError), (np.s_[..., 0, np.arange(9) > 3], IndexError),
        (np.s_[..., 0.5, 0], IndexError), (np.s_[..., 0, ...], IndexError),
        (np.s_[..., np.ones((9, 150), bool)], IndexError),
        (np.s_[..., [[1, 2], [3]], 0], IndexError),
    ],
    ids=str,
)  # fmt: skip
def test_bad_indices_are_refused(lower, key, error):
    f, _ = lower
    with pytest.raises(error):
        f.ntk[key]


def test_the_file_holds_half_and_says_where(lower):
    """Other programs can read it: tile k begins at row 64 i and column 64 j, (i, j) = tiles[k]."""
    f, k = lower
    with h5py.File(f.path) as file:
        assert file.attrs["layout"] == "lower" and file.attrs["part"] == "1/1"
        assert [file.attrs[name] for name in ("rows", "columns", "features")] == [150, 150, 7]
        tiles = file["tiles"][:]
        assert tiles.tolist() == [[i, j] for i in range(3) for j in range(i + 1)]
        values = file["ntk"][:].reshape(-1, len(tiles), 64, 64)
        for layer, matrix in enumerate(np.atleast_3d(k.ntk.T).T.reshape(-1, 150, 150)):
            for (i, j), tile in zip(tiles, values[layer], strict=True):
                block = matrix[64 * i : 64 * (i + 1), 64 * j : 64 * (j + 1)]
                assert (tile[: block.shape[0], : block.shape[1]] == block).all()
                assert (tile[block.shape[0] :] == 0).all()


def test_a_part_refuses_what_is_not_its_own(points, tmp_path):
    k = nk.gram(NET, points).ntk
    with nk.write_gram(NET, points, tmp_path / "g.h5", part=(2, 3)) as f:
        mask = f.contents.grid.mask(f.contents.part)
        assert f.complete and f.done.sum() == mask.sum() == 2
        for i in range(3):
            for j in range(3):
                key = np.s_[64 * i : 64 * (i + 1), 64 * j : 64 * (j + 1)]
                if mask[i, j] or mask[j, i]:
                    assert (f.ntk[key] == k[key]).all()
                else:
                    with pytest.raises(
                        ValueError, match=r"is not done yet or belongs to another part"
                    ):
                        f.ntk[key]
        with pytest.raises(ValueError, match="another part"):
            np.asarray(f.ntk)


def test_the_layout_is_the_triangle_of_one_data_set(points, tmp_path):
    with pytest.raises(ValueError, match="a matrix of two data sets has no triangle"):
        nk.write_gram(NET, points, tmp_path / "g.h5", Z=points[:3], layout="lower")
    with pytest.raises(ValueError, match="layout must be 'full' or 'lower', not 'upper'"):
        nk.write_gram(NET, points, tmp_path / "g.h5", layout="upper")
    assert list(tmp_path.iterdir()) == []
