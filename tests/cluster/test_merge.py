import errno
import itertools
import re
import shutil

import numpy as np
import pytest
from marks import marked
from parts import NET, Stop, parts_of, stop_after

import ntk_numba as nk
from ntk_numba.cluster import merge as merging
from ntk_numba.cluster import write
from ntk_numba.cluster.cover import part_path, show_indices
from ntk_numba.engine.kernel import NUMERICS, Kernel
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.layout import INCOMPLETE
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.grid import Part


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((700, 20))


@pytest.fixture(scope="module")
def made(x, tmp_path_factory):
    return parts_of(x, tmp_path_factory.mktemp("made"))


@pytest.fixture
def parts(made, tmp_path):
    return [shutil.copy(path, tmp_path / path.name) for path in made]


@pytest.fixture(scope="module")
def right(x, tmp_path_factory):
    """The bytes that a single job writes."""
    path = tmp_path_factory.mktemp("right") / "g.h5"
    nk.write_gram(NET, x, path).close()
    return path.read_bytes()


WHOLE = list(
    itertools.product(["last", "all"], ["float64", "float32"], [False, True], [7, "tiles"])
)
SOME = [
    ("all", "float32", False, "tiles"),
    ("last", "float64", False, 7),
    ("all", "float64", True, 7),
]


@pytest.mark.parametrize(("layers", "dtype", "cross", "of"), marked(pytest.mark.slow, WHOLE, SOME))
def test_parts_are_the_whole_bit_for_bit(tmp_path, points, layers, dtype, cross, of):
    z = points[:100] if cross else None
    options = {"layers": layers, "dtype": dtype, "kernels": ("nngp", "ntk")}
    with nk.write_gram(NET, points, tmp_path / "one.h5", Z=z, **options) as f:
        of = min(f.contents.grid.count, 99 if of == "tiles" else of)
    paths = parts_of(points, tmp_path, of, z, **options)
    rng = np.random.default_rng(0)
    with nk.merge(list(rng.permutation(paths)), tmp_path / "g.h5") as f:
        assert f.verify()
    assert (tmp_path / "g.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    if not cross:
        nk.write_gram(NET, points, tmp_path / "low.h5", layout="lower", **options).close()
        nk.merge(paths, tmp_path / "lower.h5", layout="lower").close()
        assert (tmp_path / "lower.h5").read_bytes() == (tmp_path / "low.h5").read_bytes()


@pytest.mark.parametrize("of", [1, 2])
def test_few_parts(tmp_path, x, right, of):
    nk.merge(parts_of(x, tmp_path, of), tmp_path / "g.h5").close()
    assert (tmp_path / "g.h5").read_bytes() == right


def test_names():
    names = [part_path(merging.Path("a/g.h5"), Part(n, 16)).name for n in (3, 16)]
    assert names == ["g.part-03-of-16.h5", "g.part-16-of-16.h5"]
    assert show_indices([17, 3, 4, 5, 9, 3]) == "3-5,9,17"


def test_a_part_reads_only_the_rows_it_needs(x, tmp_path, monkeypatch):
    loaded = []
    samples = Kernel.samples

    def watched(self, source, start, stop, **options):
        if stop - start > 1:
            loaded.append((start, stop))
        return samples(self, source, start, stop, **options)

    monkeypatch.setattr(Kernel, "samples", watched)
    with nk.write_gram(NET, x, tmp_path / "g.h5", part=(2, 15)) as f:
        mask = f.contents.grid.mask(f.contents.part)
    needed = {64 * k for k in (*np.flatnonzero(mask.any(0)), *np.flatnonzero(mask.any(1)))}
    read = {row for start, stop in loaded for row in range(start, stop)}
    assert {64 * (row // 64) for row in read} <= needed | {0} and len(read) < 0.7 * len(x)


@pytest.mark.parametrize("memory", ["36MiB", "64MiB"])
def test_memory_and_threads_change_no_part(x, tmp_path, parts, memory):
    (tmp_path / "again").mkdir()
    again = parts_of(x, tmp_path / "again", memory=memory, threads=1)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in parts]


class TestCover:
    """Parts that cannot be merged are named, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing(self, tmp_path, parts):
        yield
        assert not list(tmp_path.glob("m.h5*"))

    def refuse(self, paths, text, tmp_path):
        with pytest.raises(ValueError, match=text) as e:
            nk.merge(paths, tmp_path / "m.h5")
        return str(e.value)

    def test_missing(self, parts, tmp_path):
        text = r"m.h5 cannot be merged: of 5 parts 2,5 are missing. Compute .* --array=2,5, and"
        self.refuse([parts[0], *parts[2:4]], text, tmp_path)
        parts[1].unlink()
        self.refuse(parts, "of 5 parts 2 are missing. Compute .* --array=2, and merge", tmp_path)

    def test_none(self, tmp_path):
        text = "none of the parts exists. Compute .* --array=1-5, and merge again"
        self.refuse([tmp_path / "g.part-*-of-5.h5"], text, tmp_path)
        self.refuse([], "none of the parts exists", tmp_path)
        many = tmp_path / "g.part-1-of-999999999999.h5"  # its parts are not enumerated
        self.refuse([many], "none of the parts exists. Give the parts", tmp_path)

    def test_unfinished(self, parts, tmp_path):
        partial = parts[1].with_name(parts[1].name + ".partial")
        data = parts[1].read_bytes()
        parts[1].rename(partial).write_bytes(INCOMPLETE + data[8:])
        self.refuse(parts, "of 5 parts 2 are unfinished. Compute .* --array=2,", tmp_path)
        text = rf"{partial} is unfinished; of 5 parts 2 are unfinished"
        self.refuse([*parts[2:], partial, parts[0]], text, tmp_path)

    def test_twice(self, parts, tmp_path):
        again = tmp_path / "again.h5"
        shutil.copy(parts[2], again)
        text = rf"part 3/5 is given twice: {parts[2]} and {again}. Give the parts of one job, each"
        self.refuse([*parts, again], text, tmp_path)

    def test_foreign(self, x, parts, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        with nk.write_gram(nk.MLP(4), x, other / "g.h5", part=(2, 5)) as f:
            text = rf"{f.path} is of another job: depth is 4, not 3; .*; of 5 parts 2 are missing."
            self.refuse([parts[0], f.path, *parts[2:]], text + ".* --array=2,", tmp_path)
        with nk.write_gram(NET, x, other / "g.h5", part=(2, 6)) as f:
            self.refuse([*parts, f.path], r"another job: part is 2/6, not \d/5", tmp_path)
        with nk.write_gram(NET, x[:500], other / "h.h5", part=(2, 5)) as f:
            text = r"h.part-2-of-5.h5 is of another job: .*the data has another shape"
            self.refuse([parts[0], f.path, *parts[2:]], text, tmp_path)

    @pytest.mark.parametrize("row", [0, 690])
    def test_of_data_that_has_changed_since(self, x, parts, tmp_path, row):
        """Even a part that did not read the changed rows depends on some, by its centre."""
        other = tmp_path / "other"
        other.mkdir()
        changed = x.copy()
        changed[row:] *= 2
        with nk.write_gram(NET, changed, other / "g.h5", part=(1, 5)) as f:
            text = (
                rf"{f.path} was made of other data: .*of X are not those of the other .* --array=1,"
            )
            said = self.refuse([f.path, *parts[1:]], text, tmp_path)
            # otherwise the same command would refuse to replace it
            assert "Delete the files of those parts that are damaged, of another job or" in said

    def test_of_another_version(self, x, parts, tmp_path, monkeypatch):
        parts[3].unlink()
        monkeypatch.setattr(write, "NUMERICS", 99)
        nk.write_gram(NET, x, tmp_path / "g.h5", part=(4, 5)).close()
        text = (
            rf"another job: numerical version is 99, not {NUMERICS}; of 5 parts 4 are .*--array=4,"
        )
        self.refuse(parts, text, tmp_path)

    def test_files_that_are_no_parts(self, x, parts, tmp_path):
        text = tmp_path / "text.h5"
        text.write_text("hello")
        self.refuse([*parts, text], "text.h5 is no valid HDF5 file", tmp_path)
        self.refuse([*parts, tmp_path], "is a folder; name a Gram file", tmp_path)
        nk.write_gram(NET, x, tmp_path / "whole.h5").close()
        self.refuse([*parts, tmp_path / "whole.h5"], "whole.h5 is no part of a job", tmp_path)
        many = [tmp_path / f"{n}.h5" for n in range(30)]
        for path in many:
            path.write_text("hello")
        assert "and 20 more" in self.refuse([*parts, *many], "0.h5 is no valid", tmp_path)

    def test_bad_values_are_refused(self, parts, tmp_path):
        with pytest.raises(ValueError, match="layout must be 'full' or 'lower', not 'upper'"):
            nk.merge(parts, tmp_path / "m.h5", layout="upper")
        with pytest.raises(ValueError, match="link and delete_parts exclude each other"):
            nk.merge(parts, tmp_path / "m.h5", link=True, delete_parts=True)
        with pytest.raises(TypeError, match=r"parts must be a list of files, not one: 'g.h5'"):
            nk.merge("g.h5", tmp_path / "m.h5")
        for folder in (tmp_path, "..", ".", "/"):
            with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
                nk.merge(parts, folder)


def test_two_data_sets_have_no_triangle(x, tmp_path):
    paths = parts_of(x, tmp_path, 3, x[:200])
    for options in ({"layout": "lower"}, {"link": True}):
        with pytest.raises(ValueError, match="has no triangle: layout must be 'full'"):
            nk.merge(paths, tmp_path / "g.h5", **options)


def test_a_complete_merge_is_left_alone(parts, tmp_path, right):
    nk.merge(parts, tmp_path / "g.h5").close()
    before = (tmp_path / "g.h5").stat()
    nk.merge(parts, tmp_path / "g.h5").close()
    assert (tmp_path / "g.h5").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(ValueError, match="exists with other contents: layout is full, not lower"):
        nk.merge(parts, tmp_path / "g.h5", layout="lower")
    nk.merge(parts, tmp_path / "g.h5", layout="lower", overwrite=True).close()
    nk.merge(parts, tmp_path / "g.h5", overwrite=True).close()
    assert (tmp_path / "g.h5").read_bytes() == right


def test_a_damaged_tile_is_not_merged(x, parts, tmp_path, right):
    with nk.open_gram(parts[2]) as f:
        i, j = (int(k) for k in np.argwhere(f.contents.grid.mask(f.contents.part))[3])
        at = f.tile_map.tile_at("ntk", 0, i, j)
    data = bytearray(parts[2].read_bytes())
    data[at + 1000] ^= 4
    parts[2].write_bytes(data)
    text = (
        rf"{parts[2]}: tile \({i}, {j}\) does not match its checksum; delete that file, compute it "
        rf"again .* --array=3, and merge again"
    )
    with pytest.raises(ValueError, match=text) as e:
        nk.merge(parts, tmp_path / "g.h5")
    assert re.match(r"\d+ of 66 tiles are done, in .*partial; run the same", e.value.__notes__[0])
    with nk.open_gram(tmp_path / "g.h5.partial", incomplete=True) as f:
        assert f.done.sum() >= f.contents.grid.size(Part(1, 5))
    parts[2].unlink()
    parts_of(x, tmp_path)
    nk.merge(parts, tmp_path / "g.h5").close()
    assert (tmp_path / "g.h5").read_bytes() == right


@pytest.mark.parametrize("count", [0, 5, 14, 40, 65])
@pytest.mark.parametrize("delete", [False, True])
def test_a_stopped_merge_is_resumed(parts, tmp_path, right, monkeypatch, count, delete):
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Stop):
            nk.merge(parts, tmp_path / "g.h5", delete_parts=delete)
    left = [p for p in parts if p.exists()]
    deleted = {0: 0, 5: 0, 14: 1, 40: 3, 65: 4}[count]
    assert len(left) == (5 - deleted if delete else 5)
    text = "beginning of another job: layout is full, not lower"
    with pytest.raises(ValueError, match=text):
        nk.merge(left, tmp_path / "g.h5", layout="lower")
    copied = []
    write = TileFile.write
    monkeypatch.setattr(TileFile, "write", lambda *a: (copied.append(a), write(*a)))
    nk.merge(left, tmp_path / "g.h5", delete_parts=delete).close()
    assert len(copied) == 65 - count
    assert (tmp_path / "g.h5").read_bytes() == right
    assert sorted(p for p in parts if p.exists()) == ([] if delete else parts)


def test_deleting_takes_no_second_copy(parts, tmp_path, monkeypatch):
    """Merging to the layout of the parts never takes more space than one part in addition."""
    most = []
    remove = disk.remove

    def used(path):
        most.append(sum(p.stat().st_blocks for p in tmp_path.iterdir() if p.is_file()) * 512)
        remove(path)

    monkeypatch.setattr(disk, "remove", used)
    before = sum(p.stat().st_size for p in parts)
    nk.merge(parts, tmp_path / "g.h5", layout="lower", delete_parts=True).close()
    assert len(most) >= 5 and max(most) < 1.25 * before
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_deleting_again_what_was_not_deleted(parts, tmp_path, right):
    """A kill between the last two steps leaves such files."""
    nk.merge(parts, tmp_path / "g.h5").close()
    for path in parts[:3]:
        path.unlink()
    nk.merge(parts, tmp_path / "g.h5", delete_parts=True).close()
    assert not any(p.exists() for p in parts)
    nk.merge(parts, tmp_path / "g.h5", delete_parts=True).close()
    assert (tmp_path / "g.h5").read_bytes() == right


@pytest.fixture
def begun(parts, tmp_path, monkeypatch):
    """A merge that was stopped after it had deleted the first three parts."""
    with monkeypatch.context() as patch:
        stop_after(patch, 40)
        with pytest.raises(Stop):
            nk.merge(parts, tmp_path / "g.h5", delete_parts=True)
    return [p for p in parts if p.exists()]


@pytest.mark.parametrize("options", [{"link": True}, {"layout": "lower"}])
def test_the_only_copy_of_deleted_parts_is_kept(begun, tmp_path, right, options):
    with pytest.raises(ValueError, match="of 5 parts 1-3 are missing"):
        nk.merge(begun, tmp_path / "g.h5", overwrite=True, **options)
    with pytest.raises(ValueError, match="is the beginning of a"):
        nk.merge(begun, tmp_path / "g.h5", **options)
    nk.merge(begun, tmp_path / "g.h5", delete_parts=True).close()
    assert (tmp_path / "g.h5").read_bytes() == right


def test_damage_of_what_is_merged_is_named_when_its_part_is_gone(x, begun, tmp_path, right):
    partial = tmp_path / "g.h5.partial"
    with nk.open_gram(partial, incomplete=True) as f:
        at = f.tile_map.tile_at("ntk", 0, 0, 0)
    data = bytearray(partial.read_bytes())
    data[at] ^= 1
    partial.write_bytes(data)
    with pytest.raises(ValueError, match=r"deleted since are damaged; .* --array=1, and merge"):
        nk.merge(begun, tmp_path / "g.h5", delete_parts=True)
    with pytest.raises(ValueError, match=r"of 5 parts 1 are missing"):
        nk.merge(begun, tmp_path / "g.h5", delete_parts=True)
    with nk.write_gram(NET, x, tmp_path / "g.h5", part=(1, 5)) as f:
        nk.merge([f.path, *begun], tmp_path / "g.h5", delete_parts=True).close()
    assert (tmp_path / "g.h5").read_bytes() == right


@pytest.mark.parametrize("changed", ["x", "z", "net"])
def test_a_merge_of_other_data_is_not_resumed(x, tmp_path, monkeypatch, changed):
    paths = parts_of(x, tmp_path, 4, z := x[:200] + 1)
    with monkeypatch.context() as patch:
        stop_after(patch, 30)
        with pytest.raises(Stop):
            nk.merge(paths, tmp_path / "g.h5", delete_parts=True)
    left = [p for p in paths if p.exists()]
    assert 0 < len(left) < 4
    for number, path in enumerate(paths, 1):
        if path in left:
            path.unlink()
            net = nk.MLP(3, "relu", b_std=0.2) if changed == "net" else NET
            data = [d + 0.5 if name == changed else d for name, d in (("x", x), ("z", z))]
            nk.write_gram(net, data[0], tmp_path / "g.h5", Z=data[1], part=(number, 4)).close()
    with pytest.raises(ValueError, match=r"of 4 parts .* missing"):
        nk.merge(paths, tmp_path / "g.h5")


def test_parts_of_a_newer_version_are_not_deleted_for_an_older_file(x, tmp_path, monkeypatch):
    nk.write_gram(NET, x, tmp_path / "old.h5").close()
    monkeypatch.setattr(write, "NUMERICS", 99)
    paths = parts_of(x, tmp_path, 2)
    (tmp_path / "old.h5").rename(tmp_path / "g.h5")
    text = rf"g.h5 is of numerical version {NUMERICS}, the parts of 99\. Ch"
    with pytest.raises(ValueError, match=text):
        nk.merge(paths, tmp_path / "g.h5", delete_parts=True)
    assert all(p.exists() for p in paths)


def test_a_part_that_was_replaced_meanwhile(x, parts, tmp_path, monkeypatch):
    """A merge may take hours, so that its last part may be of another job by then."""
    (tmp_path / "other").mkdir()
    nk.write_gram(nk.MLP(2), x, tmp_path / "other" / "g.h5", part=(5, 5)).close()
    copy = merging._copy

    def replaced(path, *arguments):
        if path == parts[4]:
            shutil.copy(tmp_path / "other" / path.name, path)
        return copy(path, *arguments)

    monkeypatch.setattr(merging, "_copy", replaced)
    with pytest.raises(nk.StoppedError, match=r"part-5-of-5.h5 has been replaced by a file of ano"):
        nk.merge(parts, tmp_path / "g.h5")


class TestBeginningOfAnother:
    """An existing output replaces only parts of its own job."""

    @staticmethod
    def begin(path):
        """Turn a file into one whose writer was killed just before the last step."""
        path.rename(path.with_name(path.name + ".partial"))

    def test_it_does_not_stand_for_parts(self, x, parts, tmp_path):
        path = tmp_path / "g.h5"
        nk.write_gram(nk.MLP(5), x, path).close()
        self.begin(path)
        with pytest.raises(ValueError, match="of 5 parts 4-5 are missing"):
            nk.merge(parts[:3], path, overwrite=True, delete_parts=True)
        assert all(part.exists() for part in parts)

    def test_its_data_is_not_that_of_the_parts(self, x, tmp_path):
        path = tmp_path / "g.h5"
        nk.write_gram(NET, x, path).close()
        self.begin(path)
        paths = parts_of(x, tmp_path, 2, x[:100], overwrite=True)
        with nk.merge(paths, path, overwrite=True, delete_parts=True) as f:
            assert f.contents.z and f.contents.z.shape == (100, 20)


def test_a_part_that_cannot_be_deleted_is_named(parts, tmp_path, right, monkeypatch):
    remove = disk.remove

    def refused(path):
        if path == parts[1]:
            raise PermissionError(errno.EROFS, "Read-only file system")
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "remove", refused)
        text = rf"^{parts[1]} is merged, but cannot be deleted: Read-only .*; \d+ of 66 tiles are"
        with pytest.raises(nk.StoppedError, match=text):
            nk.merge(parts, tmp_path / "g.h5", delete_parts=True)
    nk.merge(parts, tmp_path / "g.h5", delete_parts=True).close()
    assert (tmp_path / "g.h5").read_bytes() == right


def test_parts_by_symbolic_links_are_deleted_themselves(parts, tmp_path, right):
    links = []
    for part in parts:
        links.append(tmp_path / f"link-{part.name}")
        links[-1].symlink_to(part)
    nk.merge(links, tmp_path / "g.h5", delete_parts=True).close()
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]
    assert (tmp_path / "g.h5").read_bytes() == right


class TestDamagedTarget:
    """A complete output whose tiles are damaged does not stand for parts."""

    @pytest.fixture
    def target(self, parts, tmp_path):
        path = tmp_path / "g.h5"
        with nk.merge(parts, path) as f:
            at = f.tile_map.tile_at("ntk", 0, 3, 1)
        data = bytearray(path.read_bytes())
        data[at + 80] ^= 1
        path.write_bytes(data)
        return path

    def test_no_part_is_deleted(self, parts, target, right):
        text = r"g.h5 is complete but damaged \(ntk: tile \(3, 1\) does not match .*; merge again"
        with pytest.raises(OSError, match=text):
            nk.merge(parts, target, delete_parts=True)
        assert all(part.exists() for part in parts)
        nk.merge(parts, target, delete_parts=True, overwrite=True).close()
        assert target.read_bytes() == right and not any(part.exists() for part in parts)

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_no_part_is_deleted_if_others_are_gone(self, x, parts, target, right, overwrite):
        parts[0].unlink()
        options = {"delete_parts": True, "overwrite": overwrite}
        with pytest.raises(OSError, match="so no part is deleted; repair it with its data"):
            nk.merge(parts, target, **options)
        assert all(part.exists() for part in parts[1:])
        assert nk.repair(target, x)
        nk.merge(parts, target, **options).close()
        assert target.read_bytes() == right and not any(part.exists() for part in parts)


def test_a_complete_output_of_another_job_does_not_stand_for_parts(x, parts, tmp_path):
    nk.write_gram(nk.MLP(5), x, tmp_path / "g.h5").close()
    with pytest.raises(ValueError, match="of 5 parts 1-2 are missing"):
        nk.merge(parts[2:], tmp_path / "g.h5", overwrite=True, delete_parts=True)
    assert all(part.exists() for part in parts)


def test_lock_files_among_the_parts_are_no_parts(parts, tmp_path, right):
    lock = parts[1].with_name(f"{parts[1].name}.partial.lock")
    lock.touch()
    nk.merge([*parts, lock], tmp_path / "g.h5").close()
    assert (tmp_path / "g.h5").read_bytes() == right and not lock.exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_part_that_is_repaired_meanwhile_is_refused(parts, tmp_path, right, link):
    target = tmp_path / "g.h5"
    with Lease(parts[1]), pytest.raises(BlockingIOError, match="wait until it is written, repair"):
        nk.merge(parts, target, link=link)
    assert not target.exists()
    nk.merge(parts, target).close()
    assert target.read_bytes() == right
    assert {p.name for p in tmp_path.iterdir()} == {"g.h5", *(p.name for p in parts)}
