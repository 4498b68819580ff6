"""The file of a Cholesky factor, written by a few lines of NumPy."""

import contextlib

import h5py
import numpy as np
import plain_factor
import pytest
from marks import marked
from plain_factor import TILE, contents_of, matrix, tiles_of

import ntk_numba as nk
from ntk_numba.arguments import Policy
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import FACTOR, FactorContents
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.gramfile.formats import FACTOR_FILE
from ntk_numba.gramfile.layout import INCOMPLETE
from ntk_numba.gramfile.repairing import repairing
from ntk_numba.gramfile.stored import Report, existing
from ntk_numba.gramfile.writer import TileWriter


@pytest.fixture(scope="module")
def a():
    return matrix()


@pytest.fixture(scope="module")
def written(a, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "l.h5"
    plain_factor.write(path, a, 0.5)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, written):
    path = tmp_path / "l.h5"
    path.write_bytes(written)
    return path


SEAL = 6878586729831100988  # of the header of `path`, with other texts


def put(path, i, j, change):
    """Change a tile of a complete file, and give it the right checksum."""
    with open_factor(path) as f, f.tiles(write=True) as tiles:
        block = np.zeros((TILE, TILE))
        place = (FACTOR, 0, i, j)
        assert not tiles.fetch(place, block, int(tiles.checksums()[FACTOR][0, i, j]))
        change(block)
        tiles.write(FACTOR, 0, i, j, block)
        tiles.commit()


def test_a_factor_is_read_by_other_programs(path, a):
    right = np.linalg.cholesky(a + 0.5 * np.eye(150))
    with h5py.File(path) as file:
        assert file.attrs["format"] == "ntk_numba factor" and file.attrs["format_version"] == 1
        assert file.attrs["ridge"] == 0.5 and file.attrs["layout"] == "lower"
        assert file.attrs["complete"] and set(FACTOR_FILE.attributes) < set(file.attrs)
        whole = np.zeros((192, 192))
        for (i, j), tile in zip(file["tiles"][:], file["factor"][:], strict=True):
            whole[i * TILE : (i + 1) * TILE, j * TILE : (j + 1) * TILE] = tile
    assert np.array_equal(whole[:150, :150], right)


def test_the_format_stays(path):
    # a change needs a new format version: files have these attributes, in this order
    assert list(FACTOR_FILE.attributes) == [
        "format", "format_version", "package_version", "numerics", "rows", "tile", "layout",
        "matrix", "kernel", "ridge", "exponent", "complete",
    ]  # fmt: skip
    with h5py.File(path) as file:
        assert sorted(file) == ["checksums", "factor", "tiles"]
        values = {key: file.attrs[key] for key in FACTOR_FILE.attributes}
        assert file.attrs["seal"] == FACTOR_FILE.seal(values)
        values |= {"package_version": "1.0", "matrix": "0" * 32}
        assert FACTOR_FILE.seal(values) == SEAL


def test_a_factor_is_what_was_written(path, a):
    with open_factor(path) as f:
        assert f.contents == contents_of(a, 0.5) and f.numerics == 1
        assert f.complete and f.done.sum() == 6 and f.shape == (150, 150)
        assert f.dtype == float and f.verify() and len(f.verify().checks) == 3
        with f.tiles() as tiles:
            for (i, j), right in tiles_of(a, 0.5).items():
                block = np.empty((TILE, TILE))
                value = int(tiles.checksums()[FACTOR][0, i, j])
                assert tiles.fetch((FACTOR, 0, i, j), block, value) == ""
                assert np.array_equal(block, right)
        assert repr(f) == f"<FactorFile {path}: 150 × 150, float64, ridge 0.5>"
        assert f.contents.output_bytes == 6 * TILE * TILE * 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 63, 64, 65])
def test_small_factors(tmp_path, size, dtype):
    contents = FactorContents.of(size, TILE, np.dtype(dtype), matrix="ab" * 16, kernel="nngp")
    edge = min(size, TILE)
    with TileWriter(tmp_path / "l.h5", contents, 7) as writer:
        for i, j in np.argwhere(contents.storage.mask):
            writer.tiles.write(FACTOR, 0, i, j, np.eye(edge, dtype=dtype))
    with open_factor(tmp_path / "l.h5") as f:
        assert f.contents == contents and f.contents.kernel == "nngp" and f.verify()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ridge": 0.25}, "ridge is 0.5, not 0.25"),
        ({"matrix": "12" * 16}, "the matrix is another one .*, not 12121212"),
        ({"dtype": np.dtype("float32")}, "dtype is float64, not float32"),
        ({"exponent": 3}, "exponent is 0, not 3"),
        ({"tile": 128}, "tile is 64, not 128"),
    ],
)
def test_another_factor_on_the_same_output(tmp_path, a, path, change, text):
    c = contents_of(a, 0.5)
    other = FactorContents.of(
        **{"size": 150, "tile": TILE, "dtype": c.dtype, "matrix": c.matrix, "ridge": 0.5} | change
    )
    with pytest.raises(ValueError, match=f"exists with other contents: {text}") as error:
        existing(path, other, open_factor)
    assert "Choose another output, or overwrite it" in str(error.value)
    path.rename(tmp_path / "l.h5.partial")
    with pytest.raises(ValueError, match=f"is the beginning of another job: {text}"):
        TileWriter(path, other, 1)
    with contextlib.suppress(KeyboardInterrupt), TileWriter(path, other, 1, Policy(True)) as writer:
        assert not writer.done.any()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_other_arithmetic_does_not_continue_a_factor(path, a):
    path.rename(path.with_name("l.h5.partial"))
    with pytest.raises(ValueError, match=r"numerical version is 1 \(ntk_numba .*\), not 2"):
        TileWriter(path, contents_of(a, 0.5), 2)


def test_a_factor_is_continued(tmp_path, path, a):
    right = path.read_bytes()
    path.unlink()
    written = []

    class Killed(BaseException):
        pass

    def write(self, *arguments, original=TileWriter.check):
        written.append(1)
        if len(written) == 4:
            raise Killed
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TileWriter, "check", write)
        with pytest.raises(Killed):
            plain_factor.write(path, a, 0.5)
        (partial,) = tmp_path.iterdir()
        assert partial.read_bytes().startswith(INCOMPLETE)
        with pytest.raises(ValueError, match="is incomplete"):
            open_factor(partial)
        with open_factor(partial, incomplete=True) as f:
            assert "incomplete: 3 of 6 tiles are done" in f.verify().problems
            assert not f.verify().bad and "incomplete" in repr(f)
        with pytest.raises(FileNotFoundError, match=r"l\.h5\.partial does: run its command again"):
            open_factor(path)
        plain_factor.write(path, a, 0.5)
    assert len(written) == 7 and path.read_bytes() == right


def test_a_useless_beginning_is_removed(tmp_path, a):
    with (
        contextlib.suppress(ZeroDivisionError),
        TileWriter(tmp_path / "l.h5", contents_of(a), 1) as w,
    ):
        w.tiles.write(FACTOR, 0, 0, 0, np.eye(TILE))
        w.tiles.commit()
        w.discard()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_formats_are_named(tmp_path, path):
    x = np.eye(5)
    nk.write_gram(nk.MLP(2), x, tmp_path / "g.h5").close()
    nk.kernel_ridge(nk.MLP(2), x, x[0]).save(tmp_path / "m.h5")
    with pytest.raises(ValueError, match=r"it is a Cholesky factor: open it with .*open_cholesky"):
        nk.open_gram(path)
    with pytest.raises(
        ValueError, match=r"not one that ntk-numba cholesky wrote .it is a Gram fil"
    ):
        open_factor(tmp_path / "g.h5")
    with pytest.raises(ValueError, match=r"it is a model: open it with ntk_numba.load_model"):
        open_factor(tmp_path / "m.h5")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_factor(tmp_path / "none.h5")
    with pytest.raises(IsADirectoryError, match="is a folder; name a Cholesky factor"):
        open_factor(tmp_path)
    # the beginning of one is not continued as the other
    (tmp_path / "g.h5").rename(tmp_path / "f.h5.partial")
    with pytest.raises(ValueError, match=r"it is a Gram file.*Choose another output, delete it"):
        plain_factor.write(tmp_path / "f.h5", matrix())
    plain_factor.write(tmp_path / "f.h5", matrix(), overwrite=True)
    path.rename(tmp_path / "g.h5.partial")
    with pytest.raises(ValueError, match=r"it is a Cholesky factor.*Choose another output"):
        nk.write_gram(nk.MLP(2), x, tmp_path / "g.h5")


def test_a_newer_format_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 9
    with pytest.raises(ValueError, match="format version 9; this package reads 1; install a newer"):
        open_factor(path)


@pytest.mark.parametrize(
    ("i", "j", "row", "column", "value", "text"),
    [
        (1, 0, 3, 5, np.nan, "is not finite: row 67, column 5, 1 in all"),
        (1, 1, 3, 3, np.inf, "is not finite: row 67, column 67"),
        (1, 1, 2, 3, 1e-300, "is above the diagonal and not zero: row 66, column 67"),
        (2, 2, 2, 2, 0.0, "is on the diagonal and not positive: row 130, column 130"),
        (0, 0, 5, 5, -1.0, "is on the diagonal and not positive: row 5, column 5"),
    ],
)
def test_entries_that_no_factor_has(path, i, j, row, column, value, text):
    put(path, i, j, lambda block: block.__setitem__((row, column), value))
    with open_factor(path) as f:
        report = f.verify()
        assert report.problems[0].startswith(f"factor: tile ({i}, {j}) has an entry that {text}")
        assert not report and report.bad == [(FACTOR, 0, i, j)]


def test_damage_is_found_and_repaired(path, a):
    right = path.read_bytes()
    with open_factor(path) as f:
        at = f.tile_map.tile_at(FACTOR, 0, 2, 1)
    path.write_bytes(right[: at + 100] + b"!" + right[at + 101 :])
    with open_factor(path) as f, f.tiles() as tiles:
        assert f.verify().problems == ["factor: tile (2, 1) does not match its checksum"]
        value = int(tiles.checksums()[FACTOR][0, 2, 1])
        why = tiles.fetch((FACTOR, 0, 2, 1), np.empty((TILE, TILE)), value)
        assert why == "does not match its checksum"
    report = Report()
    with repairing(path, open_factor) as repair:
        bad = repair.file.verify().bad
        with repair.writing(bad, report) as (tiles, done, check):
            assert np.argwhere(~done).tolist() == [[2, 1]]
            check()
            tiles.write(FACTOR, 0, 2, 1, tiles_of(a, 0.5)[2, 1])
    assert report and report.checks == ["1 tiles computed again"]
    assert path.read_bytes() == right


HUGE = 2**60


@pytest.mark.parametrize(
    ("name", "value", "text"),
    marked(
        pytest.mark.slow,
        [
            ("rows", HUGE, "its attribute rows is .*, not from 1 to"),
            ("rows", 0, "its attribute rows is 0, not from 1"),
            ("rows", 1 << 20, "not float64 of shape"),
            ("rows", 1 << 30, "a file holds at most .* tiles"),
            ("rows", "150", "its attribute rows is not a whole number"),
            ("tile", 8192, "its attribute tile is 8192, not from 1 to 4096"),
            ("tile", 32, "not float64 of shape"),
            ("layout", "full", "its layout is full, not lower"),
            ("matrix", "no digest", "its attribute matrix is no digest"),
            ("matrix", "", "its attribute matrix is no digest"),
            ("matrix", "ab" * 5000, "its attribute matrix is longer than 200 bytes"),
            ("kernel", "\x1b]0;", "its attribute kernel has characters"),
            ("kernel", "other", "its attribute kernel names no kernel"),
            ("ridge", np.nan, "its ridge is nan"),
            ("ridge", -1.0, "its ridge is -1.0"),
            ("ridge", 1, "its attribute ridge is not a number"),
            ("ridge", np.zeros(1 << 20), "."),
            ("exponent", HUGE, "its attribute exponent is .*, not from -1100 to 1100"),
            ("numerics", -1, "its attribute numerics is -1"),
            ("ridge", None, "its attribute ridge is missing"),
            ("seal", np.uint64(3), "its attributes have changed"),
        ],
    ),
)
def test_claims_of_a_header(path, name, value, text):
    with h5py.File(path, "r+") as file:
        file.attrs.pop(name)
        if value is not None:
            with contextlib.suppress(OSError):  # HDF5 has no room for a large attribute
                file.attrs[name] = value
        if name != "seal":
            with contextlib.suppress(KeyError):
                file.attrs["seal"] = FACTOR_FILE.seal(file.attrs)
    with pytest.raises(ValueError, match=text) as error:
        open_factor(path)
    assert str(path) in str(error.value)


def test_a_full_disk(tmp_path, a, monkeypatch):
    def full(fd, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "allocate", full)
    with pytest.raises(
        OSError, match=r"takes .* free some, write elsewhere or factorise a float32"
    ):
        plain_factor.write(tmp_path / "l.h5", a)
    assert list(tmp_path.iterdir()) == []
