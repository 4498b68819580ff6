"""Gram files that version 0.1.0 wrote, with numerical version 1, are read, checked and merged.

They are stored in tests/golden/written_before and are never written again.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.activations.numerical import Recorded
from ntk_numba.cli import main
from ntk_numba.engine.kernel import NUMERICS

FOLDER = Path(__file__).parent.parent / "golden" / "written_before"
NET = nk.MLP(3, ["relu", "erf"], b_std=0.1)
COMPLETE = ["full.h5", "lower.h5", "g.part-1-of-2.h5", "g.part-2-of-2.h5", "of_two.h5", "linked.h5",
            "numerical.h5"]  # fmt: skip


def data(rows, seed=0):
    """Return whole numbers of both signs that do not depend on a random number generator."""
    i, k = np.arange(rows)[:, None], np.arange(6)[None, :]
    return ((i + 3 + seed) * (k + 7) ** 3 % 29 - 14) / 8.0


X, Z = data(70), data(40, seed=5)


@pytest.fixture
def files(tmp_path):
    """Copies of the files, since some are completed or repaired in place."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    return tmp_path


def expected(name, f):
    """Return the kernels that the present code computes from the data of a file."""
    if name == "of_two.h5":
        return nk.gram(NET, X, Z)
    if name == "full.h5":
        return nk.gram(NET, X[:60], layers="all", dtype="float32")
    return nk.gram(NET, X)


def rows_of(path):
    np.save(path.with_name("x.npy"), X[:60] if path.name == "full.h5" else X)
    np.save(path.with_name("z.npy"), Z)
    return str(path.with_name("x.npy"))


def run(capsys, *words):
    with own_process_kept(), pytest.raises(SystemExit) as end:
        main(list(words))
    return end.value.code, *capsys.readouterr()


def test_they_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 600_000
    assert {path.name for path in FOLDER.iterdir()} == {*COMPLETE, "begun.h5.partial"}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_file_is_opened_and_verified(files, name):
    with nk.open_gram(files / name) as f:
        assert f.numerics == 1 and f.complete and f.processor == ""
        assert f.verify()
        if name == "numerical.h5":
            assert isinstance(f.contents.net.activation[0], Recorded)
            assert f.contents.net.activation[0].name.startswith("bump@")
            assert f.nngp is None and f.ntk[:].shape == (60, 60)
            return
        k = expected(name, f)
        tolerance = 1e-13 if f.contents.dtype == np.float64 else 1e-6
        tile = f.contents.grid.tile
        here = f.done.reshape(-1, *f.done.shape[-2:]).all(axis=0)
        if "part" in name:
            assert 0 < here.sum() < 3
        else:
            assert here.any()
            here[:] = True  # the upper triangle is read from the lower one
        for i, j in np.argwhere(here):
            block = np.s_[..., i * tile : (i + 1) * tile, j * tile : (j + 1) * tile]
            for kernel in f.contents.kernels:
                stored, now = getattr(f, kernel)[block], getattr(k, kernel)[block]
                np.testing.assert_allclose(stored, now, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["full.h5", "lower.h5", "of_two.h5", "linked.h5"])
def test_the_command_line_reads_it(files, name, capsys):
    x = rows_of(files / name)
    code, out, _ = run(capsys, "info", str(files / name))
    assert code == 0 and "0.1.0" in out
    other = ["--against", str(files / "z.npy")] if name == "of_two.h5" else []
    code, out, err = run(capsys, "verify", str(files / name), "--data", x, *other)
    assert code == 0, out + err


@pytest.mark.parametrize("layout", ["full", "lower"])
def test_its_parts_are_merged(files, layout):
    parts = [files / f"g.part-{number}-of-2.h5" for number in (1, 2)]
    with (
        nk.merge(parts, files / "whole.h5", layout=layout) as f,
        nk.open_gram(files / "linked.h5") as linked,
    ):
        assert f.numerics == 1 and f.verify() and f.contents.layout == layout
        assert f.processor == ""
        assert (f.ntk[:] == linked.ntk[:]).all()


def test_its_unfinished_file_is_not_completed_with_another_arithmetic(files, capsys):
    """The message names both versions and the remedy; the unfinished file is kept."""
    partial = files / "begun.h5.partial"
    before = partial.read_bytes()
    text = (
        rf"begun.h5.partial is the beginning of another job: numerical version is 1 "
        rf"\(ntk_numba 0.1.0\), not {NUMERICS}. Choose another output, delete it, or overwrite it"
    )
    with pytest.raises(ValueError, match=text):
        nk.write_gram(NET, X, files / "begun.h5")
    assert partial.read_bytes() == before
    with nk.open_gram(partial, incomplete=True) as f:
        assert not f.complete and 0 < f.done.sum() < f.contents.count
    nk.write_gram(NET, X, files / "begun.h5", overwrite=True).close()
    with nk.open_gram(files / "begun.h5") as f:
        assert f.numerics == NUMERICS and f.verify()


def test_a_bad_tile_is_not_repaired_with_another_arithmetic(files):
    with pytest.raises(ValueError, match=f"its numerical version is 1, not {NUMERICS}"):
        nk.repair(files / "full.h5", X[:60])
