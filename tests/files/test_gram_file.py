import json
import re
import shutil
import subprocess

import h5py
import numpy as np
import pytest

import ntk_numba as nk

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
    assert nk.MLP.from_dict(json.loads(attributes["net"])) == NET
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
    assert re.search(text, "\n".join(report.problems)), report.problems


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
