import os
import pickle
import stat

import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.inputs import source
from ntk_numba.inputs.labels import read_labels
from ntk_numba.inputs.source import open_source

X = np.random.default_rng(0).standard_normal((50, 3))


def digest_of(x, rows=None):
    return open_source(x, "X").survey(rows, digest=True).digest


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(X))
    np.save(tmp_path / "half.npy", X.astype(np.float16))
    np.savez(tmp_path / "one.npz", data=X)
    np.savez_compressed(tmp_path / "two.npz", a=X, b=X[:5])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["group/x"] = X
        file["y"] = np.arange(50)
    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        file.create_dataset("x", data=X, chunks=(7, 2), compression="gzip")
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "named.csv", X, delimiter=",", fmt="%.17g", header="a,b,c", comments="")
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    [
        "x.npy", "fortran.npy", "one.npz", "one.npz:data", "two.npz:a", "x.h5:group/x",
        "x.h5:/group/x", "one.hdf5", "one.hdf5:x", "x.csv", "named.csv",
    ],
)  # fmt: skip
def test_every_path_gives_the_same_data(folder, spec):
    s = open_source(f"{folder}/{spec}", "X")
    assert s.shape == (50, 3) and s.dtype == np.float64
    for start, stop in ((0, 50), (7, 9), (49, 50), (5, 5)):
        block = s.read(start, stop)
        assert block.flags.c_contiguous and (block == X[start:stop]).all()
    assert s.survey(digest=True).digest == digest_of(X)
    assert (s.sample(4) == X[[0, 16, 32, 49]]).all()


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (X, np.float64),
        (X.astype(np.float32), np.float32),
        (X.astype(np.float16), np.float64),
        (X.astype(">f8"), np.float64),
        ((X * 9).astype(np.int8), np.float64),
        (np.abs(X * 9).astype(np.uint64), np.float64),
        (X > 0, np.float64),
        (np.asfortranarray(X), np.float64),
        (X[::-2, ::2], np.float64),
        (X.tolist(), np.float64),
        (X.T, np.float64),
    ],
)
def test_arrays_are_converted(array, dtype):
    s = open_source(array, "X")
    block = s.read(1, 3)
    assert block.dtype == s.dtype == dtype and block.flags.c_contiguous
    assert (block == np.asarray(array)[1:3].astype(dtype)).all()


def test_memory_maps_are_what_they_show(folder):
    whole = np.load(folder / "x.npy", mmap_mode="r+")
    whole[3, 1] = 42.0
    for array in (
        whole,
        whole[10:40],
        whole[:, 1:],
        np.load(folder / "fortran.npy", mmap_mode="r"),
    ):
        assert (open_source(array, "X").read(2, 5) == array[2:5]).all()
    np.save(folder / "new.npy", X + 1)
    (folder / "new.npy").replace(folder / "x.npy")
    assert (open_source(whole, "X").read(2, 5) == whole[2:5]).all()
    copy = np.load(folder / "x.npy", mmap_mode="c")
    copy[0, 0] = 7.0
    assert open_source(copy, "X").read(0, 1)[0, 0] == 7.0


def test_digest_is_of_the_values():
    d = digest_of(X)
    x32 = X.astype(np.float32)
    assert digest_of(x32) == digest_of(x32.astype(float)) != d
    assert digest_of(X[::-1]) != d
    assert digest_of(X.reshape(75, 2)) != d
    zeros = np.zeros((2, 2))
    assert digest_of(zeros) == digest_of(-zeros)


def test_blocks_do_not_change_the_digest(monkeypatch):
    d = digest_of(X)
    monkeypatch.setattr(source, "BLOCK_BYTES", 100)
    s = open_source(X, "X")
    assert len(list(s.blocks())) > 10 and s.survey(digest=True).digest == d


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_names_the_first_row_and_column(bad, monkeypatch):
    monkeypatch.setattr(source, "BLOCK_BYTES", 100)
    x = X.copy()
    x[31, 2] = x[30, 1] = bad
    for look in (lambda s: s.check(), lambda s: s.survey(), lambda s: s.survey(digest=True)):
        with pytest.raises(ValueError, match=r"X: row 30, column 1 .* is -?(nan|inf); remove"):
            look(open_source(x, "X"))


@pytest.mark.parametrize(
    ("array", "error", "text"),
    [
        (np.empty((0, 3)), ValueError, "X is empty: it has no rows"),
        (np.empty((4, 0)), ValueError, "4 rows but no columns"),
        ([], ValueError, "X must have two dimensions"),
        (X[0], ValueError, r"one sample is X\[None, :\]"),
        (X[None], ValueError, "must have two dimensions"),
        (3.0, ValueError, "must have two dimensions"),
        ([[1, 2], [3]], ValueError, "X is no matrix"),
        (X + 1j, TypeError, "X holds complex128"),
        (X.astype(object), TypeError, "X holds object"),
        (X.astype(np.longdouble), TypeError, "X holds float128"),
        (np.array([["a"]]), TypeError, "X holds <U1"),
        (None, TypeError, "X is None: give an array"),
        (np.ma.masked_array(X, X > 1), TypeError, "X is a masked array"),
        (np.array([(1, 2.0)], "i4,f8"), TypeError, "X holds"),
        (np.array([["2020-01-01"]], "M8[D]"), TypeError, "X holds datetime64"),
    ],
)
def test_bad_arrays(array, error, text):
    with pytest.raises(error, match=text):
        open_source(array, "X")


def test_bad_files(folder):
    def refuse(spec, error, text):
        with pytest.raises(error, match=text):
            open_source(f"{folder}/{spec}", "X")

    refuse("none.npy", FileNotFoundError, "none.npy does not exist")
    refuse("", IsADirectoryError, "is a folder")
    (folder / "x.txt").write_text("1")
    refuse("x.txt", ValueError, "unknown ending '.txt'; known are .npy")
    refuse("x.npy:a", ValueError, "holds one array; leave out :a")
    refuse("two.npz", ValueError, r"holds 2 arrays \(a, b\); name one: .*two.npz:key")
    refuse("two.npz:c", ValueError, "has no array 'c'; it has a, b")
    refuse("x.h5", ValueError, r"holds 2 arrays \(group/x, y\)")
    refuse("x.h5:group", ValueError, "has no array 'group'")
    refuse("x.h5:y", ValueError, "must have two dimensions")

    for name in ("x.npy", "one.npz", "x.h5"):
        data = (folder / name).read_bytes()
        for keep in (0, 5, len(data) // 2, len(data) - 5):
            (folder / f"cut{keep}{name}").write_bytes(data[:keep])
            refuse(f"cut{keep}{name}", ValueError, "perhaps truncated")
        (folder / f"random{name}").write_bytes(os.urandom(500))
        refuse(f"random{name}", ValueError, "perhaps truncated|pickled")

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.save(folder / "objects.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    refuse("objects.npy", ValueError, "pickled Python objects, which are never loaded")
    (folder / "pickle.npy").write_bytes(pickle.dumps([Trap()]))
    refuse("pickle.npy", ValueError, "pickled Python objects")
    np.savez(folder / "objects.npz", a=np.array([[Trap()]], dtype=object))
    refuse("objects.npz", ValueError, "pickled Python objects")

    np.save(folder / "empty.npy", np.empty((0, 3)))
    refuse("empty.npy", ValueError, "it has no rows")
    (folder / "empty.csv").write_text("")
    refuse("empty.csv", ValueError, "it has no rows")
    (folder / "header.csv").write_text("a,b\n")
    refuse("header.csv", ValueError, "no rows")
    (folder / "word.csv").write_text("1,2\n3,x\n")
    refuse("word.csv", ValueError, "word.csv: line 2, column 1 is 'x', which is no number")
    (folder / "missing.csv").write_text("NA,NA\n1,2\n")
    refuse("missing.csv", ValueError, r"line 1, column 0 is missing \('NA'\)")
    (folder / "one.npz").rename(folder / "archive.npy")
    refuse("archive.npy", ValueError, "it is an .npz archive")
    os.mkfifo(folder / "pipe.npy")
    refuse("pipe.npy", ValueError, "is a device or a pipe")
    (folder / "ragged.csv").write_text("1,2\n3\n")
    refuse("ragged.csv", ValueError, "ragged.csv: line 2 has another number of cells, 1")
    (folder / "binary.csv").write_bytes(bytes([0xFF, 0xFE, 0x80]))
    refuse("binary.csv", ValueError, "is no text file")


def test_an_unreadable_file(folder, monkeypatch):
    """The root user can read all files, so for it the error of the system is simulated."""
    (folder / "x.npy").chmod(stat.S_IWUSR)
    if os.access(folder / "x.npy", os.R_OK):
        original = os.open

        def refuse(path, *arguments, **options):
            if os.fspath(path).endswith("x.npy"):
                raise PermissionError(13, "Permission denied")
            return original(path, *arguments, **options)

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"x.npy cannot be read: Permission denied"):
        open_source(f"{folder}/x.npy", "X")


def test_a_file_that_shrinks_meanwhile(folder):
    s = open_source(f"{folder}/x.npy", "X")
    os.truncate(folder / "x.npy", 500)
    with pytest.raises(OSError, match="rows 40 to 49 cannot be read; is the file damaged"):
        s.read(40, 50)


def test_labels(folder):
    np.save(folder / "y.npy", np.arange(50))
    assert (read_labels(folder / "y.npy", 50) == np.arange(50)).all()
    assert (read_labels(f"{folder}/x.h5:y", 50) == np.arange(50)).all()
    with pytest.raises(ValueError, match="holds 50 labels; the matrix has 3 rows"):
        read_labels(folder / "y.npy", 3)


def test_labels_that_vanish_meanwhile(folder, monkeypatch):
    np.save(folder / "y.npy", np.arange(50))
    original = os.preadv

    def late(*arguments):
        os.truncate(folder / "y.npy", 200)
        return original(*arguments)

    monkeypatch.setattr(os, "preadv", late)
    with pytest.raises(nk.NtkNumbaError, match=r"y.npy cannot be read .*has become shorter"):
        read_labels(folder / "y.npy", 50)
