import errno
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.compute import plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.layout import INCOMPLETE
from ntk_numba.inputs.source import Source, open_source

NET = nk.MLP(3, ["abs", "relu"], b_std=0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("other", [None, 1, 70])
def test_the_same_bits_as_in_memory(points, tmp_path, dtype, layers, other):
    z = None if other is None else points[:other] + 1
    k = nk.gram(NET, points, z, layers=layers, dtype=dtype)
    with nk.write_gram(
        NET, points, tmp_path / "g.h5", Z=z, kernels=("nngp", "ntk"), layers=layers, dtype=dtype
    ) as f:  # fmt: skip
        assert f.verify()
        assert f.shape == k.ntk.shape and f.dtype == dtype
        assert (f.nngp[:] == k.nngp).all() and (f.ntk[:] == k.ntk).all()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def bands_loaded(monkeypatch):
    """Return a list that will hold the runs of rows that samples are computed from."""
    loaded = []
    original = Kernel.samples

    def samples(self, source, start, stop, **options):
        loaded.append((source.name, start, stop))
        return original(self, source, start, stop, **options)

    monkeypatch.setattr(Kernel, "samples", samples)
    return loaded


@pytest.mark.parametrize("cross", [False, True])
def test_the_same_bits_when_the_data_is_larger_than_memory(tmp_path, monkeypatch, cross):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 3000))
    z = rng.standard_normal((700, 3000)) if cross else None
    np.save(tmp_path / "x.npy", x)
    k = nk.gram(NET, x, z, kernels="ntk")
    loaded = bands_loaded(monkeypatch)
    f = nk.write_gram(NET, tmp_path / "x.npy", tmp_path / "g.h5", Z=z, memory="36MiB")
    with f:
        assert (f.ntk[:] == k.ntk).all()
    assert len(loaded) > 4
    assert max(stop - start for _, start, stop in loaded) < 500


def test_threads_and_budget_do_not_change_the_file(points, tmp_path):
    x = np.repeat(points, 5, axis=0)
    files = []
    for number, options in enumerate([{}, {"threads": 1}, {"memory": "36MiB"}]):
        path = tmp_path / f"{number}.h5"
        nk.write_gram(NET, x, path, **options).close()
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


PEAK = """
import sys, numpy as np, ntk_numba as nk
path, memory, rows = sys.argv[1:]
x = np.load(path, mmap_mode="r")[: int(rows)]
nk.write_gram(nk.MLP(2), x, path + ".h5", memory=memory).close()
# ru_maxrss is inherited from the process that started this one
status = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.parametrize(
    ("order", "rows"), marked(pytest.mark.slow, [("C", 5000), ("C", 8000), ("F", 8000)])
)
def test_peak_memory_stays_below_the_budget(tmp_path, order, rows):
    """The job writes a file of 200 or 512 MB from a map of 200 or 320 MB in at most 400 MiB."""
    x = np.random.default_rng(0).standard_normal((rows, 5000))
    np.save(tmp_path / "x.npy", np.asarray(x, order=order))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "x.npy"), "400MiB"]
    subprocess.run([*command, "300"], check=True)  # compiles if the cache is empty
    (tmp_path / "x.npy.h5").unlink()
    answer = subprocess.run([*command, str(rows)], check=True, capture_output=True, text=True)
    assert int(answer.stdout) < 400 << 20


def test_a_complete_file_is_left_alone(points, tmp_path):
    path = tmp_path / "g.h5"
    nk.write_gram(NET, points, path).close()
    before = path.stat()
    nk.write_gram(NET, points, path, threads=1, memory="1GiB").close()
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino
    nk.write_gram(NET, points, path, overwrite=True).close()
    assert path.stat().st_ino != before.st_ino


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"net": nk.MLP(4)}, "depth is 3, not 4"),
        ({"net": nk.MLP(3, ["abs", "relu"], b_std=0.2)}, "b_std is .0.1, 0.1, 0.1., not .0.2"),
        ({"kernels": "nngp"}, "kernels is ntk, not nngp"),
        ({"layers": "all"}, "layers is last, not all"),
        ({"dtype": "float32"}, "dtype is float64, not float32"),
        ({"X": np.ones((150, 7))}, r"the data \(X\) is [0-9a-f]{12}, not"),
        ({"X": np.ones((3, 7))}, "shape is 150 × 150, not 3 × 3"),
        ({"Z": np.ones((150, 7))}, r"the data \(Z\) is none, not"),
    ],
)
def test_an_output_of_other_contents_is_refused(points, tmp_path, change, text):
    path = tmp_path / "g.h5"
    nk.write_gram(NET, points, path).close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"exists with other contents: .*{text}"):
        nk.write_gram(**{"net": NET, "X": points, "path": path} | change)
    assert path.read_bytes() == before


def test_an_output_that_is_something_else_is_refused(points, tmp_path):
    path = tmp_path / "g.h5"
    path.write_text("my thesis")
    with pytest.raises(ValueError, match=r"no valid HDF5 file.*Choose another output"):
        nk.write_gram(NET, points, path)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(ValueError, match="not one that ntk-numba gram wrote"):
        nk.write_gram(NET, points, tmp_path / "mine.h5")
    assert path.read_text() == "my thesis"


def test_the_data_is_never_overwritten(points, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, points)
    for options in ({"X": path}, {"X": np.load(path, mmap_mode="r")}, {"X": points, "Z": path}):
        with pytest.raises(ValueError, match=r"is the data itself; choose another output"):
            nk.write_gram(**{"net": NET, "path": path, "overwrite": True} | options)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = points
        with pytest.raises(ValueError, match=r"is the data itself"):
            nk.write_gram(NET, file["x"], tmp_path / "x.h5", overwrite=True)
    assert (np.load(path) == points).all()


def test_an_output_behind_a_link_is_written_there(points, tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "g.h5").symlink_to(tmp_path / "scratch" / "real.h5")
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    assert (tmp_path / "g.h5").is_symlink()
    assert [p.name for p in (tmp_path / "scratch").iterdir()] == ["real.h5"]


def test_bad_input_leaves_nothing(points, tmp_path):
    points[5, 5] = np.inf
    with pytest.raises(ValueError, match="row 5, column 5"):
        nk.write_gram(NET, points, tmp_path / "g.h5")
    points[5, 5] = 1e200
    with pytest.raises(ValueError, match="row 5 has norm 1e"):
        nk.write_gram(NET, points, tmp_path / "g.h5")
    with pytest.raises(ValueError, match="memory=2 MiB is too little"):
        nk.write_gram(NET, points, tmp_path / "g.h5", memory="2MiB")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EIO"])
def test_a_full_disk_in_the_middle_stops_the_job(points, tmp_path, monkeypatch, number):
    monkeypatch.setattr(plan, "BATCH_BYTES", 1)
    # With so many tiles, some are written after the first checksums.
    points = np.tile(points, (3, 1))
    checksums = []

    def write_at(fd, block, at):
        if len(block) == 8:
            checksums.append(at)
        elif len(checksums) > 1:  # the first bytes of the file, and one checksum
            raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))
        time.sleep(0.01)  # so that tiles are left to write
        original(fd, block, at)

    original = disk.write_at
    monkeypatch.setattr(disk, "write_at", write_at)
    text = rf"g.h5.partial cannot be written: {os.strerror(getattr(errno, number))}; \d+ of 36 "
    with pytest.raises(nk.StoppedError, match=text):
        nk.write_gram(NET, points, tmp_path / "g.h5", threads=1)
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5.partial"]
    monkeypatch.setattr(disk, "write_at", original)
    with nk.write_gram(NET, points, tmp_path / "g.h5") as f:
        assert f.verify() and (f.ntk[:] == nk.gram(NET, points).ntk).all()


def test_data_that_cannot_be_read_any_more_stops_the_job(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1000, 3000))
    np.save(tmp_path / "x.npy", x)
    samples, made = Kernel.samples, []

    def cut(self, source, start, stop, **options):
        made.append(start)
        if len(made) == 4:
            os.truncate(tmp_path / "x.npy", 1000)
        return samples(self, source, start, stop, **options)

    monkeypatch.setattr(Kernel, "samples", cut)
    with pytest.raises(nk.StoppedError, match=r"x.npy: rows .* cannot be read; .* tiles are done"):
        nk.write_gram(NET, tmp_path / "x.npy", tmp_path / "g.h5", memory="36MiB")
    monkeypatch.setattr(Kernel, "samples", samples)
    np.save(tmp_path / "x.npy", x + 1)
    with pytest.raises(ValueError, match=r"the beginning of another job: the data \(X\) is"):
        nk.write_gram(NET, tmp_path / "x.npy", tmp_path / "g.h5")
    np.save(tmp_path / "x.npy", x)
    with nk.write_gram(NET, tmp_path / "x.npy", tmp_path / "g.h5", threads=1) as f:
        assert f.verify() and (f.ntk[:] == nk.gram(NET, x).ntk).all()


def test_data_replaced_meanwhile_makes_no_tile(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1000, 3000))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "other.npy", x + 1)
    samples, made = Kernel.samples, []

    def swapped(self, source, start, stop, **options):
        made.append(start)
        if len(made) == 4:
            (tmp_path / "other.npy").replace(tmp_path / "x.npy")
        return samples(self, source, start, stop, **options)

    monkeypatch.setattr(Kernel, "samples", swapped)
    with pytest.raises(nk.StoppedError, match=r"x.npy has changed since it was opened; \d+ of"):
        nk.write_gram(NET, tmp_path / "x.npy", tmp_path / "g.h5", memory="36MiB")
    monkeypatch.undo()
    with nk.open_gram(tmp_path / "g.h5.partial", incomplete=True) as f:
        t, k = f.contents.grid.tile, nk.gram(NET, x, kernels="ntk").ntk
        for i, j in np.argwhere(f.done):
            at = np.s_[i * t : (i + 1) * t, j * t : (j + 1) * t]
            assert (f.ntk[at] == k[at]).all()


def test_a_sample_too_large_is_found_before_the_start(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1000, 3000)).astype(np.float32)
    x[990] *= 1e20
    with pytest.raises(ValueError, match=r"X: row 990 has norm .*too large for float32"):
        nk.write_gram(NET, x, tmp_path / "g.h5", memory="36MiB")
    with pytest.raises(ValueError, match=r"Z: row 990 has norm .*too large for float32"):
        nk.write_gram(NET, x[:5], tmp_path / "g.h5", Z=x)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_job_reads_only_the_rows_it_needs(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1000, 3000))
    with nk.write_gram(NET, x, tmp_path / "g.h5") as f:
        tile, right = f.contents.grid.tile, f.path.read_bytes()
        with f.tiles(write=True) as tiles:
            tiles.begin_with(INCOMPLETE)
            tiles.clear_checksum(("ntk", 0, 3, 0))
    (tmp_path / "g.h5").rename(tmp_path / "g.h5.partial")
    loaded = bands_loaded(monkeypatch)
    nk.write_gram(NET, x, tmp_path / "g.h5", memory="36MiB").close()
    assert sum(stop - start for _, start, stop in loaded) < 600
    assert any(start <= 3 * tile < stop for _, start, stop in loaded)
    assert (tmp_path / "g.h5").read_bytes() == right


def test_a_job_stops_soon_whatever_its_size():
    """A batch of tiles cannot be interrupted, so it must not take much more than a second."""
    for features, depth in [(3, 2), (50_000, 2), (3, 1000), (5000, 500)]:
        x = np.lib.stride_tricks.as_strided(np.zeros(1), (30_000, features), (0, 0))
        source = Source("X", x)
        p = plan.make_plan(nk.MLP(depth), source, memory="8GiB", threads=2)
        pairs = p.batch * p.grid.tile**2 / 2
        feature, layer, itself = plan.ENTRY
        assert pairs * (feature * features + layer * depth + itself) * 1e-9 < 2
        assert p.batch >= 2


def test_the_plan_counts_tiles_pairs_and_bytes(points):
    p = plan.make_plan(NET, open_source(points, "X"), kernels=("nngp", "ntk"), memory="1GiB")
    assert p.grid.tile == 64 and p.grid.count == 6 and p.pairs == 150 * 151 // 2
    assert p.output_bytes == 2 * 192 * 192 * 8
    assert p.to_dict()["band_rows"] == 192
