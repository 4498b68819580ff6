"""Recorded answers have the digits of longdouble, and belong to the points asked for."""

import numpy as np
import pytest
import recorded
from mpmath import mp, mpf


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    return tmp_path


def test_digits_are_kept():
    exact = recorded.digits([mp.pi, mpf(1) / 3, -mp.sqrt(2) * 1e-9, mpf(0)])
    assert abs(mpf(str(exact[0])) - mp.pi) < 4e-19
    recorded.save("elu:0.5,1", {"x": np.arange(3)}, {"k": exact})
    assert (recorded.load("elu:0.5,1", {"x": np.arange(3)})["k"] == exact).all()


def test_the_same_answers_make_the_same_bytes(folder):
    path = recorded.path_of("a")
    recorded.save("a", {"x": np.arange(3)}, {"k": np.ones(2, np.longdouble)})
    before = path.read_bytes()
    recorded.save("a", {"x": np.arange(3)}, {"k": np.ones(2, np.longdouble)})
    assert path.read_bytes() == before and [*folder.iterdir()] == [path]


@pytest.mark.parametrize(
    ("name", "points", "text"),
    [
        ("a", {"x": np.arange(4)}, "at other points"),
        ("a", {"x": np.arange(3.0)}, "at other points"),
        ("a", {"y": np.arange(3)}, "at other points"),
        ("b", {"x": np.arange(3)}, "b.npz is missing"),
    ],
)
def test_answers_at_other_points_are_refused(name, points, text):
    recorded.save("a", {"x": np.arange(3)}, {"k": np.ones(2, np.longdouble)})
    with pytest.raises(LookupError, match=rf"{text}.*--write-golden"):
        recorded.load(name, points)


def test_another_name_in_the_same_file_is_refused():
    recorded.save("a:1", {"x": np.arange(3)}, {"k": np.ones(2, np.longdouble)})
    assert recorded.path_of("a:1") == recorded.path_of("a_1")
    with pytest.raises(LookupError, match="at other points"):
        recorded.load("a_1", {"x": np.arange(3)})
