"""Pictures of spectra."""

import numpy as np
import pytest

import ntk_numba as nk


def test_eigenvalues_in_falling_order(points):
    k = nk.gram(nk.MLP(2, b_std=0.1), points).ntk
    axes = nk.plots.spectrum(k).axes[0]
    found = axes.lines[0].get_ydata()
    exact = np.linalg.eigvalsh(k)[::-1]
    assert found == pytest.approx(exact[: len(found)], rel=1e-10, abs=1e-12 * exact[0])
    given = nk.plots.spectrum(exact[::-1]).axes[0]
    assert (given.lines[0].get_ydata() == exact[exact > 1e-20 * exact[0]]).all()


def test_singular_values_of_rectangles():
    matrix = np.diag([3.0, 2.0, 1.0])[:, :2]
    axes = nk.plots.spectrum(matrix).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([3, 2])
    assert axes.get_title() == "K: singular values"


def test_negative_values_and_zeros_are_told_apart_without_colours():
    axes = nk.plots.spectrum([4.0, -1e-3, 2.0, 0.0, 1e-30]).axes[0]
    above, below, _ = axes.lines
    assert above.get_ydata().tolist() == [4, 2] and below.get_ydata().tolist() == [1e-3]
    assert above.get_marker() != below.get_marker()
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown[1:] == ["1 negative, absolute value", "2 of less than 1e-20 λ₁ not drawn"]


def test_the_line_of_rounding_errors():
    k = np.diag([1.0, 1e-9]).astype("float32")
    axes = nk.plots.spectrum(k).axes[0]
    assert axes.lines[1].get_ydata()[0] == np.finfo("float32").eps
    assert len(nk.plots.spectrum(k.astype(float)).axes[0].lines) == 1  # far below all values


def test_thinned_spectra_say_so(monkeypatch):
    from ntk_numba.plots import spectra

    monkeypatch.setattr(spectra, "LARGEST", 4)
    title = nk.plots.spectrum(np.eye(9)).axes[0].get_title()
    assert title == "K: eigenvalues of 4 rows, evenly spaced"


def test_the_smallest_number_is_drawn():
    (axes,) = nk.plots.spectrum([5e-324, 0.0]).axes
    assert axes.get_ylim()[0] == 5e-324


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "values is empty"),
        ([1.0, np.nan], "entry 1 is nan; it must be finite"),
        (np.array(["a", "b"]), "values"),
        (np.zeros((0, 0)), "matrix is empty"),
    ],
)
def test_bad_values(values, text):
    with pytest.raises((ValueError, TypeError), match=text):
        nk.plots.spectrum(values)
