import errno
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from parts import Stop

import ntk_numba as nk
from ntk_numba.cluster import write
from ntk_numba.compute import plan, stream
from ntk_numba.digest import Digest
from ntk_numba.engine import kernel
from ntk_numba.gramfile import disk, layout
from ntk_numba.gramfile import writer as store
from ntk_numba.gramfile.writer import TileWriter
from ntk_numba.grid import Grid
from ntk_numba.inputs.source import open_source

NET = nk.MLP(3, "relu", b_std=0.1)


def contents(points):
    n = len(points)
    digest = Digest((n, 7), b"", (b"d" * 32,))
    return layout.Contents(
        kernels=("ntk",),
        layers="last",
        dtype=np.dtype(float),
        grid=Grid(n, n, True, 64),
        part=None,
        network=json.dumps(nk.MLP(2).to_dict()),
        x=digest,
        z=None,
    )


def writer(path, points, **options):
    return TileWriter(path, contents(points), 1, **options)


@pytest.fixture
def stopped(points, tmp_path, monkeypatch):
    """The unfinished file of a job that was stopped when some of its tiles were done."""
    monkeypatch.setattr(plan, "BATCH_BYTES", 1)
    compute, turns = kernel.Kernel.compute, []

    def stop(self, table, *arguments):
        turns.append(len(table))
        if sum(turns) > 4:
            time.sleep(0.3)  # so that tiles in flight are written, not dropped
            raise Stop
        compute(self, table, *arguments)

    monkeypatch.setattr(kernel.Kernel, "compute", stop)
    with pytest.raises(Stop) as caught:
        nk.write_gram(NET, points, tmp_path / "g.h5", threads=1)
    monkeypatch.setattr(kernel.Kernel, "compute", compute)
    partial = tmp_path / "g.h5.partial"
    assert caught.value.__notes__ == [
        f"4 of 6 tiles are done, in {partial}; run the same again to go on"
    ]
    assert list(tmp_path.iterdir()) == [partial]
    return partial


def computed(monkeypatch):
    """Return a list that grows by the tiles that are computed from now on."""
    tiles = []
    sweep = stream.sweep

    def watched(*arguments):
        for work in sweep(*arguments):
            tiles.extend(work.indices)
            yield work

    monkeypatch.setattr(stream, "sweep", watched)
    return tiles


def test_a_resumed_job_computes_the_remaining_tiles(stopped, points, tmp_path, monkeypatch, capsys):
    tiles = computed(monkeypatch)
    with nk.write_gram(NET, points, tmp_path / "g.h5", progress=True) as f:
        assert f.verify() and (f.ntk[:] == nk.gram(NET, points).ntk).all()
    assert len(tiles) == 2
    assert "4/6" in capsys.readouterr().err  # the progress bar continues from there
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]
    nk.write_gram(NET, points, tmp_path / "other.h5").close()
    assert (tmp_path / "g.h5").read_bytes() == (tmp_path / "other.h5").read_bytes()


def test_a_tile_that_changed_meanwhile_is_computed_again(stopped, points, tmp_path, monkeypatch):
    with nk.open_gram(stopped, incomplete=True) as f:
        at = f.tile_map.tile_at("ntk", 0, 1, 0)
    with stopped.open("r+b") as file:
        file.seek(at + 100)
        file.write(b"\x55")
    tiles = computed(monkeypatch)
    with nk.write_gram(NET, points, tmp_path / "g.h5") as f:
        assert f.verify() and (f.ntk[:] == nk.gram(NET, points).ntk).all()
    assert len(tiles) == 3 and (1, 0) in tiles


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"net": nk.MLP(4)}, "depth is 3, not 4"),
        ({"kernels": "nngp"}, "kernels is ntk, not nngp"),
        ({"dtype": "float32"}, "dtype is float64, not float32"),
        ({"X": np.ones((150, 7))}, r"the data \(X\) is [0-9a-f]{12}, not"),
    ],
)
def test_another_job_is_refused(stopped, points, change, text):
    before = stopped.read_bytes()
    arguments = {"net": NET, "X": points, "path": stopped.with_suffix("")} | change
    with pytest.raises(ValueError, match=f"partial is the beginning of another job: .*{text}"):
        nk.write_gram(**arguments)
    assert stopped.read_bytes() == before
    assert len(text) < 200
    nk.write_gram(**arguments, overwrite=True).close()
    assert [p.name for p in stopped.parent.iterdir()] == ["g.h5"]


def test_overwriting_resumes_its_own_unfinished_file(stopped, points, monkeypatch):
    """A requeued job with --overwrite continues its own unfinished file."""
    nk.write_gram(nk.MLP(2), points, stopped.with_suffix("").with_name("other.h5")).close()
    stopped.with_name("other.h5").rename(stopped.with_suffix(""))
    tiles = computed(monkeypatch)
    with nk.write_gram(NET, points, stopped.with_suffix(""), overwrite=True) as f:
        assert f.net == NET and f.verify()
    assert len(tiles) == 2


def test_a_file_that_appears_meanwhile_is_not_replaced(points, tmp_path, monkeypatch):
    target = tmp_path / "g.h5"
    compute = kernel.Kernel.compute

    def appear(self, table, *arguments):
        if len(table):
            target.write_text("my thesis")
        compute(self, table, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kernel.Kernel, "compute", appear)
        with pytest.raises(
            nk.StoppedError,
            match=r"g.h5 was created by another process while this job ran; move or rename it; 6",
        ):
            nk.write_gram(NET, points, target)
    assert target.read_text() == "my thesis"
    target.unlink()
    tiles = computed(monkeypatch)
    nk.write_gram(NET, points, target).close()
    assert tiles == []


def test_another_job_that_is_faster(points, tmp_path, monkeypatch):
    """The other job completes the file after our check and before we hold the lease."""
    target = tmp_path / "g.h5"
    prepare = write.prepare

    def late(*arguments):
        monkeypatch.setattr(write, "prepare", prepare)
        nk.write_gram(nk.MLP(2) if other else NET, points, target).close()
        return prepare(*arguments)

    for other in (False, True):
        target.unlink(missing_ok=True)
        monkeypatch.setattr(write, "prepare", late)
        if other:
            with pytest.raises(ValueError, match="exists with other contents: depth is 2, not 3"):
                nk.write_gram(NET, points, target)
        else:
            with nk.write_gram(NET, points, target) as f:
                assert f.net == NET
        assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_a_file_that_vanishes_meanwhile_is_reported(stopped, points, tmp_path, monkeypatch):
    monkeypatch.setattr(
        kernel.Kernel,
        "compute",
        lambda _, table, *__: len(table) and stopped.rename(tmp_path / "away"),
    )
    with pytest.raises(
        nk.StoppedError, match=r"partial was moved or removed while this job ran; run"
    ):
        nk.write_gram(NET, points, tmp_path / "g.h5")


def test_a_kill_just_before_the_end_leaves_an_unfinished_file(stopped, points, tmp_path):
    """Its first bytes may already be those of a complete file."""
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    (tmp_path / "g.h5").rename(stopped)
    with nk.open_gram(stopped) as f, f.tiles(write=True) as tiles:
        tiles.clear_checksum(("ntk", 0, 2, 1))
    first = writer_of(NET, points, tmp_path / "g.h5")
    assert layout.is_incomplete(stopped) and first.done.sum() == 5
    first.__exit__(Stop, Stop(), None)


def writer_of(net, points, path):
    x = open_source(points, "X")
    made = plan.make_plan(net, x)
    return TileWriter(path, stream.contents_of(made, x, None), kernel.NUMERICS)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_names_that_are_taken_by_something_else(points, tmp_path, kind):
    for name in ("g.h5.partial", "g.h5.partial.lock"):
        if kind == "folder":
            (tmp_path / name).mkdir()
        else:
            os.mkfifo(tmp_path / name)
        with pytest.raises(
            (OSError, ValueError), match=rf"{name} (is not a file|cannot be written)"
        ):
            nk.write_gram(NET, points, tmp_path / "g.h5")
        assert [p.name for p in tmp_path.iterdir()] == [name]
        (tmp_path / name).rmdir() if kind == "folder" else (tmp_path / name).unlink()


def test_another_version_of_the_arithmetic_is_refused(stopped, points, monkeypatch):
    monkeypatch.setattr(write, "NUMERICS", kernel.NUMERICS + 1)
    old, new = kernel.NUMERICS, kernel.NUMERICS + 1
    text = rf"numerical version is {old} \(ntk_numba {nk.__version__}\), not {new}"
    with pytest.raises(ValueError, match=text):
        nk.write_gram(NET, points, stopped.with_suffix(""))


@pytest.mark.parametrize("damage", [b"", b"from another program", b"\x89NTK\r\n\x1a\n" + b"x" * 99])
def test_a_damaged_beginning_is_refused(points, tmp_path, damage):
    partial = tmp_path / "g.h5.partial"
    partial.write_bytes(damage)
    with pytest.raises(ValueError, match=r"no valid HDF5 file.*delete it, or overwrite it"):
        nk.write_gram(NET, points, tmp_path / "g.h5")
    assert partial.read_bytes() == damage
    nk.write_gram(NET, points, tmp_path / "g.h5", overwrite=True).close()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_the_older_file_stays_until_the_new_one_is_complete(points, tmp_path, monkeypatch):
    nk.write_gram(nk.MLP(2), points, tmp_path / "g.h5").close()
    older = (tmp_path / "g.h5").read_bytes()
    monkeypatch.setattr(kernel.Kernel, "compute", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        nk.write_gram(NET, points, tmp_path / "g.h5", overwrite=True)
    assert (tmp_path / "g.h5").read_bytes() == older


def test_no_program_takes_an_unfinished_file_for_zeros(stopped):
    import h5py

    with pytest.raises(OSError, match="signature not found"):
        h5py.File(stopped)


def test_a_failure_before_any_tile_leaves_nothing(tmp_path, points):
    with pytest.raises(ZeroDivisionError) as caught, writer(tmp_path / "g.h5", points):
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["run the same again to go on"]
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_sync_is_not_tried_again(stopped, points, tmp_path, monkeypatch):
    """The system may report success the second time although it has dropped the data."""
    syncs = []

    def fail(fd):
        syncs.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk, "sync", fail)
    with pytest.raises(nk.StoppedError, match=r"cannot be written: Input/output error; 4 of 6"):
        nk.write_gram(NET, points, tmp_path / "g.h5")
    assert len(syncs) == 1  # for the one remaining batch


def test_not_enough_disk(tmp_path, points, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=r"takes .* KiB, and its disk has 999 B free .No space left on device.; free"
    ):
        writer(tmp_path / "g.h5", points)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_only_shows_when_space_is_allocated(tmp_path):
    """RLIMIT_FSIZE stands in for a quota."""
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
    first = writer(tmp_path / "g.h5", points)
    with pytest.raises(BlockingIOError, match=f"written by process {os.getpid()} on"):
        writer(tmp_path / "g.h5", points)
    assert (tmp_path / "g.h5.partial").exists()
    first.__exit__(Stop, Stop(), None)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_beside_a_complete_file_is_removed(tmp_path, points):
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    (tmp_path / "g.h5.partial.lock").write_text("")
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_output_folders(tmp_path, points):
    with pytest.raises(FileNotFoundError, match=r"none does not exist; create it first"):
        writer(tmp_path / "none" / "g.h5", points)
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        writer(tmp_path, points)


def test_a_folder_that_cannot_be_written(tmp_path, points, monkeypatch):
    """Root may write everywhere, so the error of the system is simulated."""
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written; choose another one"):
        writer(tmp_path / "g.h5", points)


def test_the_space_is_allocated_at_the_start(tmp_path, points):
    first = writer(tmp_path / "g.h5", points)
    status = (tmp_path / "g.h5.partial").stat()
    assert status.st_blocks * 512 >= status.st_size >= 3 * 3 * 64 * 64 * 8
    first.__exit__(Stop, Stop(), None)


def test_a_file_that_was_taken_over_is_left_to_its_new_writer(points, tmp_path, monkeypatch):
    """This machine was cut off for a minute, and another one has taken the file over."""
    path = tmp_path / "g.h5"

    def lost(self):
        raise BlockingIOError("was taken over")

    for done, work in ((6, lambda writer: None), (0, lambda writer: 1 / 0)):
        own = writer(path, points)
        monkeypatch.setattr(store.Lease, "check", lost)
        monkeypatch.setattr(store, "disk", None)  # any removal or renaming would fail
        own.tiles.done = lambda n=done: np.arange(6) < n
        with pytest.raises((nk.StoppedError, ZeroDivisionError)), own:
            work(own)
        monkeypatch.undo()
        assert path.with_name("g.h5.partial").exists() and not path.exists()
