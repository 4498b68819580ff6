import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse

import ntk_numba as nk
from ntk_numba.inputs.source import open_source

X = np.random.default_rng(0).standard_normal((12, 4))
S = h5py.h5s


@pytest.fixture
def folder(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["x"] = X
        file["group/x"] = X[:6]
    return tmp_path


def virtual(path, parts, shape=X.shape):
    """Write a virtual dataset: {rows: (file name, dataset, its shape)}."""
    layout = h5py.VirtualLayout(shape, "f8")
    for rows, source in parts.items():
        layout[rows[0] : rows[1]] = h5py.VirtualSource(*source)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    return path


def growing(path, name, selection, source):
    """Write a virtual dataset of which one dimension has no end."""
    shape, most = (12, 4), (S.UNLIMITED, 4)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    target = S.create_simple(shape, most)
    target.select_hyperslab(*selection)
    properties.set_virtual(target, name, b"x", source or target)
    with h5py.File(path, "w") as file:
        space = S.create_simple(shape, most)
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, space, properties)
    return path


def values(spec):
    source = open_source(str(spec), "X")
    return source.read(0, source.shape[0])


def refuse(spec, text, error=nk.NtkNumbaError):
    with pytest.raises(error, match=text) as caught:
        values(spec)
    return caught


HALVES = {(0, 6): ("source.h5", "group/x", (6, 4)), (6, 12): ("source.h5", "group/x", (6, 4))}


def test_a_virtual_dataset_needs_its_sources(folder):
    path = virtual(folder / "v.h5", {(0, 12): ("source.h5", "x", (12, 4))})
    halves = virtual(folder / "halves.h5", HALVES)
    nested = virtual(folder / "nested.h5", {(0, 12): ("v.h5", "x", (12, 4))})
    assert (values(path) == X).all() and (values(nested) == X).all()
    assert (values(halves) == np.concatenate([X[:6], X[:6]])).all()
    (folder / "source.h5").rename(folder / "moved.h5")
    for spec in (path, halves, nested):
        refuse(spec, r"virtual dataset, and its source source.h5 does not exist", OSError)
        with h5py.File(spec) as file, pytest.raises(OSError, match=r"source.h5 does not exist"):
            open_source(file["x"], "X")
    (folder / "source.h5").write_text("no HDF5")
    refuse(path, "its source .*source.h5 cannot be opened")
    with h5py.File(folder / "source.h5", "w") as file:
        file["y"] = X
    refuse(path, r"its source .*source.h5 has no dataset 'x'")
    with h5py.File(folder / "source.h5", "w") as file:
        file.create_dataset("x", (12, 4), "f8")
    refuse(nested, "x in .*source.h5, a source of .* was created but never written")
    for shape in ((11, 4), (13, 4), (4, 11)):
        with h5py.File(folder / "source.h5", "w") as file:
            file["x"] = np.ones(shape)
        refuse(path, "has another shape than it had")


@pytest.mark.parametrize("rows", [(0, 6), (1, 12), (0, 11)])
def test_a_virtual_dataset_with_places_without_source(folder, rows):
    count = rows[1] - rows[0]
    with h5py.File(folder / "source.h5", "a") as file:
        file["part"] = X[:count]
    path = virtual(folder / "v.h5", {rows: ("source.h5", "part", (count, 4))})
    refuse(path, rf"{(12 - count) * 4} of its 48 entries have no source")
    # twice the same half has as many entries as the whole
    layout = h5py.VirtualLayout((12, 4), "f8")
    for _ in range(2):
        layout[:6] = h5py.VirtualSource("source.h5", "group/x", (6, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    refuse(path, "24 of its 48 entries have no source")


def test_virtual_datasets_of_scattered_rows_and_columns(folder):
    layout = h5py.VirtualLayout((12, 4), "f8")
    layout[::2] = h5py.VirtualSource("source.h5", "group/x", (6, 4))
    layout[[1, 3, 5, 7, 9, 11]] = h5py.VirtualSource("source.h5", "x", (12, 4))[6:]
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    right = np.stack([X[:6], X[6:]], 1).reshape(12, 4)
    assert (values(folder / "v.h5") == right).all()


def test_sources_are_where_hdf5_finds_them(folder, monkeypatch):
    (folder / "deep").mkdir()
    for name in ("../source.h5", str(folder / "source.h5"), "/gone/../gone/source.h5"):
        path = folder / "deep" / "v.h5"
        virtual(path, {(0, 12): (name, "x", (12, 4))})
        if name.startswith("/gone"):  # HDF5 then looks beside the file
            refuse(path, "does not exist")
            (folder / "deep" / "source.h5").symlink_to(folder / "source.h5")
        assert (values(path) == X).all()
    (folder / "elsewhere").mkdir()
    path.rename(folder / "elsewhere" / "v.h5")
    (folder / "link.h5").symlink_to(folder / "elsewhere" / "v.h5")
    (folder / "source.h5").rename(folder / "elsewhere" / "source.h5")
    assert (values(folder / "link.h5") == X).all()
    with h5py.File(folder / "same.h5", "w") as file:
        file["y"] = X
        layout = h5py.VirtualLayout((12, 4), "f8")
        layout[:] = h5py.VirtualSource(".", "y", (12, 4))
        file.create_virtual_dataset("x", layout)
    assert (values(f"{folder}/same.h5:x") == X).all()


def test_numbered_and_growing_sources(folder):
    selection = ((0, 0), (S.UNLIMITED, 1), (4, 1), (4, 4))
    for k in range(3):
        with h5py.File(folder / f"s{k}.h5", "w") as file:
            file["x"] = X[4 * k : 4 * k + 4]
    path = growing(folder / "v.h5", b"s%b.h5", selection, S.create_simple((4, 4)))
    assert (values(path) == X).all()
    (folder / "s1.h5").rename(folder / "t1.h5")
    refuse(path, "its source s1.h5 does not exist, although s2.h5 does", OSError)
    (folder / "s2.h5").unlink()
    assert (values(path) == X[:4]).all()
    (folder / "s0.h5").unlink()
    refuse(path, "source s0.h5 does not exist")
    with h5py.File(folder / "g.h5", "w") as file:
        file.create_dataset("x", data=X, maxshape=(None, 4))
    path = growing(folder / "v.h5", b"g.h5", ((0, 0), (1, 1), (1, 1), (S.UNLIMITED, 4)), None)
    assert (values(path) == X).all()
    (folder / "g.h5").unlink()
    refuse(path, "source g.h5 does not exist")


def test_a_virtual_dataset_of_itself(folder):
    path = virtual(folder / "v.h5", {(0, 12): (".", "x", (12, 4))})
    refuse(path, "refers to itself")


def test_a_source_that_changes_later(folder):
    path = virtual(folder / "v.h5", {(0, 12): ("source.h5", "x", (12, 4))})
    source = open_source(str(path), "X")
    source.refuse_changed()
    (folder / "source.h5").unlink()
    with pytest.raises(OSError, match=r"source.h5, a part of .*v.h5:x, has changed"):
        source.refuse_changed()


def test_values_that_were_never_written(folder):
    path = folder / "late.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("never", (12, 4), "f8")
        file.create_dataset("filled", (12, 4), "f8", fillvalue=3)
        file.create_dataset("chunks", (12, 4), "f8", chunks=(5, 3))
        file.create_dataset("some", (12, 4), "f8", chunks=(5, 3), compression="gzip")
        file.create_dataset("sparse", (12, 4), "f8", chunks=(5, 3), fillvalue=0)
        file["some"][:5] = file["sparse"][:5] = X[:5]
        file.create_dataset("all", data=X, chunks=(5, 3))
    for name in ("never", "filled", "chunks"):
        refuse(f"{path}:{name}", f"late.h5:{name} was created but never written")
    refuse(f"{path}:some", "2 of 6 chunks were written; the first that was not begins in row 5")
    assert (values(f"{path}:sparse")[:5] == X[:5]).all() and (values(f"{path}:all") == X).all()


def test_a_number_of_rows_that_no_matrix_has(folder):
    with h5py.File(folder / "long.h5", "w") as file:
        file.create_dataset("x", (1 << 40, 2), "f8", chunks=(4, 2), fillvalue=1.0)[:4] = X[:4, :2]
    refuse(folder / "long.h5", "has 1,099,511,627,776 rows, more than 2,147,483,648")


def test_data_outside_the_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with h5py.File("e.h5", "w") as file:
        file.create_dataset("x", data=X, external=[("one.raw", 8, 96), ("two.raw", 0, 288)])
    virtual(folder / "v.h5", {(0, 12): ("e.h5", "x", (12, 4))})
    virtual(folder / "nested.h5", {(0, 12): ("v.h5", "x", (12, 4))})
    with h5py.File("link.h5", "w") as file:
        file["far"] = h5py.ExternalLink("nested.h5", "/x")
        file["x"] = h5py.SoftLink("/far")
    for path in ("e.h5", "v.h5", "nested.h5", "link.h5:x"):
        refuse(path, r"has its values in other files \('one.raw', …\), which may be any of yours")

    def opened(path="e.h5"):
        with h5py.File(path) as file:
            source = open_source(file["x"], "X")
            return source.read(0, 12), len(source.files)

    for path, count in (("e.h5", 2), ("v.h5", 3), ("nested.h5", 4)):
        found, files = opened(path)
        assert (found == X).all() and files == count
    os.truncate("two.raw", 280)
    with pytest.raises(ValueError, match=r"has its data in .*two.raw, which is too short"):
        opened()
    Path("one.raw").unlink()
    with pytest.raises(OSError, match=r"has its data in .*one.raw, which is no file"):
        opened()
    os.mkfifo("one.raw")
    with pytest.raises(OSError, match=r"has its data in .*one.raw, which is no file"):
        opened()


def test_links_are_followed(folder):
    path = folder / "links.h5"
    with h5py.File(path, "w") as file:
        file["a/data"] = X
        file["y"] = np.ones(3)
        file["hard"] = file["a/data"]
        file["soft"] = h5py.SoftLink("/a/data")
        file["folder"] = h5py.SoftLink("/a")
        file["outside"] = h5py.ExternalLink("source.h5", "/x")
        file["gone"] = h5py.SoftLink("/a/none")
        file["lost"] = h5py.ExternalLink("none.h5", "/x")
        file["empty"] = h5py.ExternalLink("source.h5", "/none")
        file["loop"] = h5py.SoftLink("/loop")
    for name in ("a/data", "/hard", "soft", "folder/data", "outside"):
        assert (values(f"{path}:{name}") == X).all()
    refuse(f"{path}:gone", "'gone' is a link to '/a/none', which cannot be found")
    refuse(f"{path}:lost", "'lost' is a link to '/x' of the file none.h5, which cannot be found")
    refuse(f"{path}:empty", "'/none' of the file source.h5, which cannot be found")
    refuse(f"{path}:loop", "'loop' is a link to '/loop', which cannot be found")
    refuse(f"{path}:folder/no", "has no array 'folder/no'; it has")
    with h5py.File(path, "w") as file:
        file["only"] = h5py.ExternalLink("source.h5", "/x")
    assert (values(path) == X).all()


def test_colons_in_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    np.save("a:b.npy", X)
    with h5py.File("c:d.h5", "w") as file:
        file["group:x/y:z"] = X
        file["x"] = X[:3]
    with h5py.File("c:d.h5:x.h5", "w") as file:
        file["only"] = X[:2]
    assert (values("a:b.npy") == X).all()
    assert (values("c:d.h5:group:x/y:z") == X).all()
    assert len(values("c:d.h5:x")) == 3 and len(values("c:d.h5:x.h5")) == 2
    refuse("C:\\data\\x.npy", r"C:\\data\\x.npy does not exist")
    refuse("n:one.h5:a:b", "n:one.h5 does not exist")


WRITE = """
import sys, h5py
with h5py.File(sys.argv[1], "a", libver="latest") as file:
    if sys.argv[2] == "swmr":
        file.swmr_mode = True
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["write", "swmr"])
def test_a_file_that_is_open_for_writing(folder, mode):
    path = folder / "w.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = X
    command = [sys.executable, "-c", WRITE, path, mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        refuse(path, "w.h5 is open for writing", BlockingIOError)
        writer.stdin.close()
    assert (values(path) == X).all()


def is_open(path):
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(link.readlink())
    return Path(path) in names


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_an_error_does_not_keep_the_file_open(folder):
    """Although the error is still there, and with it the frames that it came through."""
    path = folder / "bad.h5"
    with h5py.File(path, "w") as file:
        file["one"], file["text"], file["z"] = np.ones(3), "word", X + 1j
        file["none"] = h5py.Empty("f8")
        file.create_dataset("never", (3, 3), "f8")
    np.save(folder / "line.npy", np.ones(5))
    np.savez(folder / "line.npz", a=np.ones(5))
    (folder / "no.h5").write_text("no")
    kept = [
        (bad, refuse(folder / bad, "line|bad|no"))
        for bad in (
            "bad.h5", "bad.h5:one", "bad.h5:text", "bad.h5:z", "bad.h5:none", "bad.h5:never",
            "bad.h5:no", "line.npy", "line.npz", "no.h5",
        )
    ]  # fmt: skip
    for bad, _ in kept:
        assert not is_open(folder / bad.partition(":")[0]), bad
    gc.collect()


def test_matlab(folder):
    """MATLAB stores by columns: of its 12 × 4 matrix, HDF5 sees 4 × 12."""
    path = folder / "m.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = X.T
        file["y"] = X[:, :1].T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124))
    with pytest.warns(UserWarning, match="by MATLAB, .* as the matrix of 12 × 4 that MATLAB shows"):
        assert (values(f"{path}:x") == X).all()
    other = folder / "m.h5"
    with h5py.File(other, "w") as file:
        file["x"] = X.T
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")
        file["s/data"] = X[0]
        file["s"].attrs["MATLAB_sparse"] = 4
    with pytest.warns(UserWarning, match="m.h5:x was written by MATLAB"):
        source = open_source(f"{other}:x", "X")
    assert (source.read(3, 7) == X[3:7]).all() and source.shape == (12, 4)
    with h5py.File(other) as file:  # a dataset is what it shows
        assert open_source(file["x"], "X").shape == (4, 12)
    refuse(f"{other}:s", "sparse matrix that is stored by columns")
    (folder / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(200))
    refuse(folder / "old.mat", "older format; save it in MATLAB with -v7.3")


def test_objects_of_h5py(folder):
    with h5py.File(folder / "one.h5", "w") as file:
        file["only"] = X
        file["group/none"] = h5py.Empty("f8")
    with h5py.File(folder / "one.h5") as file:
        with pytest.raises(ValueError, match="X holds 2 arrays"):
            open_source(file, "X")
        with pytest.raises(ValueError, match=r"X:none is an HDF5 dataset without data"):
            open_source(file["group"], "X")
        with pytest.raises(ValueError, match="X is an HDF5 dataset without data"):
            open_source(file["group/none"], "X")
        dataset, group = file["only"], file["group"]
    for closed in (dataset, group, file):
        with pytest.raises(ValueError, match="X belongs to a closed file"):
            open_source(closed, "X")
    with pytest.raises(ValueError, match="X is an HDF5 dataset without data"):
        open_source(h5py.Empty("f8"), "X")
    with h5py.File(folder / "two.h5", "w") as file:
        file["deep/er/x"] = X
        assert (open_source(file, "X").read(0, 12) == X).all()
        assert (open_source(file["deep"], "X").read(0, 12) == X).all()


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_sparse_groups_of_anndata(folder, kind):
    dense = np.where(X > 0.5, X, 0)
    matrix = getattr(scipy.sparse, f"{kind}_array")(dense)
    path = folder / "cells.h5ad"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["shape"] = f"{kind}_matrix", dense.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
    if kind == "csc":
        refuse(path, r"cells.h5ad:X is a sparse matrix that is stored by columns; .* tocsr")
        return
    for spec in (path, f"{path}:X", f"{path}:/X"):
        assert (values(spec) == dense).all()
    with h5py.File(path) as file:
        assert (open_source(file["X"], "X").read(2, 9) == dense[2:9]).all()
        assert (open_source(file, "X").read(2, 9) == dense[2:9]).all()
    for name, wrong in (("shape", (9, 4)), ("shape", (12,)), ("shape", "no"), ("shape", (-1, 2))):
        with h5py.File(path, "a") as file:
            file["X"].attrs[name] = wrong
        refuse(path, "cells.h5ad:X ")
    with h5py.File(path, "a") as file:
        del file["X/indptr"]
    refuse(path, "is damaged")


TYPES = {
    "strings": np.array([["a", "b"]], h5py.string_dtype()),
    "bytes": np.array([["a", "b"]], "S3"),
    "records": np.array([[(1, 2.0)]], "i4,f8"),
    "complex": X + 1j,
    "list": None,
    "enum": np.array([[0, 1]], h5py.enum_dtype({"NO": 0, "YES": 1})),
    "opaque": np.array([[1]], "M8[D]").astype(h5py.opaque_dtype("M8[D]")),
    "inner": np.zeros((2, 2), np.dtype(("f8", 3))),
    "long": X.astype(np.longdouble),
    "one": X[0],
    "three": X[None],
    "scalar": np.float64(3),
}  # fmt: skip


def test_types_of_datasets(folder):
    path = folder / "types.h5"
    with h5py.File(path, "w") as file:
        for name, array in TYPES.items():
            if name == "inner":
                file.create_dataset(name, (2, 2), h5py.h5t.py_create(np.dtype(("f8", 3))))
            elif array is not None:
                file[name] = array
        file.create_dataset("list", (2, 2), h5py.vlen_dtype(float))
        file.create_dataset("reference", (2, 2), h5py.ref_dtype)
        for code in (h5py.h5t.STD_B8LE, h5py.h5t.UNIX_D32LE):
            space = S.create_simple((2, 2))
            h5py.h5d.create(file.id, b"odd%d" % code.get_class(), code, space)
        for dtype in (">f8", ">f4", "<f2", ">i2", "u1", bool):
            file[f"good{dtype}"] = (X * 9).astype(dtype)
    for name in (*TYPES, "list", "reference", "odd4", "odd2"):
        refuse(f"{path}:{name}", r"types.h5:\w+ (holds|must have two|was created)")
    refuse(f"{path}:enum", "holds an enumeration")
    refuse(f"{path}:records", "holds records with the fields f0, f1")
    refuse(f"{path}:complex", "holds complex128")
    for dtype in (">f8", ">f4", "<f2", ">i2", "u1", bool):
        source = open_source(f"{path}:good{dtype}", "X")
        assert (source.read(0, 12) == (X * 9).astype(dtype)).all()


def test_a_filter_that_is_missing(folder):
    path = folder / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, compression="gzip", chunks=(4, 4))
    with h5py.File(path, "r+") as file:
        properties = file["x"].id.get_create_plist()
        assert properties.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
    original = h5py.h5z.filter_avail
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py.h5z, "filter_avail", lambda code: code != 1 and original(code))
        refuse(path, r"is compressed by filter 1 \(deflate\), which this HDF5 does not have")
