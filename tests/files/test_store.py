import fcntl
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.files import store
from ntk_numba.files.store import GramWriter
from ntk_numba.grid import Grid

NET = nk.MLP(3, "relu", b_std=0.1)


def contents(points):
    n = len(points)
    return store.Contents(
        nk.MLP(2), ("ntk",), False, np.dtype(float), Grid(n, n, True, 64), "d" * 64, ""
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
