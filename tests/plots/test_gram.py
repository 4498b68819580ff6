import numpy as np
import pytest

import ntk_numba as nk
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
