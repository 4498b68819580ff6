"""The picture of Θ against the angle."""

import numpy as np
import pytest

import ntk_numba as nk


def test_bands_narrow_around_the_exact_curve():
    net = nk.MLP(3, "relu", 2**0.5, 0.1)
    figure = nk.plots.angle(net, (32, 512), draws=40)
    (axes,) = figure.axes
    narrow, wide, exact_line = (line.get_xydata() for line in axes.lines)
    exact, angle = exact_line[:, 1], exact_line[:, 0]
    points = 2**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = 2**0.5 * np.array([[1.0, 0.0]])
    assert exact == pytest.approx(nk.gram(net, start, points).ntk[0], rel=1e-14)
    assert exact.argmax() == len(angle) // 2
    off = [abs(line[:, 1] - exact).max() for line in (narrow, wide)]
    assert off[1] < off[0] and off[1] < 0.05 * exact.max()
    heights = []
    for band in axes.collections:
        box = band.get_paths()[0].vertices
        half = len(box) // 2
        heights.append(np.abs(box[1:half, 1] - box[-2:half:-1, 1][: half - 1]).mean())
    assert heights[1] < 0.5 * heights[0]


def test_the_title_names_the_network_and_bands_differ_without_colours():
    net = nk.MLP(2, "erf", 1.5, 0.1)
    (axes,) = nk.plots.angle(net, (32, 64), draws=8).axes
    assert axes.get_title().startswith(f"Θ of {net}\n")
    assert len({band.get_hatch() for band in axes.collections}) == 2
    assert len({str(line._dash_pattern) for line in axes.lines[:2]}) == 2
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["n = 32", "n = 64", "Θ∞, exact"]


def test_a_picture_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: its ending must be one of .*png"):
        nk.plots.angle(nk.MLP(2), (8,), tmp_path / "a.txt", draws=2)


@pytest.mark.parametrize(
    ("widths", "draws", "text"),
    [
        (8, 2, "widths must be a sequence of at least one width, not 8"),
        ([], 2, "widths must be a sequence of at least one width"),
        ([8], 0, "draws must be at least 1, not 0"),
    ],
)
def test_bad_arguments(widths, draws, text):
    with pytest.raises(ValueError, match=text):
        nk.plots.angle(nk.MLP(2), widths, draws=draws)
