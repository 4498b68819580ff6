"""Pictures of the evidence over depth and σ_w."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from marks import marked

import ntk_numba as nk

GRID = np.array([[-3.0, -1.0, np.nan], [-9.0, -np.inf, -4.0]])
ROWS = [
    {"activation": name, "depth": depth, "w_std": w, "value": -abs(depth - 2) - np.mean(w)}
    for name, w in (("relu", 1.0), ("erf", (1.0, 4.0)))
    for depth in (1, 2, 3)
]


def test_a_grid_in_any_order():
    figure = nk.plots.evidence(GRID, depths=[4, 2], w_std=[2.0, 0.1, 1.0])
    left, right, _ = figure.axes
    assert right.lines[0].get_xydata().tolist() == [[2, -4], [4, -1]]
    assert figure.get_suptitle() == "best: depth 4, σ_w 0.1, log marginal likelihood -1"
    assert [text.get_text() for text in left.get_yticklabels()] == ["2", "4"]
    assert left.get_xscale() == "log"


def test_cells_are_where_their_values_belong():
    figure = nk.plots.evidence(GRID, depths=[4, 2], w_std=[2.0, 0.1, 1.0])
    cells = figure.axes[0].collections[0]
    corners, values = cells.get_coordinates(), cells.get_array()
    for (i, j), value in np.ndenumerate(values.filled(np.nan)):
        w = [0.1, 1.0, 2.0][j]
        assert corners[i, j, 0] < w < corners[i, j + 1, 0]
        given = GRID[[1, 0][i], [1, 2, 0][j]]
        assert value == given or not np.isfinite(given)


@pytest.mark.parametrize(
    "kind", marked(pytest.mark.slow, ["result", "mappings", "objects", "frame"])
)
def test_tables_of_any_kind(kind):
    objects = [SimpleNamespace(**row) for row in ROWS]
    values = {
        "mappings": ROWS,
        "objects": objects,
        "frame": pd.DataFrame(ROWS),
        "result": SimpleNamespace(table=objects, screened=objects[:1], objective="loo"),
    }[kind]
    figure = nk.plots.evidence(values)
    name = "log marginal likelihood"
    name = "leave-one-out log predictive density" if kind == "result" else name
    assert figure.get_suptitle() == f"best: relu, depth 2, σ_w 1, {name} -1"
    relu, erf = figure.axes[1].lines
    assert relu.get_ydata().tolist() == [-2, -1, -2] and erf.get_label() == "erf"
    assert relu.get_marker() != erf.get_marker()
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["start of the search"] * (kind == "result") + ["best", "relu", "erf"]


def test_one_value_and_no_activation():
    figure = nk.plots.evidence([{"depth": 1, "w_std": 0, "value": 5}])
    assert figure.get_suptitle() == "best: depth 1, σ_w 0, log marginal likelihood 5"
    assert all(tick.is_integer() for tick in figure.axes[1].get_xticks())
    nk.plots.evidence([[5.0]], w_std=[1.0])._repr_png_()


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        (GRID, {}, "w_std is missing"),
        (GRID, {"w_std": [1, 2]}, "w_std has the shape 2; values has 3 of them"),
        (GRID, {"w_std": [1, 2, 2]}, "w_std has a number twice"),
        (GRID, {"w_std": [1, 2, -2]}, "w_std must be finite and not negative"),
        (GRID, {"w_std": [1, 2, 3], "depths": [1]}, "depths has the shape 1; values has 2"),
        (GRID * np.nan, {"w_std": [1, 2, 3]}, "none is finite"),
        (np.ones(3), {"w_std": [1, 2, 3]}, "values must be a grid, depths × w_std, not 3"),
        ([], {}, "none is finite"),
        ([{"depth": 1, "value": 2}], {}, "row 0 lacks one of depth, w_std, value"),
        ([{"depth": 1, "w_std": [], "value": 2}], {}, "row 0 lacks one of"),
        (
            GRID,
            {"w_std": [1, 2, 3], "depths": ["a", "b"]},
            "depths must be a whole number, not 'a'",
        ),
        (GRID, {"w_std": [1, 2, 3], "depths": [1.5, 2]}, "depths must be a whole number, not 1.5"),
        ([{"depth": 1.5, "w_std": 1, "value": 2}], {}, "depth must be a whole number, not 1.5"),
        ([{"depth": "a", "w_std": 1, "value": 2}], {}, "row 0 has no numbers: .*'a'"),
        ([{"depth": 1, "w_std": np.inf, "value": 2}], {}, "row 0 has the w_std inf"),
        ("abc", {}, "values must be a grid of numbers"),
        (3, {}, "values must be a grid of numbers"),
    ],
)
def test_bad_arguments(values, options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        nk.plots.evidence(values, **options)


def test_colours_begin_where_results_differ():
    """The results of a search are alike, and its starts are far worse."""
    rows = [{"depth": d, "w_std": 1.0, "value": -d} for d in (1, 2, 3)]
    far = [{"depth": 1, "w_std": 2.0, "value": -1e6}, {"depth": 1, "w_std": 3.0, "value": -np.inf}]
    result = SimpleNamespace(table=rows, screened=far)
    figure = nk.plots.evidence(result)
    assert figure.axes[0].collections[0].get_clim() == (-9, -1)
    assert figure.axes[2]._colorbar.extend == "min"
    values = np.array([[-1.0, -2.0, -3.0, -1e6]])
    figure = nk.plots.evidence(values, w_std=[1, 2, 3, 4])
    assert figure.axes[0].collections[0].get_clim() == (-1e6, -1)
    values = np.array([[-1.0, -2.0, -3.0, -4.0, -1e6]])
    figure = nk.plots.evidence(values, w_std=[1, 2, 3, 4, 5])
    assert figure.axes[0].collections[0].get_clim() == (-4, -1)
