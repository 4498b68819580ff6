"""HDF5 files of hostile structure: a clear answer in a bounded time."""

import os
import socket
import time

import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.inputs import links
from ntk_numba.inputs.source import open_source

X = np.random.default_rng(0).standard_normal((12, 4))


def refuse(spec, text):
    with pytest.raises(nk.NtkNumbaError, match=text):
        open_source(str(spec), "X")


def virtual(path, *sources):
    """Write a virtual dataset, each source of which is mapped to the same rows."""
    layout = h5py.VirtualLayout(X.shape, "f8")
    for source in sources:
        layout[:] = h5py.VirtualSource(source, "x", X.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    return path


def test_groups_in_groups(tmp_path):
    path = tmp_path / "deep.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("g")
        group["x"] = X
    start = time.process_time()
    refuse(path, "holds more groups and arrays than a search looks at; name the array: .*:key")
    refuse(f"{path}:y", "has no array 'y'")
    assert (open_source(f"{path}:{'g/' * 3000}x", "X").read(0, 12) == X).all()
    with h5py.File(path) as file, pytest.raises(ValueError, match=r"X holds more .*X\['key'\]"):
        open_source(file, "X")
    assert time.process_time() - start < 10


def test_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "MOST_NAMES", 20)
    monkeypatch.setattr(links, "MOST_LINKED", 3)
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        file["x"] = X
        for k in range(20):
            file.create_group(f"g{k}")
    refuse(path, "holds more groups and arrays")
    assert (open_source(f"{path}:x", "X").read(0, 12) == X).all()
    with h5py.File(path, "w") as file:
        for k in range(4):
            file[f"l{k}"] = h5py.ExternalLink("none.h5", "/x")
    refuse(path, "holds more groups and arrays")


def test_circles(tmp_path):
    path = tmp_path / "circle.h5"
    with h5py.File(path, "w") as file:
        file["a/x"] = X
        file["a/b/up"] = file["a"]
        file["b"] = file["a/b"]
        file["loop"] = h5py.SoftLink("/back")
        file["back"] = h5py.SoftLink("/loop")
        file["self"] = h5py.ExternalLink("circle.h5", "/self")
        file["s0"] = h5py.SoftLink("a")
        for k in range(1, 30):  # followed one by one, these were 10^9
            file[f"s{k}"] = h5py.SoftLink(f"s{k - 1}/b/up/../s{k - 1}/b/up")
    for key in ("", ":a/x", ":a/b/up/b/up/x", ":s0/x"):
        assert (open_source(f"{path}{key}", "X").read(0, 12) == X).all()
    for key in ("loop", "self"):
        refuse(f"{path}:{key}", f"'{key}' is a link to .* cannot be found .too many links")
    refuse(f"{path}:s29", "'s29' is a link to .* cannot be found")
    refuse(f"{path}:a/x/y", "has no array 'a/x/y'")


def test_links_mean_what_hdf5_says(tmp_path):
    (tmp_path / "deep").mkdir()
    with h5py.File(tmp_path / "deep" / "x.h5", "w") as file:
        file["group/x"] = X
        file["soft"] = h5py.SoftLink("group/x")
    with h5py.File(tmp_path / "far.h5", "w") as file:
        file["folder"] = h5py.ExternalLink("deep/x.h5", "/")
    with h5py.File(tmp_path / "top.h5", "w") as file:
        file["one"] = h5py.ExternalLink("far.h5", "folder/soft")
        file["inside/two"] = h5py.SoftLink("./three")
        file["inside/three"] = h5py.SoftLink("/one")
    for key in ("one", "inside/two", "/inside//three", "inside/./two"):
        source = open_source(f"{tmp_path}/top.h5:{key}", "X")
        with h5py.File(tmp_path / "top.h5") as file:
            assert (source.read(0, 12) == file[key][:]).all()
        assert {file.path.name for file in source.files} == {"top.h5", "far.h5", "x.h5"}


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "behind a link"])
def test_no_pipe_is_waited_for(tmp_path, kind):
    def make(path):
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(os.path.relpath(path))
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            os.mkfifo(tmp_path / "real")
            path.symlink_to(tmp_path / "real")

    make(tmp_path / "p.h5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["x"] = h5py.ExternalLink("p.h5", "/x")
    refuse(tmp_path / "p.h5", "p.h5 is a device or a pipe; name an ordinary file")
    refuse(f"{tmp_path}/link.h5:x", "cannot be found .*p.h5 is a device or a pipe")
    refuse(tmp_path / "link.h5", "holds 0 arrays")
    refuse(virtual(tmp_path / "v.h5", "p.h5"), "its source .*p.h5 is a device or a pipe")
    for name in ("p.npy", "p.npz", "p.csv", "p.csv.gz", "p.parquet"):
        (tmp_path / name).symlink_to(tmp_path / "p.h5")
        refuse(tmp_path / name, f"{name} is a device or a pipe")


def test_virtual_datasets_of_virtual_datasets(tmp_path):
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["x"] = X
    for k in range(1, 19):
        virtual(tmp_path / f"{k}.h5", f"{k - 1}.h5", f"{k - 1}.h5")
    assert len(open_source(str(tmp_path / "10.h5"), "X").files) == 11
    refuse(tmp_path / "18.h5", "is a virtual dataset of too many others")


def test_a_selection_of_very_many_pieces(tmp_path):
    space = h5py.h5s.create_simple((1 << 40, 2))
    space.select_hyperslab((0, 0), (1 << 38, 1), (4, 1), (2, 2))
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["x"] = X
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        source = h5py.h5s.create_simple((1 << 39, 2))
        properties.set_virtual(space, b".", b"x", source)
        h5py.h5d.create(
            file.id, b"v", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((1 << 40, 2)), properties
        )
    refuse(f"{tmp_path}/0.h5:v", "is scattered over too many pieces")
