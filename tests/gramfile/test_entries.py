import h5py
import numpy as np
import pytest

import ntk_numba as nk

NET = nk.MLP(3, "relu", b_std=0.1)
KEYS = [
    np.s_[...], np.s_[..., 5, :], np.s_[..., :, 5], np.s_[..., 140, 3], np.s_[..., 3, 140],
    np.s_[..., -1, :], np.s_[..., [3, 70, 149], 60:70], np.s_[..., 60:70, [3, 70, 149]],
    np.s_[..., ::7, 1:140:3], np.s_[..., np.arange(150) % 2 == 0, :5], np.s_[..., 0:0, 5],
    np.s_[..., 100:, :], np.s_[..., 64, 64], np.s_[..., np.int64(3), np.array([0, 149])],
]  # fmt: skip


@pytest.fixture(params=["last", "all"])
def whole(points, request):
    return nk.gram(NET, points, layers=request.param)


@pytest.fixture(params=["float64", "float32"])
def lower(points, tmp_path, whole, request):
    layers = "all" if whole.ntk.ndim == 3 else "last"
    dtype, path = request.param, tmp_path / "g.h5"
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
        (np.s_[0, 0, 0, 0], IndexError), (np.s_[..., [1, 2], [3, 4]], TypeError),
        (np.s_[..., True], TypeError), (np.s_[..., None], TypeError), ("ntk", IndexError),
        (np.s_[..., [[1, 2], [3, 4]], 0], TypeError), (np.s_[..., 0, np.arange(9) > 3], IndexError),
        (np.s_[..., 0.5, 0], IndexError),
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
