"""Rows of .npy files are those that NumPy loads; the file is read and never mapped."""

import gc
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import PATIENCE

import ntk_numba as nk
from ntk_numba.inputs import numpy_files
from ntk_numba.inputs.labels import read_labels
from ntk_numba.inputs.numpy_files import FileArray
from ntk_numba.inputs.source import open_source

RNG = np.random.default_rng(0)
SHAPES = [(1, 1), (7, 1), (1, 9), (13, 5), (600, 3), (3, 600), (5000, 2), (2, 5000)]
DTYPES = ["<f8", ">f8", "<f4", ">f4", "<f2", "?", "i1", "<i8", ">i4", "<u8", ">u2"]


def write(path, array, version=None):
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version)
    return path


def header(path, text, version=b"\1\0", size=0):
    """Write a file with a header of any text, and some bytes of data."""
    data = text.encode() + b"\n"
    length = len(data).to_bytes(2 if version == b"\1\0" else 4, "little")
    path.write_bytes(b"\x93NUMPY" + version + length + data + bytes(size))
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_dtypes_and_orders(tmp_path, dtype, order, monkeypatch):
    monkeypatch.setattr(numpy_files, "KEPT_BYTES", 2000)
    for number, shape in enumerate(SHAPES):
        array = np.asarray(RNG.integers(0, 99, shape), dtype, order)
        path = write(tmp_path / f"{number}.npy", array, [(1, 0), (2, 0), (3, 0)][number % 3])
        source = open_source(str(path), "X")
        assert source.shape == shape and source.dtype == open_source(array, "X").dtype
        for _ in range(5):
            start, stop = sorted(RNG.integers(0, shape[0] + 1, 2))
            assert (source.read(start, stop) == np.load(path)[start:stop]).all()
        assert (source.read(0, shape[0]) == array).all()
        assert (source.take(np.arange(shape[0])[::-7]) == array[::-7]).all()


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(12), np.arange(12).reshape(3, 4), np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.asfortranarray(np.arange(12).reshape(2, 3, 2)), np.array(list("abcdefghijkl")),
        np.arange(12).astype("M8[D]"), np.arange(12).astype("S3"),
    ],
)  # fmt: skip
def test_labels_of_any_shape(tmp_path, labels):
    path = write(tmp_path / "y.npy", labels)
    expected = np.load(path).ravel()
    text = expected.astype(str) if expected.dtype.kind == "S" else expected
    assert (read_labels(path, 12) == text).all()
    with path.open("rb") as file:
        assert (FileArray(file)[1:3] == np.load(path)[1:3]).all()


def test_numbers_without_a_shape_and_none_at_all(tmp_path):
    assert read_labels(write(tmp_path / "y.npy", np.array(3)), 1) == 3
    for array in (
        np.array(3.0),
        np.zeros(3),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        np.zeros((1,) * 3),
    ):
        with pytest.raises(ValueError, match=r"two dimensions|is empty|no columns"):
            open_source(str(write(tmp_path / "x.npy", array)), "X")
    for array in (np.zeros((3, 2), "i4,f8"), np.zeros((3, 2), "S0"), np.zeros((3, 2), complex)):
        with pytest.raises(TypeError, match=r"holds .*real numbers are wanted"):
            open_source(str(write(tmp_path / "x.npy", array)), "X")


def test_what_follows_the_array_is_not_read(tmp_path):
    path = write(tmp_path / "x.npy", np.ones((3, 2)))
    with path.open("ab") as file:
        np.save(file, np.zeros((3, 2)))
    assert (open_source(str(path), "X").read(0, 3) == 1).all()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -3)}", b"\1\0"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 3)}", b"\1\0"),
        ("{'descr': '<f8', 'fortran_order': True, 'shape': (2, 4)}", b"\1\0"),
        (f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**61}, {2**61})}}", b"\2\0"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}", b"\4\0"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3.0)}", b"\1\0"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 5000 + "}", b"\2\0"),
        ("{'descr': '<f8', 'fortran_order': False}", b"\1\0"),
        ("__import__('os').abort()", b"\3\0"),
        ("{'descr': 'f" + "8" * 20_000 + "'}", b"\2\0"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", b"\1\0"),
        ("", b"\1\0"),
    ],
)
def test_headers_that_are_none(tmp_path, text, version):
    path = header(tmp_path / "x.npy", text, version, size=48)
    with pytest.raises(ValueError, match=r"x.npy (is no valid .npy file|holds pickled)"):
        open_source(str(path), "X")


def test_the_file_is_closed(tmp_path):
    path = str(write(tmp_path / "x.npy", np.ones((3, 2))))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        open_source(path, "X").read(0, 3)
        with pytest.raises(ValueError, match=r"at least one|two dimensions"):
            open_source(str(write(tmp_path / "y.npy", np.ones(3))), "X")
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_becomes_shorter_gives_one_error(tmp_path, order):
    """In a process of its own, which SIGBUS would end."""
    path = write(tmp_path / "x.npy", np.ones((9000, 5), order=order))
    code = """if True:
        import os, sys
        from ntk_numba.inputs import numpy_files
        from ntk_numba.inputs.source import open_source
        numpy_files.KEPT_BYTES = 0
        source = open_source(sys.argv[1], "X")
        source.read(0, 64)
        os.truncate(sys.argv[1], 200)
        try:
            source.read(100, 9000)
        except OSError as error:
            print(type(error).__name__, error)
    """
    command = [sys.executable, "-W", "error", "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"FileError {path}: rows 100 to 8999 cannot be read; is the file")
    assert "the file has become shorter" in done.stdout and not done.stderr


def test_a_pickle_behind_the_first_bytes_of_a_npy_file_is_not_loaded(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([[Path()]], dtype=object), allow_pickle=True)
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(nk.NtkNumbaError, match="pickled Python objects, which are never loaded"):
        open_source(str(tmp_path / "x.npy"), "X")
