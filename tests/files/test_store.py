import fcntl
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.files import store
from ntk_numba.files.store import GramWriter

NET = nk.MLP(3, "relu", b_std=0.1)


@pytest.fixture
def written(tmp_path, points):
    path = tmp_path / "g.h5"
    nk.write_gram(NET, points, path, kernels=("nngp", "ntk")).close()
    return path


def test_the_file_is_ordinary_hdf5(written, points):
    k = nk.gram(NET, points)
    with h5py.File(written) as file:
        assert set(file) == {"nngp", "ntk"}
        assert (file["ntk"][:] == k.ntk).all() and (file["nngp"][:] == k.nngp).all()
        attributes = dict(file.attrs)
    assert attributes["format"] == "ntk_numba gram" and attributes["format_version"] == 1
    assert attributes["complete"] and attributes["package_version"] == nk.__version__
    assert nk.MLP.from_dict(__import__("json").loads(attributes["net"])) == NET
    assert len(attributes["input_digest"]) == 64
    if h5dump := shutil.which("h5dump"):
        subprocess.run([h5dump, "-H", written], check=True, capture_output=True)


def test_open_gram(written, points):
    k = nk.gram(NET, points)
    with nk.open_gram(written) as f:
        assert f.shape == (150, 150) and f.net == NET and f.complete and f.dtype == np.float64
        assert (f.ntk[2:5, 7] == k.ntk[2:5, 7]).all() and f.nngp[3, 3] == k.nngp[3, 3]
        assert f.verify()
        assert "150 × 150" in repr(f)
    with nk.open_gram(str(written)) as f:
        assert f.kernels == ("nngp", "ntk")


def test_open_gram_refuses(written, tmp_path):
    def refuse(path, error, text):
        with pytest.raises(error, match=text):
            nk.open_gram(path)

    refuse(tmp_path / "none.h5", FileNotFoundError, "does not exist")
    refuse(tmp_path, IsADirectoryError, "is a folder")
    (tmp_path / "text.h5").write_text("hello")
    refuse(tmp_path / "text.h5", ValueError, "no valid HDF5 file")
    (tmp_path / "cut.h5").write_bytes(written.read_bytes()[:3000])
    refuse(tmp_path / "cut.h5", ValueError, "no valid HDF5 file, perhaps truncated")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    refuse(tmp_path / "other.h5", ValueError, "not one that ntk-numba gram wrote")
    with h5py.File(written, "r+") as file:
        file.attrs["format_version"] = 99
    refuse(written, ValueError, "format version 99; this package reads up to 1")
    with h5py.File(written, "r+") as file:
        file.attrs["format_version"] = 1
        file.attrs["net"] = "{"
    refuse(written, ValueError, "is damaged")
    with h5py.File(written, "r+") as file:
        del file.attrs["tile"]
    refuse(written, ValueError, "is damaged")
    with h5py.File(written, "r+") as file:
        del file["ntk"], file["nngp"]
    refuse(written, ValueError, "holds no kernel")


@pytest.mark.parametrize(
    ("row", "column", "value", "text"),
    [
        (70, 3, np.nan, r"ntk: tile \(1, 0\) has an entry that is not finite: row 70, column 3"),
        (3, 70, np.inf, r"ntk: tile \(0, 1\) has an entry that is not finite"),
        (70, 3, 0.123, r"ntk: tile \(1, 0\) is not the mirror of \(0, 1\): row 70, column 3, 1 in"),
        (3, 2, 0.123, r"ntk: tile \(0, 0\) is not the mirror"),
        (5, 5, -1.0, r"ntk: tile \(0, 0\) has an entry larger than its diagonal allows"),
    ],
)
def test_verify_finds_a_wrong_entry(written, row, column, value, text):
    with h5py.File(written, "r+") as file:
        file["ntk"][row, column] = value
    with nk.open_gram(written) as f:
        report = f.verify()
    assert not report
    assert __import__("re").search(text, "\n".join(report.problems)), report.problems


def test_verify_wants_completeness_and_equal_shapes(written):
    with h5py.File(written, "r+") as file:
        file.attrs["complete"] = False
    with nk.open_gram(written) as f:
        assert f.verify().problems == ["the file is not marked complete"]
    with h5py.File(written, "r+") as file:
        del file["ntk"]
        file["ntk"] = np.zeros((4, 4))
    with nk.open_gram(written) as f:
        assert any("is not float64 of shape" in p for p in f.verify().problems)


def contents(points):
    with_plan = nk.MLP(2)
    from ntk_numba.grid import Grid

    n = len(points)
    return store.Contents(
        with_plan, ("ntk",), False, np.dtype(float), Grid(n, n, True, 64), "d" * 64, ""
    )


def test_a_failure_leaves_nothing(tmp_path, points):
    with pytest.raises(ZeroDivisionError), GramWriter(tmp_path / "g.h5", contents(points)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_not_enough_disk(tmp_path, points, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=r"takes .* KiB, and its disk has 999 B free .No space left on device.; free"
    ):
        GramWriter(tmp_path / "g.h5", contents(points))
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_only_shows_when_space_is_taken(tmp_path):
    """RLIMIT_FSIZE stands for a quota."""
    code = (
        "import resource, signal, numpy as np, ntk_numba as nk;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"nk.write_gram(nk.MLP(2), np.ones((300, 2)), {str(tmp_path / 'g.h5')!r})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 1
    assert "takes 800 KiB" in answer.stderr.splitlines()[-1]
    assert "(File too large); free some" in answer.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused(tmp_path, points):
    with GramWriter(tmp_path / "g.h5", contents(points)):
        with pytest.raises(BlockingIOError, match="being written by another process"):
            GramWriter(tmp_path / "g.h5", contents(points))
        assert (tmp_path / "g.h5.partial").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_an_abandoned_file_is_taken_over(tmp_path, points):
    partial = tmp_path / "g.h5.partial"
    partial.write_bytes(b"from a killed process")
    holder = os.open(partial, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    os.close(holder)  # as its death would
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_output_folders(tmp_path, points):
    with pytest.raises(FileNotFoundError, match=r"none does not exist; create it first"):
        GramWriter(tmp_path / "none" / "g.h5", contents(points))
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        GramWriter(tmp_path, contents(points))


def test_a_folder_that_cannot_be_written(tmp_path, points, monkeypatch):
    """Root may write everywhere, so the refusal of the system is played."""
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written; choose another one"):
        GramWriter(tmp_path / "g.h5", contents(points))
