import json
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compiled.processor import processor
from ntk_numba.gramfile.layout import INCOMPLETE

NET = nk.MLP(3, "relu", b_std=0.1)


@pytest.fixture
def written(tmp_path, points):
    path = tmp_path / "g.h5"
    nk.write_gram(NET, points, path, kernels=("nngp", "ntk")).close()
    return path


def test_the_file_is_ordinary_hdf5(written, points):
    k = nk.gram(NET, points)
    with h5py.File(written) as file:
        assert set(file) == {"nngp", "ntk", "checksums", "digests"}
        assert file["checksums/ntk"].shape == (3, 3)
        assert (file["ntk"][:] == k.ntk).all() and (file["nngp"][:] == k.nngp).all()
        attributes = dict(file.attrs)
    assert attributes["format"] == "ntk_numba gram" and attributes["format_version"] == 4
    assert attributes["complete"] and attributes["package_version"] == nk.__version__
    assert attributes["processor"] == processor().encode()
    assert nk.MLP.from_dict(json.loads(attributes["net"])) == NET
    assert len(attributes["input_digest"]) == 64


@pytest.mark.skipif(not shutil.which("h5dump"), reason="no h5dump: install hdf5-tools")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_the_tools_of_hdf5_read_it(points, tmp_path, dtype, layers):
    path = tmp_path / "g.h5"
    nk.write_gram(NET, points, path, layers=layers, dtype=dtype).close()
    listing = subprocess.run(["h5ls", "-r", path], check=True, capture_output=True, text=True)
    shape = "3, 150, 150" if layers == "all" else "150, 150"
    assert re.search(rf"^/ntk +Dataset {{{shape}}}$", listing.stdout, re.MULTILINE)
    command = ["h5dump", "-y", "-w", "1", "-m", "%.17g", "-d", "/ntk", path]
    dump = subprocess.run(command, check=True, capture_output=True, text=True)
    data = dump.stdout.split("DATA {")[1].split("}")[0].replace(",", " ").split()
    k = nk.gram(NET, points, kernels="ntk", layers=layers, dtype=dtype)
    assert (np.array(data, float).astype(dtype) == k.ntk.ravel()).all()


def test_open_gram(written, points):
    k = nk.gram(NET, points)
    with nk.open_gram(written) as f:
        assert f.shape == (150, 150) and f.net == NET and f.complete and f.dtype == np.float64
        assert (f.ntk[2:5, 7] == k.ntk[2:5, 7]).all() and f.nngp[3, 3] == k.nngp[3, 3]
        assert f.verify()
        assert f.package_version == nk.__version__ and f.processor == processor() != ""
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
    refuse(written, ValueError, "format version 99; this package reads 4; install a newer one")
    with h5py.File(written, "r+") as file:
        file.attrs["format_version"] = 2
    refuse(written, ValueError, "format version 2; this package reads 4; compute it again")
    with h5py.File(written, "r+") as file:
        file.attrs["format_version"] = 4
        net = file.attrs["net"]
        file.attrs["net"] = net.replace("0.1", "0.2")
    refuse(written, ValueError, "is damaged: its attributes have changed")
    with h5py.File(written, "r+") as file:
        file.attrs["net"] = net
        file.attrs["comment"] = "one's own are welcome"
    nk.open_gram(written).close()
    with h5py.File(written, "r+") as file:
        del file["ntk"], file["nngp"]
    refuse(written, ValueError, "holds no kernel")
    with h5py.File(written, "r+") as file:
        del file.attrs["tile"]
    refuse(written, ValueError, "is damaged")


@pytest.mark.parametrize(
    ("row", "column", "text"),
    [
        (70, 3, r"ntk: tile \(1, 0\) does not match its checksum"),
        (3, 70, r"ntk: tile \(0, 1\) is not the mirror of \(1, 0\)"),
        (5, 5, r"ntk: tile \(0, 0\) does not match its checksum"),
    ],
)
def test_verify_finds_a_wrong_entry(written, row, column, text):
    with h5py.File(written, "r+") as file:
        file["ntk"][row, column] *= -1
    with nk.open_gram(written) as f:
        report = f.verify()
    assert not report and len(report.problems) == 1
    assert re.fullmatch(text, report.problems[0])
    assert report.bad == [("ntk", 0, max(row, column) // 64, min(row, column) // 64)]


def test_verify_finds_a_zero_of_the_wrong_sign(tmp_path):
    """Zeros of both signs are equal as numbers."""
    path = tmp_path / "g.h5"
    x = np.ones((100, 2))
    x[70] = 0
    nk.write_gram(nk.MLP(2), x, path).close()
    with h5py.File(path, "r+") as file:
        assert file["ntk"][3, 70] == 0
        file["ntk"][3, 70] = -0.0
    with nk.open_gram(path) as f:
        assert f.verify().problems == ["ntk: tile (0, 1) is not the mirror of (1, 0)"]


def forge(path, row, column, value):
    """Change an entry, its mirror image and the checksum."""
    with h5py.File(path, "r+") as file:
        for at in {(row, column), (column, row)}:
            file["ntk"][at] = value
    with nk.open_gram(path) as f, f.tiles(write=True) as tiles:
        i, j = max(row, column) // 64, min(row, column) // 64
        (block,) = tiles.scan([("ntk", 0, i, j)], lambda tile: tile.block.copy())
        tiles.write("ntk", 0, i, j, block)
        tiles.commit()


@pytest.mark.parametrize(
    ("row", "column", "value", "text"),
    [
        (70, 3, np.nan, "tile (1, 0) has an entry that is not finite: row 70, column 3, 1 in all"),
        (70, 3, np.inf, "tile (1, 0) has an entry that is not finite: row 70, column 3, 1 in all"),
        (70, 3, 1e9, "tile (1, 0) has an entry that is larger than its diagonal allows: row 70, "),
    ],
)
def test_verify_finds_what_no_kernel_holds(written, row, column, value, text):
    forge(written, row, column, value)
    with nk.open_gram(written) as f:
        (problem,) = f.verify().problems
    assert problem.startswith(f"ntk: {text}")


def test_verify_finds_a_lost_checksum_and_other_storage(written, tmp_path):
    with h5py.File(written, "r+") as file:
        file["checksums/ntk"][2, 1] = 0
    with nk.open_gram(written) as f:
        report = f.verify()
        assert report.problems == ["ntk: tile (2, 1) has no checksum"]
        assert report.bad == [("ntk", 0, 2, 1)]
    with h5py.File(written, "r+") as file:
        values = file["ntk"][:]
        del file["ntk"]
        file.create_dataset("ntk", data=values, chunks=(64, 64), compression="gzip")
    with nk.open_gram(written) as f:
        assert (f.ntk[:] == values).all()
        (problem,) = f.verify().problems
        assert "ntk is not stored as it was written" in problem
    with h5py.File(written, "r+") as file:
        del file["ntk"]
        file["ntk"] = np.zeros((4, 4))
    with pytest.raises(ValueError, match="ntk is not float64 of shape"):
        nk.open_gram(written)


class TestIncomplete:
    """Reading a file in which all tiles except (2, 0) and (1, 1) are done."""

    @pytest.fixture(params=["last", "all"])
    def partial(self, points, tmp_path, request):
        path = tmp_path / "g.h5.partial"
        nk.write_gram(NET, points, tmp_path / "g.h5", layers=request.param).close()
        with (
            nk.open_gram(tmp_path / "g.h5") as f,
            f.tiles(write=True) as tiles,
        ):
            tiles.clear_checksum(("ntk", 0, 2, 0))
            tiles.clear_checksum(("ntk", 2 if request.param == "all" else 0, 1, 1))
            tiles.begin_with(INCOMPLETE)
        return (tmp_path / "g.h5").rename(path)

    def test_it_is_refused(self, partial):
        with pytest.raises(ValueError, match=r"g.h5.partial is incomplete; run its command again"):
            nk.open_gram(partial)
        with pytest.raises(FileNotFoundError, match=r"not exist, but \S+g.h5.partial does: run"):
            nk.open_gram(partial.with_suffix(""))

    def test_finished_tiles_can_be_read(self, partial, points):
        k = nk.gram(NET, points, layers="all").ntk
        with nk.open_gram(partial, incomplete=True) as f:
            k = k if f.contents.all_layers else k[-1]
            assert not f.complete and f.done.sum() == 4 and f.ntk.shape == f.shape
            for key in (
                np.s_[..., :64, :128], np.s_[..., 5, 100], np.s_[..., -1, 70:],
                np.s_[..., [3, 60], 70:80], np.s_[..., np.array([3, 60]), 70:80],
                np.s_[..., np.arange(150) < 64, :5], np.s_[..., 130:, 140:150:3],
                np.s_[..., 0:0, 5],
            ):  # fmt: skip
                assert (f.ntk[key] == k[key]).all()
            assert [p for p in f.verify().problems if "incomplete" not in p] == []

    @pytest.mark.parametrize(
        "key",
        [
            np.s_[...], np.s_[:], np.s_[..., 5, 140], np.s_[..., 140, 5], np.s_[..., 100, 100],
            np.s_[..., 100], np.s_[..., [3, 148], 0], np.s_[..., ::149, :], np.s_[..., -1, 0],
        ],
    )  # fmt: skip
    def test_missing_tiles_are_never_zeros(self, partial, key):
        with (
            nk.open_gram(partial, incomplete=True) as f,
            pytest.raises(ValueError, match=r"tile \(\d, \d\), rows from \d+, columns from"),
        ):
            f.ntk[key]

    @pytest.mark.parametrize("key", [True, np.False_, np.s_[..., False], np.s_[-1, False]])
    def test_keys_that_numpy_and_hdf5_read_differently_are_refused(self, partial, key):
        with (
            nk.open_gram(partial, incomplete=True) as f,
            pytest.raises(TypeError, match="a number, a slice, a list of numbers or a mask"),
        ):
            f.ntk[key]

    def test_as_an_array(self, partial):
        with nk.open_gram(partial, incomplete=True) as f:
            assert len(f.ntk) == f.shape[0]
            with pytest.raises(ValueError, match="is not done yet"):
                np.asarray(f.ntk)

    def test_the_file_that_was_opened_stays_open(self, partial, points, tmp_path):
        """Meanwhile the job completes the file, and another one begins under the same name."""
        layers = "all" if h5py_layers(partial) else "last"
        with nk.open_gram(partial, incomplete=True) as f:
            nk.write_gram(NET, points, tmp_path / "g.h5", layers=layers).close()
            assert f.done.sum() == 6 and (f.ntk[:] == nk.gram(NET, points, layers=layers).ntk).all()
            partial.write_bytes(b"another")
            assert f.done.sum() == 6 and f.ntk[..., 100, 100].size


def h5py_layers(partial):
    with nk.open_gram(partial, incomplete=True) as f:
        return f.contents.all_layers


def test_a_dataset_keeps_its_file_open(written, points):
    assert (nk.open_gram(written).ntk[:] == nk.gram(NET, points).ntk).all()


READ = """
import sys
from ntk_numba.gramfile.reader import open_gram

with open_gram(sys.argv[1]) as f:
    assert f.ntk[3, 5] == f.ntk[5, 3] and f.contents.depth == 3 and f.complete
    assert f.verify()
assert not {"numba", "scipy", "ntk_numba.network"} & set(sys.modules)
with open_gram(sys.argv[1]) as f:
    assert f.net.depth == 3
"""


def test_reading_needs_no_compiler(tmp_path, points):
    nk.write_gram(nk.MLP(3), points, tmp_path / "g.h5").close()
    subprocess.run([sys.executable, "-c", READ, tmp_path / "g.h5"], check=True)
