"""The picture of activations."""

import numpy as np
import pytest

import ntk_numba as nk


def test_lines_are_the_duals_and_differ_without_colours():
    which = ["relu", "erf", nk.activations.normalised(nk.activations.get("abs"))]
    figure = nk.plots.activations(which)
    left, middle, _ = figure.axes
    rho, k = left.lines[1].get_data()
    exact = 2 / np.pi * np.arcsin(2 * rho / 3)  # of erf, Williams 1997
    assert k == pytest.approx(exact / exact[-1], abs=1e-12)
    for axes in (left, middle):
        assert len({line.get_linestyle() + str(line._dash_pattern) for line in axes.lines}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["relu", "erf"]


@pytest.mark.parametrize(
    ("which", "path", "text"),
    [
        (["relu"], "a.xyz", "its ending must be"),
        ([], "a.png", "which is empty"),
        (None, "a.png", "activation must be a name"),
    ],
)
def test_bad_arguments(tmp_path, which, path, text):
    with pytest.raises((ValueError, TypeError), match=text):
        nk.plots.activations(which, tmp_path / path)
    assert not list(tmp_path.iterdir())
