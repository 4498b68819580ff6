"""Pictures of posteriors."""

import numpy as np
import pytest

import ntk_numba as nk

X = np.array([2.0, 0.0, 1.0])
MEAN, STD = X**2, 1 + X


def test_bands_hold_one_and_two_standard_deviations():
    figure = nk.plots.posterior(
        X[:, None], MEAN[:, None], STD, data=([0.5], [1.0]), samples=np.ones((2, 3)), title="$a"
    )
    (axes,) = figure.axes
    mean, *samples, data = axes.lines
    assert (mean.get_xydata() == [[0, 0], [1, 1], [2, 4]]).all()  # in the order of x
    assert len(samples) == 2 and data.get_xydata().tolist() == [[0.5, 1.0]]
    for width, band in zip((1, 2), axes.collections, strict=True):
        corners = band.get_paths()[0].vertices
        for x, m, s in ((0, 0, 1), (1, 1, 2), (2, 4, 3)):
            at = corners[corners[:, 0] == x, 1]
            assert (at.min(), at.max()) == (m - width * s, m + width * s)
    dashes = {str(band.get_linestyle()) for band in axes.collections}
    assert len(dashes) == 2 and axes.get_title() == "$a"
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["mean", "± 1 std", "± 2 std", "samples", "data"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mean": np.ones(2)}, "mean has 2 rows, and its x has 3"),
        ({"mean": np.ones((3, 2))}, r"mean must be one column of numbers, not 3 × 2; .*mean\[:, 0"),
        ({"x": np.ones((3, 2))}, "x must be one column"),
        ({"x": []}, "x"),
        ({"std": [1, -1, 1]}, "std: row 1 is -1; it must not be negative"),
        ({"std": [1, np.nan, 1]}, "std: row 1 has nan; it must be finite"),
        ({"mean": ["a", "b", "c"]}, "mean"),
        ({"data": np.ones(3)}, r"data must be a pair, \(x, y\)"),
        ({"data": ([1.0], [1.0, 2.0])}, "y of data has 2 rows, and its x has 1"),
        ({"samples": np.ones((3, 2))}, r"samples must have one function in each row, \(S, 3\)"),
        ({"samples": np.full((1, 3), np.inf)}, "samples: row 0 has inf"),
    ],
)
def test_bad_arguments(change, text):
    with pytest.raises((ValueError, TypeError), match=text):
        nk.plots.posterior(**{"x": X, "mean": MEAN, "std": STD} | change)
