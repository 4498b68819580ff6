import shutil

import numpy as np
import pytest
from marks import marked
from parts import Stop

import ntk_numba as nk
from ntk_numba.cluster import merge as merging
from ntk_numba.engine.kernel import Kernel

NET = nk.MLP(3, "relu", b_std=0.1)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((400, 5))


@pytest.fixture
def right(x, tmp_path):
    nk.write_gram(NET, x, tmp_path / "right.h5").close()
    return (tmp_path / "right.h5").read_bytes()


@pytest.fixture
def computed(monkeypatch, right):
    """Return a list that grows by the tiles that are computed from now on."""
    tiles = []
    compute = Kernel.compute

    def watched(self, table, *arguments):
        tiles.extend(table)
        compute(self, table, *arguments)

    monkeypatch.setattr(Kernel, "compute", watched)
    return tiles


@pytest.mark.parametrize("of", marked(pytest.mark.slow, [1, 3, 28], [1, 3]))
@pytest.mark.parametrize("layout", ["full", "lower"])
def test_all_parts_here(x, tmp_path, right, of, layout):
    with nk.write_gram(NET, x, tmp_path / "g.h5", parts=of, layout=layout) as f:
        assert f.verify() and f.contents.layout == layout
    whole = tmp_path / "g2.h5"
    nk.write_gram(NET, x, whole, layout=layout).close()
    assert (tmp_path / "g.h5").read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.h5", "g2.h5", "right.h5"]


def test_parts_that_are_done_are_left_alone(x, tmp_path, right, computed):
    for number in (1, 3):
        nk.write_gram(NET, x, tmp_path / "g.h5", part=(number, 3)).close()
    assert len(computed) == 28 - 9
    nk.write_gram(NET, x, tmp_path / "g.h5", parts=3).close()
    assert len(computed) == 28
    nk.write_gram(NET, x, tmp_path / "g.h5", parts=3).close()
    assert len(computed) == 28 and (tmp_path / "g.h5").read_bytes() == right


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_part_that_was_merged_and_deleted_is_not_computed_again(
    x, tmp_path, right, computed, monkeypatch, overwrite
):
    if overwrite:
        nk.write_gram(nk.MLP(2), x, tmp_path / "g.h5").close()
        computed.clear()
    copy, count = merging._copy, []

    def stop(path, *arguments):
        count.append(path)
        if len(count) == 3:
            raise Stop
        return copy(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_copy", stop)
        with pytest.raises(Stop):
            nk.write_gram(NET, x, tmp_path / "g.h5", parts=4, overwrite=overwrite)
    assert len(computed) == 28
    assert len(list(tmp_path.glob("g.part-*"))) == 2
    # a single part, as when an array of jobs is submitted again
    with nk.write_gram(NET, x, tmp_path / "g.h5", part=(1, 4), overwrite=overwrite) as f:
        assert f.path.name == "g.h5.partial"
    nk.write_gram(NET, x, tmp_path / "g.h5", parts=4, overwrite=overwrite).close()
    assert len(computed) == 28 and (tmp_path / "g.h5").read_bytes() == right
    with nk.write_gram(NET, x, tmp_path / "g.h5", part=(1, 4)) as f:
        assert f.path.name == "g.h5"
    assert len(computed) == 28
    assert not list(tmp_path.glob("g.part-*"))
    # a part of other data is computed
    with nk.write_gram(NET, x + 1, tmp_path / "g.h5", part=(1, 4)) as f:
        assert f.path.name == "g.part-1-of-4.h5"
    with nk.write_gram(nk.MLP(4), x, tmp_path / "g.h5", part=(2, 4)) as f:
        assert f.path.name == "g.part-2-of-4.h5"


def test_overwriting_replaces_parts_of_other_contents_only(x, tmp_path, right, computed):
    for number in (1, 2, 3):
        net = NET if number == 2 else nk.MLP(2)
        nk.write_gram(net, x, tmp_path / "g.h5", part=(number, 3)).close()
    computed.clear()
    with pytest.raises(ValueError, match="exists with other contents: depth is 2, not 3"):
        nk.write_gram(NET, x, tmp_path / "g.h5", parts=3)
    nk.write_gram(NET, x, tmp_path / "g.h5", parts=3, overwrite=True).close()
    assert len(computed) == 28 - 9 and (tmp_path / "g.h5").read_bytes() == right


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"parts": 0}, ValueError, "parts must be at least 1, not 0"),
        ({"layers": [1, 2]}, ValueError, "a file holds the last layer or all of them; give 'all'"),
        ({"parts": 2.0}, TypeError, "parts must be a whole number"),
        (
            {"parts": 29},
            ValueError,
            "part=1/29: there are 28 tiles, so at most 28 parts are possible",
        ),
        ({"part": (1, 29)}, ValueError, "part=1/29: there are 28 tiles"),
        ({"part": (1, 2), "parts": 2}, ValueError, "part computes one part, parts and executor"),
        ({"part": (1, 2), "executor": print}, ValueError, "part computes one part"),
        ({"executor": print}, ValueError, "say how many, as parts=16"),
        ({"parts": 2, "executor": print}, TypeError, "X is read by every worker .* not ndarray"),
        ({"part": (1, 2), "layout": "lower"}, ValueError, "a part has no layout"),
    ],
)
def test_bad_arguments_are_refused(x, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        nk.write_gram(NET, x, tmp_path / "g.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_one_sample_has_one_part(tmp_path):
    nk.write_gram(NET, np.ones((1, 1)), tmp_path / "g.h5", parts=1, layout="lower").close()
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert f.ntk[0, 0] == nk.gram(NET, np.ones((1, 1))).ntk[0, 0] and f.verify()


@pytest.mark.parametrize("folder", ["..", ".", "/", ""])
@pytest.mark.parametrize("options", [{}, {"part": (1, 2)}, {"parts": 2}], ids=str)
def test_a_folder_is_no_output(x, folder, options):
    with pytest.raises(IsADirectoryError, match=r"(\.|/) is a folder; name a file in it"):
        nk.write_gram(NET, x, folder, **options)


@pytest.mark.parametrize("layout", ["full", "lower"])
def test_a_part_that_a_kill_has_left_is_deleted(x, tmp_path, layout):
    with nk.write_gram(NET, x, tmp_path / "g.h5", part=(3, 3)) as f:
        left = f.path
    kept, path = left.read_bytes(), tmp_path / "g.h5"
    nk.write_gram(NET, x, path, layout=layout).close()
    nk.write_gram(NET, x, path, parts=3, layout=layout).close()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]
    # a part of another job is left as it is
    nk.write_gram(NET, 2 * x, path, overwrite=True).close()
    left.write_bytes(kept)
    nk.write_gram(NET, 2 * x, path, parts=3).close()
    assert left.read_bytes() == kept


class Untouched:
    """Data no row of which may be read."""

    shape, dtype = (3000, 5), np.dtype("f8")

    def __getitem__(self, rows):
        raise AssertionError("a row is read")


@pytest.mark.parametrize("options", [{}, {"part": (2, 3)}, {"parts": 2}, {"layout": "lower"}])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_space_is_looked_at_before_any_row(tmp_path, monkeypatch, options, activation):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"its disk has 0.977 KiB free|its disk has 1000 B free"):
        nk.write_gram(nk.MLP(3, activation), Untouched(), tmp_path / "g.h5", **options)
    assert not list(tmp_path.iterdir())


def test_a_complete_or_begun_file_needs_no_space(tmp_path, monkeypatch, points):
    nk.write_gram(nk.MLP(3), points, tmp_path / "g.h5").close()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    nk.write_gram(nk.MLP(3), points, tmp_path / "g.h5").close()
    with pytest.raises(OSError, match="its disk has"):
        nk.write_gram(nk.MLP(2), points, tmp_path / "g.h5", overwrite=True)
