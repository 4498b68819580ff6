"""Data that takes more memory than it may is refused by its declared size, before it is read."""

import gzip
import io
import subprocess
import sys
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compute.plan import make_plan
from ntk_numba.inputs.paths import open_path
from ntk_numba.inputs.source import open_source, open_sources

X = np.random.default_rng(0).standard_normal((300, 40))
MIB = 1 << 20


def npz(path, header, data):
    """Write an archive whose array x has this header, a dictionary, and these bytes."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member.getvalue() + data)
    return path


def described(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    ("shape", "size", "text"),
    [
        ((1 << 20, 1 << 20), 100, "x.npz:x takes 8 TiB of memory, more than 4 MiB, since an .npz"),
        ((3000, 400), 3000 * 400 * 8, "takes 9.16 MiB of memory, more than 4 MiB"),
        ((3, 4), 95, "is truncated: it has fewer bytes than it states"),
        ((3, 4), 40 * MIB, "has more bytes than it states"),
        ((2**40, 2**40), 8, "takes"),
    ],
)
def test_archives_that_state_another_size(tmp_path, shape, size, text):
    path = npz(tmp_path / "x.npz", described(shape), bytes(size))
    tracemalloc.start()
    with pytest.raises(ValueError, match=text):
        open_source(path, "X", 4 * MIB)
    assert tracemalloc.get_traced_memory()[1] < 5 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_right(tmp_path, save):
    save(tmp_path / "x.npz", rows=X, columns=np.asfortranarray(X.astype("f4")), big=X.astype(">f8"))
    for key, dtype in (("rows", "f8"), ("columns", "f4"), ("big", "f8")):
        source = open_source(f"{tmp_path}/x.npz:{key}", "X")
        assert source.dtype == dtype and (source.read(0, 300) == X.astype(dtype)).all()


def test_both_data_sets_share_the_limit(tmp_path):
    for name in ("x", "z"):
        np.savez(tmp_path / f"{name}.npz", X)
    open_sources(tmp_path / "x.npz", tmp_path / "z.npz", 4 * X.nbytes)
    with pytest.raises(ValueError, match=r"z.npz:arr_0 takes"):
        open_sources(tmp_path / "x.npz", tmp_path / "z.npz", 3 * X.nbytes)


@pytest.mark.parametrize("chunks", [(300, 4000), (100, 500), (300, 1)])
@pytest.mark.parametrize("by_matlab", [False, True])
@pytest.mark.filterwarnings("ignore:.*was written by MATLAB")
def test_compressed_chunks_are_unpacked_once(tmp_path, monkeypatch, chunks, by_matlab):
    wide = np.random.default_rng(0).integers(0, 9, (300, 4000)).astype(float)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        data, shape = (wide.T, chunks[::-1]) if by_matlab else (wide, chunks)
        file.create_dataset("x", data=data, chunks=shape, compression="gzip", compression_opts=1)
    if by_matlab:
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + path.read_bytes()[512:])
    source, reads, read = open_source(path, "X"), [], h5py.Dataset.__getitem__
    assert source.held > wide.nbytes / 3
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda d, k: reads.append(k) or read(d, k))
    rows = [source.read(k, k + 1)[0] for k in range(300)]
    assert (np.array(rows) == wide).all()
    assert len(reads) == 300 // chunks[0]
    with pytest.raises(ValueError, match=r"x is compressed in chunks of .*h5repack -l x:CHUNK="):
        open_source(path, "X", MIB)


def test_small_chunks_and_those_that_are_not_compressed_hold_nothing(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("plain", data=X, chunks=(300, 40))
        small = file.create_dataset("small", data=X, chunks=(16, 40), compression="gzip")
        large = file.create_dataset("large", (20_000, 16), "f8", chunks=(20_000, 1), shuffle=True)
        for j in range(16):
            large[:, j] = 1
        assert open_source(small, "X").held == 0
        source = open_source(large, "X")
        assert source.held > large.size * 8 and str(source.file) == file.filename
    assert open_source(f"{tmp_path}/x.h5:plain", "X", 1).held == 0


def test_row_groups_larger_than_the_limit(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"a": np.zeros(200_000), "b": np.zeros(200_000)})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=200_000)
    with pytest.raises(ValueError, match=r"row groups that take .*row_group_size=10_000"):
        open_source(tmp_path / "x.parquet", "X", 4 * MIB)
    assert open_source(tmp_path / "x.parquet", "X", 16 * MIB).shape == (200_000, 2)


def few_bytes(path, header, size):
    """Write a .npy file with this start, and zeros behind it that take no space."""
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(size)


def npy_header(length):
    return b"\x93NUMPY\2\0" + length.to_bytes(4, "little")


def array_named_npz(path):
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, described((1000, 5000)))
    few_bytes(path / "x.npz", member.getvalue(), 40 * MIB)


def header_of_npy(path):
    few_bytes(path / "x.npy", npy_header(32 * MIB), 40 * MIB)


def header_of_npz(path):
    with zipfile.ZipFile(path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header(32 * MIB) + bytes(33 * MIB))


def comments(path):
    with gzip.open(path / "x.csv.gz", "wt", compresslevel=1) as file:
        file.write(("# " + "x" * 100_000 + "\n") * 300 + "1,2\n")


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (array_named_npz, "is no .npz archive; a single array belongs in a .npy file"),
        (header_of_npy, "its header has 33554432 bytes"),
        (header_of_npz, "its header has 33554432 bytes"),
        (comments, "does not fit into memory"),
    ],
)
def test_what_stands_before_the_numbers_is_limited_too(tmp_path, write, text):
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    tracemalloc.start()
    with pytest.raises(ValueError, match=text):
        open_source(path, "X", 4 * MIB)
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["labels", "sparse", "virtual"])
def test_large_chunks_of_small_datasets(tmp_path, kind):
    """A dataset that can grow may have chunks of any size, and HDF5 unpacks them as a whole."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        wide = (5,) if kind == "virtual" else ()
        place = file.create_group("x") if kind == "sparse" else file
        name = "data" if kind == "sparse" else "y"
        place.create_dataset(
            name, data=np.ones((6, *wide)), maxshape=(None, *wide), chunks=(1 << 20, *wide),
            compression="gzip", compression_opts=1,
        )  # fmt: skip
        if kind == "sparse":
            place["indices"], place["indptr"] = [0, 1, 0, 1, 0, 1], [0, 2, 4, 6]
            place.attrs["encoding-type"], place.attrs["shape"] = "csr_matrix", [3, 4]
        elif kind == "virtual":
            layout = h5py.VirtualLayout((6, 5), "f8")
            layout[:] = h5py.VirtualSource(".", "y", (6, 5))
            file.create_virtual_dataset("x", layout)
    key = "y" if kind == "labels" else "x"
    with pytest.raises(ValueError, match=r"is compressed in chunks of .*h5repack -l .*:CHUNK=6"):
        open_path(f"{path}:{key}", MIB)
    open_path(f"{path}:{key}", 128 * MIB)[2].close()


def test_decimals_are_converted_a_few_at_a_time(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    whole = np.arange(100_000)
    column = pyarrow.array(whole).cast(pyarrow.decimal128(21, 2))
    parquet.write_table(pyarrow.table({"a": column}), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", "X", 4 * MIB)
    tracemalloc.start()
    assert (source.read(0, 100_000)[:, 0] == whole).all()
    assert tracemalloc.get_traced_memory()[1] < 6 * MIB  # all objects at once take 11 MiB
    tracemalloc.stop()


@pytest.mark.parametrize("n", [1, 2, 8, 63, 64, 65])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_few_samples_of_many_features_are_counted_as_they_are(n, dtype):
    """A tile of 64 samples is not taken for N = 8, of which a file has 5 million features."""

    class Wide:
        shape, dtype = (n, 5_000_000), np.dtype("f8")

        def __getitem__(self, rows):
            raise AssertionError("no row is read for a plan")

    plan = make_plan(nk.MLP(3), open_source(Wide(), "X"), memory="64GiB", dtype=dtype, threads=1)
    padded = -(-n // (128 // np.dtype(dtype).itemsize)) * (128 // np.dtype(dtype).itemsize)
    samples = padded * 5_000_000 * np.dtype(dtype).itemsize
    assert samples < plan.working < samples + (10 + 3 * 8 + 16 + 4) * 5_000_000 * 8


@pytest.mark.parametrize("n", [1, 2, 8, 17, 63])
def test_few_samples_have_the_bits_of_many(n):
    x = np.random.default_rng(n).standard_normal((64, 3000))
    few, k = nk.gram(nk.MLP(3, "erf"), x[:n]), nk.gram(nk.MLP(3, "erf"), x[:n], x[:n])
    assert (few.ntk == few.ntk.T).all() and (few.ntk == k.ntk).all()
    d = nk.diagonal(nk.MLP(3, "erf"), x[:n])
    assert (np.diag(few.nngp) == d.nngp).all()


# not `ru_maxrss`, which begins with that of the process that forked this one
RUN = """
import pathlib, sys
from ntk_numba.cli import main
try:
    main(sys.argv[1:])
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print("peak", int(status.split("VmHWM:")[1].split()[0]) >> 10)
"""


def peak(*words):
    """Run a command; return its exit code, the MiB that it took, and its standard error."""
    run = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], capture_output=True, text=True, check=False
    )
    return run.returncode, int(run.stdout.split("peak ")[1]), run.stderr


@pytest.mark.system
@pytest.mark.parametrize("kind", ["npz", "csv", "chunk", "parquet"])
def test_a_bomb_is_refused_below_the_limit(tmp_path, kind):
    """Files of about a megabyte that hold more than a gigabyte."""
    path = tmp_path / f"x.{ {'chunk': 'h5', 'csv': 'csv.gz'}.get(kind, kind) }"
    if kind == "npz":
        npz(path, described((13_000, 13_000)), bytes(13_000**2 * 8))
    elif kind == "csv":
        with gzip.open(path, "wt", compresslevel=1) as file:
            for _ in range(1000):
                file.write("1,2,3,4,5,6,7,8,9,0\n" * 20_000)
    elif kind == "chunk":
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "x", data=np.zeros((12_000, 12_000)), chunks=(12_000, 12_000), compression="gzip",
            )  # fmt: skip
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {str(k): np.zeros(2_000_000) for k in range(60)}
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2_000_000)
    for command in ("gram", "plan"):
        code, taken, said = peak(
            command, path, "-o", tmp_path / "g.h5", "--depth", "2", "--memory", "700MiB"
        )
        assert code == 2 and "memory" in said and "Traceback" not in said
        assert taken < 700
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.system
@pytest.mark.parametrize(("n", "features"), [(1, 2_000_000), (8, 1_000_000), (63, 150_000)])
def test_a_job_stays_below_its_limit(tmp_path, n, features):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((n, features)))
    code, taken, said = peak(
        "gram", tmp_path / "x.npy", "-o", tmp_path / "g.h5", "--depth", "3", "--memory", "900MiB"
    )
    assert code == 0, said
    assert taken < 900
