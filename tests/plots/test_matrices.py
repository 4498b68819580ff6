"""Pictures of kernels."""

import json
import os
import tracemalloc

import h5py
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.digest import Digest
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import new_file
from ntk_numba.grid import Grid
from ntk_numba.plots import matrices, shown, spectra

PNG = b"\x89PNG"
NET = nk.MLP(3)


@pytest.fixture
def file(points, tmp_path):
    with nk.write_gram(NET, points, tmp_path / "g.h5", kernels=("nngp", "ntk"), layers="all") as f:
        yield f


def pixels(figure):
    return figure.axes[0].images[0].get_array().data


def what(matrix):
    with shown.shown(matrix) as found:
        return found


def test_files_are_drawn_and_written(file, points, tmp_path, monkeypatch):
    np.save(tmp_path / "y.npy", np.arange(150) % 3)
    monkeypatch.setattr(matrices, "PIXELS", 40)
    a = nk.plots.gram(file, tmp_path / "a.png", labels=tmp_path / "y.npy")
    assert (tmp_path / "a.png").read_bytes()[:4] == PNG
    b = nk.plots.gram(tmp_path / "g.h5", kernel="nngp", layer=2)
    assert pixels(a).shape == pixels(b).shape == (40, 40) and (pixels(a) != pixels(b)).any()
    with nk.write_gram(nk.MLP(2), points, tmp_path / "c.h5", Z=points[:20]) as cross:
        figure = nk.plots.gram(cross)
    assert figure.axes[1].get_title() == "Singular values"
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_titles_name_the_kernel_the_layer_and_its_network(file, points):
    figure = nk.plots.gram(file, layer=2)
    assert figure.get_suptitle() == str(NET.first(2)) != str(NET)
    assert figure.axes[0].get_title() == "Θ∞ of layer 2 of 3, 150 × 150"
    figure = nk.plots.spectrum(file, kernel="nngp", layer=1)
    assert figure.get_suptitle() == str(NET.first(1))
    assert figure.axes[0].get_title() == "Σ of layer 1 of 3: eigenvalues"
    k = nk.gram(NET, points, layers="all")
    figure = nk.plots.gram(k, net=NET, spectrum=False)
    assert figure.get_suptitle() == str(NET) and len(figure.axes) == 2  # with the bar of colours
    assert figure.axes[0].get_title() == "Θ∞ of layer 3 of 3, 150 × 150"
    last = nk.plots.gram(k.nngp[-1], kernel="nngp", net=NET)
    assert last.axes[0].get_title() == "Σ, 150 × 150" and last.get_suptitle() == str(NET)
    assert nk.plots.gram(k.nngp[-1]).axes[0].get_title() == "K, 150 × 150"


def test_layers_that_were_chosen(points):
    deep = nk.MLP(10, b_std=0.1)
    k = nk.gram(deep, points, layers=[3, 5, 10])
    figure = nk.plots.gram(k, layers=[3, 5, 10], layer=5, net=deep, spectrum=False)
    assert figure.axes[0].get_title() == "Θ∞ of layer 5 of 10, 150 × 150"
    assert figure.get_suptitle() == str(deep.first(5)) and (pixels(figure) == k.ntk[1]).all()
    figure = nk.plots.spectrum(k.nngp[:2], layers=[3, 5], kernel="nngp")
    assert figure.axes[0].get_title() == "Σ of layer 5 of 5: eigenvalues"


def test_the_same_matrix_from_anything_that_holds_it(file, points, tmp_path):
    k = nk.gram(NET, points, layers="all")
    np.save(tmp_path / "k.npy", k.ntk[2])
    np.savez(tmp_path / "k.npz", k=k.ntk[2])
    with h5py.File(tmp_path / "data.h5", "w") as data:
        data["k"] = k.ntk[2]
    with h5py.File(tmp_path / "data.h5") as data:
        held = [
            file, file.path, str(file.path), file.ntk, k, k.ntk, k.ntk[2], k.ntk[2].tolist(),
            data["k"], tmp_path / "k.npy", f"{tmp_path}/k.npz:k", f"{tmp_path}/data.h5:k",
            np.load(tmp_path / "k.npy", mmap_mode="r"),
        ]  # fmt: skip
        for matrix in held:
            with shown.shown(matrix) as found:
                assert (found.thinned(150)[0] == k.ntk[2]).all()


def test_scales(points):
    k = nk.gram(nk.MLP(3, b_std=0.1), points).ntk
    root = np.sqrt(np.diagonal(k))
    cosines = nk.plots.gram(k, scale="normalized").axes[0].images[0]
    assert cosines.get_array().data == pytest.approx(k / np.outer(root, root), rel=1e-14)
    log = nk.plots.gram(k, scale="log", spectrum=False)
    assert type(log.axes[0].images[0].norm).__name__ == "LogNorm" and (pixels(log) == k).all()
    clipped = nk.plots.gram(k, scale="clipped", spectrum=False).axes[0].images[0]
    assert clipped.get_clim() == pytest.approx(tuple(np.percentile(k, (1, 99))))
    assert nk.plots.gram(k).axes[0].images[0].get_clim() == (k.min(), k.max())


@pytest.mark.parametrize("scale", marked(pytest.mark.slow, matrices.SCALES, ["log", "clipped"]))
@pytest.mark.parametrize("k", [np.full((3, 3), 2.0), np.array([[0.5]]), np.ones((4, 1, 1))])
def test_constant_and_single_entries(k, scale):
    low, high = nk.plots.gram(k, scale=scale, spectrum=k.size == 1).axes[0].images[0].get_clim()
    assert low < k.min() <= k.max() < high or low < 1 < high  # cosines are 1


def test_zeros_and_integers_are_drawn():
    figure = nk.plots.gram(np.zeros((3, 3), "uint8"))
    assert figure.axes[1].get_legend().get_texts()[0].get_text() == "all eigenvalues are 0"


def test_rows_come_sorted_by_label(file):
    labels = np.arange(150)[::-1]
    matrix, rows, columns = what(file).thinned(1000, labels)
    assert (rows == np.arange(150)[::-1]).all() and (columns == rows).all()
    assert (matrix == file.ntk[2][::-1, ::-1]).all()
    figure = nk.plots.gram(file.ntk[2][:], labels=[f"l{k:03}" for k in labels], spectrum=False)
    assert (pixels(figure) == matrix).all()


def test_labels_of_square_matrices_of_two_data_sets_sort_rows_only(points):
    k = nk.gram(NET, points, points + 1).ntk
    figure = nk.plots.gram(k, labels=np.arange(150)[::-1])
    assert (pixels(figure) == k[::-1]).all()
    assert figure.axes[1].get_title() == "Singular values"


def test_thinned_matrices_are_those_of_their_rows(file, monkeypatch):
    monkeypatch.setattr(shown, "EVEN", 1)
    monkeypatch.setattr(shown, "RUNS", 2)
    for groups in (None, np.arange(150) % 7):
        matrix, rows, _ = what(file).thinned(60, groups)
        assert len(set(rows)) == 60 and rows.max() == 149
        assert (matrix == file.ntk[2][np.ix_(rows, rows)]).all()


def test_a_picture_of_ten_million_rows_reads_few_tiles(tmp_path, monkeypatch):
    """A file may claim any size and have no tiles: memory and time do not grow with it."""
    n, net = 10**7, nk.MLP(2)
    table = np.ones((2 + n // 512, 32), np.uint8)
    contents = Contents(
        network=json.dumps(net.to_dict()), kernels=("ntk",), layers="last", part=None, z=None,
        dtype=np.dtype("f8"), grid=Grid(n, n, True, 512), x=Digest.from_table((n, 3), table),
    )  # fmt: skip
    fd = disk.create(tmp_path / "g.h5")
    with new_file(fd, Header(contents, 1, "1")) as file:
        file.create_dataset("ntk", (n, n), "f8", chunks=(512, 512))
    os.close(fd)
    monkeypatch.setattr(matrices, "PIXELS", 100)
    monkeypatch.setattr(spectra, "LARGEST", 100)
    with nk.open_gram(tmp_path / "g.h5") as f:
        tracemalloc.start()
        figure = nk.plots.gram(f)
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert largest < 64 << 20
    assert figure.axes[1].get_title() == "Eigenvalues of 96 rows, in 32 runs"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layer": 4}, "layer must be 1 to 3 in this file, not 4"),
        ({"layer": 0}, "layer must be at least 1"),
        ({"path": "g.xyz"}, "g.xyz: its ending must be one of"),
        ({"kernel": "abc"}, "kernel must be 'ntk' or 'nngp', not 'abc'"),
        ({"net": "relu"}, "net must be an ntk_numba.MLP, not str"),
        ({"scale": "cubic"}, "scale must be one of linear, normalized, log, clipped, not 'cubic'"),
        ({"labels": np.zeros(3)}, "labels has the shape 3; the matrix has 150 rows"),
        ({"labels": [None] * 150}, "labels: object is no type of labels"),
    ],
)
def test_bad_options(file, tmp_path, options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        nk.plots.gram(**{"matrix": file, "path": tmp_path / "p.png"} | options)
    assert not (tmp_path / "p.png").exists()


NAN = np.eye(9)
NAN[7, 2] = np.nan
SIGNS = np.array([[1.0, -2.0], [-2.0, 5.0]])


@pytest.mark.parametrize(
    ("matrix", "options", "text"),
    [
        (NAN, {}, "the entry of row 7, column 2 is nan"),
        (-np.full((2, 2), np.inf), {"scale": "log"}, "row 0, column 0 is -inf"),
        (np.diag([1, 1e200]), {}, r"row 1, column 1 is 1e\+200; .* of at most 1e\+150"),
        (np.full((2, 2), 5e-324), {"scale": "log"}, "positive entries"),
        (np.eye(2) * 1e-300, {}, "the largest entry is 1e-300, too small for a bar of colours"),
        (np.zeros((0, 3)), {}, r"matrix is empty \(0 × 3\)"),
        (np.zeros((2, 0, 0)), {}, "is empty"),
        (np.zeros((0, 2, 2)), {}, "is empty"),
        ([[1, 2], [3]], {}, "matrix"),
        (np.eye(2) * 1j, {}, "matrix"),
        (np.ones(3), {}, "matrix"),
        (3.0, {}, "matrix"),
        (None, {}, "matrix"),
        (nk.Gram(None, None), {}, "the Gram holds no kernel"),
        (nk.Gram(None, np.eye(2)), {"kernel": "nngp"}, "the Gram holds ntk, not nngp"),
        (np.eye(2), {"layer": 2}, "layer must be 1 of matrix, not 2"),
        (np.ones((2, 3, 3)), {"net": NET}, "matrix has 2 layers, and net has 3; name its layers"),
        (np.ones((2, 3, 3)), {"net": NET, "layers": [2, 4]}, "there is no layer 4"),
        (np.ones((2, 3, 3)), {"layers": [2]}, "layers names 1 layers, and matrix has 2"),
        (np.ones((2, 3, 3)), {"layers": [2, 9], "layer": 5}, "layer must be 2, 9 of matrix, not 5"),
        (np.ones((2, 3, 3)), {"layers": [3, 2]}, "increasing order"),
        (np.ones((2, 3, 3)), {"layers": 3}, "layers must be"),
        (SIGNS, {"scale": "log"}, "positive entries, and that of row 0, column 1 is -2"),
        (np.eye(2) - 1, {"scale": "normalized"}, "is 0 in row 0"),
        (np.ones((2, 3)), {"scale": "normalized"}, "no symmetric matrix"),
    ],
)
def test_bad_matrices(matrix, options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        nk.plots.gram(matrix, **options)
