"""Data that changes while it is read: the old rows or an error, never others."""

import contextlib
import gc
import itertools
import mmap
import os
import re
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.engine.kernel import Kernel
from ntk_numba.errors import FileError
from ntk_numba.inputs import paths
from ntk_numba.inputs.source import open_source

X = np.random.default_rng(0).standard_normal((700, 40))
Y = X + (np.arange(700) >= 300)[:, None]  # the first rows are the same


def write_npy(path, rows):
    np.save(path, rows)


def write_columns(path, rows):
    np.save(path, np.asfortranarray(rows))


def write_npz(path, rows):
    np.savez(path, x=rows)


def write_csv(path, rows):
    np.savetxt(path, rows, delimiter=",", fmt="%.17g")


def write_h5(path, rows):
    with h5py.File(path, "w") as file:
        file["x"] = rows


def write_chunks(path, rows):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=rows, chunks=(50, 2), compression="gzip")


def write_raw(path, rows):
    path.write_bytes(rows.tobytes())


def write_parquet(path, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({str(j): c for j, c in enumerate(rows.T)})
    parquet.write_table(table, path, row_group_size=100, compression="none")


def virtual(folder, name, source):
    layout = h5py.VirtualLayout(X.shape, "f8")
    layout[:] = h5py.VirtualSource(source, "x", X.shape)
    with h5py.File(folder / name, "w") as file:
        file.create_virtual_dataset("x", layout)


def to_virtual(folder):
    virtual(folder, "v.h5", "x.h5")
    return str(folder / "v.h5")


def to_nested(folder):
    virtual(folder, "v.h5", "x.h5")
    virtual(folder, "w.h5", "v.h5")
    return str(folder / "w.h5")


def to_link(folder):
    with h5py.File(folder / "link.h5", "w") as file:
        file["y"] = h5py.ExternalLink("x.h5", "/x")
    return str(folder / "link.h5:y")


def to_dataset(folder):
    return h5py.File(folder / "x.h5")["x"]


def to_raw(folder):
    with h5py.File(folder / "e.h5", "w") as file:
        file.create_dataset("x", X.shape, "f8", external=[(str(folder / "x.raw"), 0, X.nbytes)])
    return h5py.File(folder / "e.h5")["x"]


def to_map(folder):
    return np.load(folder / "x.npy", mmap_mode="r")


# the file whose bytes change, how it is written, and what is given as X
KINDS = {
    "npy": ("x.npy", write_npy, None),
    "columns": ("x.npy", write_columns, None),
    "npz": ("x.npz", write_npz, None),
    "csv": ("x.csv", write_csv, None),
    "h5": ("x.h5", write_h5, None),
    "chunks": ("x.h5", write_chunks, None),
    "parquet": ("x.parquet", write_parquet, None),
    "virtual": ("x.h5", write_h5, to_virtual),
    "nested": ("x.h5", write_chunks, to_nested),
    "link": ("x.h5", write_h5, to_link),
    "dataset": ("x.h5", write_h5, to_dataset),
    "raw": ("x.raw", write_raw, to_raw),
    "map": ("x.npy", write_npy, to_map),
}


class Data:
    """A file of X, and its changes to Y."""

    def __init__(self, folder, kind):
        name, self._write, give = KINDS[kind]
        self.path, self._other = folder / name, folder / f"other{Path(name).suffix}"
        self._write(self.path, X)
        self.x = give(folder) if give else str(self.path)

    def rewrite(self):
        """Write other bytes into the file, and set its time back."""
        before = self.path.stat()
        self._write(self._other, Y)
        with self.path.open("r+b") as file:
            file.write(self._other.read_bytes())
        self._other.unlink()
        os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def restore(self):
        self._write(self._other, X)
        with self.path.open("r+b") as file:
            file.write(self._other.read_bytes())

    def truncate(self):
        os.truncate(self.path, self.path.stat().st_size // 2)

    def replace(self):
        self._write(self._other, Y)
        self._other.replace(self.path)

    def remove(self):
        self.path.unlink()


CHANGES = ["rewrite", "truncate", "replace", "remove"]


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Collect what tests left, so that an error of its end is theirs: once, as it takes long."""
    yield
    gc.collect()


def values(source):
    return np.concatenate([source.read(*block) for block in source.blocks()])


@pytest.mark.parametrize(
    ("kind", "change"),
    # without a map of the caller that is cut, which ends the process
    sorted(set(itertools.product(KINDS, CHANGES)) - {("map", "truncate")}),
)
def test_rows_are_those_that_were_surveyed(tmp_path, kind, change):
    data = Data(tmp_path, kind)
    source = open_source(data.x, "X")
    digest = source.survey(digest=True).digest
    getattr(data, change)()
    if kind in ("npz", "csv"):  # these are in memory
        assert (values(source) == X).all()
        assert source.survey(digest=True).digest == digest
    elif kind in ("dataset", "raw", "map"):  # the old file may be open still
        with contextlib.suppress(FileError):
            assert (values(source) == X).all()
    else:
        with pytest.raises(FileError, match=r"has changed since it was opened|cannot be read"):
            values(source)


@pytest.mark.parametrize("kind", ["npy", "h5", "virtual", "parquet", "map"])
def test_no_time_stamp_is_needed(tmp_path, kind, monkeypatch):
    """A server may show old times, and a change may be faster than the clock."""
    monkeypatch.setattr("ntk_numba.inputs.unchanged.Stamp.changed", False)
    data = Data(tmp_path, kind)
    source = open_source(data.x, "X")
    source.check()
    data.rewrite()
    assert (source.read(0, 300) == X[:300]).all()
    with pytest.raises(OSError, match="has changed since it was opened: row 300 is not what"):
        source.read(200, 400)
    data.restore()
    assert (values(source) == X).all()


def test_a_change_before_the_first_read_is_found_where_hdf5_makes_up_values(tmp_path):
    data = Data(tmp_path, "virtual")
    source = open_source(data.x, "X")
    data.remove()
    with pytest.raises(OSError, match=r"x.h5, a part of .*v.h5:x, has changed since"):
        source.survey()


def test_what_is_a_change_of_a_file(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    source = open_source(str(path), "X")
    before = path.stat()
    path.chmod(0o400)
    source.refuse_changed()
    (tmp_path / "backup.npy").hardlink_to(path)
    source.refuse_changed()
    assert (values(source) == X).all()
    source = open_source(str(path), "X")
    time.sleep(0.02)  # a tick of the clock
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as after a change of the contents
    with pytest.raises(OSError, match=f"^{path} has changed since it was opened$"):
        source.refuse_changed()


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_file_that_changes_while_it_is_read_as_a_whole(tmp_path, kind, monkeypatch):
    data = Data(tmp_path, kind)
    ending = f".{kind}"
    whole = paths.FORMATS[ending]

    def open_late(*arguments):
        opened = whole.open(*arguments)
        data.rewrite()
        return opened

    monkeypatch.setitem(paths.FORMATS, ending, whole._replace(open=open_late))
    with pytest.raises(OSError, match=f"x.{kind} has changed while it was read; wait until"):
        open_source(data.x, "X")


@pytest.mark.parametrize("kind", ["npy", "nested", "raw"])
def test_no_tile_is_computed_from_other_rows(tmp_path, kind, monkeypatch):
    net = nk.MLP(2, "relu")
    original = Kernel.samples

    def late(self, source, start, stop, **options):
        if stop - start > 1:  # not the longest row, which is tried before
            data.rewrite()
        return original(self, source, start, stop, **options)

    calls = (
        lambda x: nk.gram(net, x),
        lambda x: nk.diagonal(net, x),
        lambda x: nk.write_gram(net, x, tmp_path / "g.h5"),
        lambda x: nk.gram(net, x, x),
    )
    for number, call in enumerate(calls):
        folder = tmp_path / str(number)
        folder.mkdir()
        data = Data(folder, kind)
        with monkeypatch.context() as patch:
            patch.setattr(Kernel, "samples", late)
            with pytest.raises(OSError, match="has changed since it was opened"):
                call(data.x)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]  # no tile was done


def test_the_working_folder_may_change(tmp_path, monkeypatch):
    for kind in ("npy", "virtual", "link", "parquet"):
        folder = tmp_path / kind
        folder.mkdir()
        data = Data(folder, kind)
        monkeypatch.chdir(folder)
        source = open_source(Path(data.x).name, "X")
        monkeypatch.chdir("/")
        source.check()
        assert (values(source) == X).all()
        data.rewrite()
        name = re.escape(Path(data.x).name)
        with pytest.raises(OSError, match=f"^{name}|a part of {name}"):
            values(source)


def test_sources_that_are_found_from_the_working_folder(tmp_path, monkeypatch):
    """HDF5 would not find them from another folder, and make up zeros."""
    for name in ("data", "sources", "elsewhere"):
        (tmp_path / name).mkdir()
    write_h5(tmp_path / "sources" / "s.h5", X)
    virtual(tmp_path / "data", "v.h5", "s.h5")
    monkeypatch.chdir(tmp_path / "sources")
    source, read = (open_source("../data/v.h5", "X") for _ in range(2))
    assert (values(read) == X).all()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for one in (source, read):
        with pytest.raises(OSError, match=r"s.h5, a part of .* has changed since it was opened"):
            one.read(0, 3)


def test_arrays_on_a_buffer_of_a_memory_map(tmp_path):
    path = tmp_path / "x.raw"
    write_raw(path, X)
    with path.open("r+b") as file:
        x = np.frombuffer(mmap.mmap(file.fileno(), 0)).reshape(X.shape)
    source = open_source(x, "X")
    assert (values(source) == X).all()
    write_raw(path, -X)
    with pytest.raises(OSError, match="row 0 is not what it was"):
        values(source)
