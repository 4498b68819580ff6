import json
import os
import tracemalloc

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.digest import Digest
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import new_file
from ntk_numba.grid import Grid
from ntk_numba.plots import gram as plot
from ntk_numba.plots.gram import plot_gram

PNG = b"\x89PNG"


@pytest.fixture
def file(points, tmp_path):
    with nk.write_gram(
        nk.MLP(3), points, tmp_path / "g.h5", kernels=("nngp", "ntk"), layers="all"
    ) as f:
        yield f


def test_pictures(file, points, tmp_path, monkeypatch):
    np.save(tmp_path / "y.npy", np.arange(150) % 3)
    monkeypatch.setattr(plot, "PIXELS", 40)
    plot_gram(file, tmp_path / "a.png", labels=tmp_path / "y.npy")
    plot_gram(file, tmp_path / "b.png", kernel="nngp", layer=2)
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert a[:4] == b[:4] == PNG and a != b
    with nk.write_gram(nk.MLP(2), points, tmp_path / "c.h5", Z=points[:20]) as cross:
        plot_gram(cross, tmp_path / "c.pdf")
    assert (tmp_path / "c.pdf").read_bytes()[:4] == b"%PDF"


def test_rows_come_sorted_by_label(file):
    labels = np.arange(150)[::-1]
    matrix, rows = plot._thinned(file, "ntk", 2, labels, 1000)
    assert (rows == np.arange(150)[::-1]).all()
    assert (matrix == file.ntk[2][::-1, ::-1]).all()


def test_thinned_matrices_are_those_of_their_rows(file, monkeypatch):
    monkeypatch.setattr(plot, "EVEN", 1)
    monkeypatch.setattr(plot, "RUNS", 2)
    for groups in (None, np.arange(150) % 7):
        matrix, rows = plot._thinned(file, "ntk", 2, groups, 60)
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
    monkeypatch.setattr(plot, "PIXELS", 100)
    monkeypatch.setattr(plot, "SPECTRUM", 100)
    with nk.open_gram(tmp_path / "g.h5") as f:
        tracemalloc.start()
        plot_gram(f, tmp_path / "g.png")
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert largest < 64 << 20
    assert (tmp_path / "g.png").read_bytes()[:4] == PNG


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layer": 4}, "layer must be 1 to 3"),
        ({"layer": 0}, "layer must be 1 to 3"),
        ({"path": "g.xyz"}, "g.xyz: "),
        ({"kernel": "abc"}, "holds nngp, ntk, not abc"),
    ],
)
def test_bad_options(file, tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        plot_gram(**{"file": file, "path": tmp_path / "p.png"} | options)
