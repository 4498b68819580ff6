"""The picture of Θ against the angle."""

import matplotlib.figure
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.plots import angle as angle_plot


def test_bands_narrow_around_the_exact_curve(tmp_path, monkeypatch):
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *a, **k: (figures.append(self), save(self, *a, **k)),
    )
    net = nk.MLP(3, "relu", 2**0.5, 0.1)
    angle_plot.plot_angle(net, tmp_path / "a.png", (32, 512), draws=40)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    exact = lines[r"$\Theta_\infty$, exact"]
    angle = exact[:, 0]
    points = 2**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = 2**0.5 * np.array([[1.0, 0.0]])
    assert exact[:, 1] == pytest.approx(nk.gram(net, start, points).ntk[0], rel=1e-14)
    assert exact[:, 1].argmax() == len(angle) // 2
    off = [abs(lines[f"n = {n}"][:, 1] - exact[:, 1]).max() for n in (32, 512)]
    assert off[1] < off[0] and off[1] < 0.05 * exact[:, 1].max()
    heights = []
    for band in axes.collections:
        box = band.get_paths()[0].vertices
        half = len(box) // 2
        heights.append(np.abs(box[1:half, 1] - box[-2:half:-1, 1][: half - 1]).mean())
    assert heights[1] < 0.5 * heights[0]


def test_a_picture_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: its ending must be one of .*png"):
        angle_plot.plot_angle(nk.MLP(2), tmp_path / "a.txt", (8,), draws=2)
