"""What writers do when others come between: they are suspended, replaced, or meet links."""

import json
import os
import stat

import h5py
import numpy as np
import pytest
from parts import NET, parts_of

import ntk_numba as nk
from ntk_numba.compute import plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.errors import AccessError, TakenOverError
from ntk_numba.gramfile import disk, layout, lease, place
from ntk_numba.gramfile import writer as store
from ntk_numba.gramfile.holder import Holder
from ntk_numba.gramfile.tiles import TileFile

OTHER = json.dumps(Holder.me()._replace(host="elsewhere", boot="other-boot"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "g.h5"


@pytest.fixture
def right(points, tmp_path_factory):
    """The bytes of an undisturbed run."""
    path = tmp_path_factory.mktemp("right") / "g.h5"
    nk.write_gram(NET, points, path).close()
    return path.read_bytes()


def left(path):
    return sorted(p.name for p in path.parent.iterdir())


def at_call(monkeypatch, name, number, act):
    """Call `act` just before the `number`-th call of a function of `disk`."""
    calls = []
    original = getattr(disk, name)

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            act()
        return original(*arguments)

    monkeypatch.setattr(disk, name, call)
    return calls


def replace(path, signature=None):
    """Take over a file, as a process of another machine does that shares no locks."""
    lock = lease.lock_of(path)
    lock.with_name("new").write_text(OTHER)
    lock.with_name("new").replace(lock)
    if signature:
        with place.partial_of(path).open("r+b") as file:
            file.write(signature)


def give_up(path):
    """Let the other process end."""
    lease.lock_of(path).unlink()


def finish(path, points, right, **options):
    nk.write_gram(NET, points, path, **options).close()
    assert path.read_bytes() == right and left(path) == [path.name]


class TestSuspended:
    """A writer is suspended somewhere in its last steps, and replaced."""

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_it_does_not_rename_the_file(self, points, path, right, monkeypatch, when):
        """It is replaced just before or after it writes the first bytes of a complete file."""
        begin_with = TileFile.begin_with

        def suspended(self, signature):
            if when == "before":
                replace(path, layout.INCOMPLETE)
            begin_with(self, signature)
            if when == "after":
                replace(path, layout.INCOMPLETE)

        with monkeypatch.context() as patch:
            patch.setattr(TileFile, "begin_with", suspended)
            with pytest.raises(TakenOverError, match="was taken over by process"):
                nk.write_gram(NET, points, path)
        assert not path.exists()
        give_up(path)
        finish(path, points, right)

    def test_a_complete_file_is_left_as_it_is_by_the_next_writer(self, points, path, right):
        partial = place.partial_of(path)
        partial.write_bytes(right)
        with store.TileWriter(path, *self.header(partial)):
            assert not layout.is_incomplete(partial)
            partial.replace(path)  # the suspended writer wakes
        assert path.read_bytes() == right and left(path) == ["g.h5"]

    @staticmethod
    def header(path):
        with layout.HDF5(path) as file:
            header = layout.read_header(file, path)
        return header.contents, header.numerics

    @pytest.mark.parametrize("whole", [False, True])
    def test_it_renames_the_file_although_it_is_replaced(self, points, path, right, whole):
        """The next writer has found a bad tile, or none, and completes the file as it is."""
        partial = place.partial_of(path)
        partial.write_bytes(right)
        contents, numerics = self.header(partial)
        with layout.HDF5(partial) as file:
            tile_map = layout.read_tile_map(file, partial, contents)
            tiles = TileFile(file.descriptor, tile_map, write=True)
        tile = np.empty(contents.grid.chunk)
        with tiles:
            disk.read_at(tiles._small, tile, tile_map.tile_at("ntk", 0, 1, 1))
            if not whole:
                tiles.clear_checksum(("ntk", 0, 1, 1))
        with store.TileWriter(path, contents, numerics) as writer:
            assert layout.is_incomplete(partial) != whole
            partial.replace(path)
            if not whole:
                writer.tiles.write("ntk", 0, 1, 1, tile)
        assert path.read_bytes() == right and left(path) == ["g.h5"]

    def test_it_stops_at_its_next_batch(self, points, path, right, monkeypatch):
        monkeypatch.setattr(plan, "BATCH_BYTES", 1)
        compute, batches = Kernel.compute, []

        def watched(self, table, *arguments):
            if len(table):
                batches.append(len(table))
                if len(batches) == 2:
                    replace(path)
            compute(self, table, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Kernel, "compute", watched)
            with pytest.raises(TakenOverError, match="was taken over by process") as caught:
                nk.write_gram(NET, points, path, threads=1)
        assert len(batches) == 2 and not hasattr(caught.value, "__notes__")
        assert isinstance(caught.value, nk.StoppedError | BlockingIOError)
        give_up(path)
        finish(path, points, right)

    def test_a_merge_stops_too(self, points, path, right, monkeypatch):
        parts = parts_of(points, path.parent, of=2)
        monkeypatch.setattr("ntk_numba.cluster.merge.COMMIT_BYTES", 1)
        at_call(monkeypatch, "sync", 4, lambda: replace(path))
        with pytest.raises(TakenOverError):
            nk.merge(parts, path, delete_parts=True)
        assert all(part.exists() for part in parts) and not path.exists()
        give_up(path)
        nk.merge(parts, path, delete_parts=True).close()
        assert path.read_bytes() == right and left(path) == ["g.h5"]


class TestMisnamed:
    """An incomplete file that has the name of a complete one, from an earlier version."""

    @pytest.fixture
    def misnamed(self, path, right):
        path.write_bytes(layout.INCOMPLETE + right[8:])
        return path

    @pytest.mark.parametrize("options", [{}, {"parts": 2}, {"overwrite": True}])
    def test_the_same_command_mends_it(self, misnamed, points, right, options, monkeypatch):
        computed = []
        compute = Kernel.compute
        monkeypatch.setattr(
            Kernel, "compute", lambda self, t, *a: (computed.extend(t), compute(self, t, *a))
        )
        finish(misnamed, points, right, **options)
        assert options or not computed

    def test_the_same_merge_mends_it(self, misnamed, points, right, tmp_path):
        parts = parts_of(points, tmp_path / "..", of=2)
        nk.merge(parts, misnamed, delete_parts=True).close()
        assert misnamed.read_bytes() == right and left(misnamed) == ["g.h5"]

    def test_another_job_is_refused(self, misnamed, points):
        before = misnamed.read_bytes()
        with pytest.raises(ValueError, match="is the beginning of another job"):
            nk.write_gram(nk.MLP(5), points, misnamed)
        assert misnamed.read_bytes() == before and left(misnamed) == ["g.h5"]
        nk.write_gram(nk.MLP(5), points, misnamed, overwrite=True).close()
        assert left(misnamed) == ["g.h5"]

    def test_two_incomplete_files(self, misnamed, points, right):
        place.partial_of(misnamed).write_bytes(misnamed.read_bytes())
        with pytest.raises(ValueError, match=r"g.h5.partial are both incomplete\. Choose another"):
            nk.write_gram(NET, points, misnamed)
        finish(misnamed, points, right, overwrite=True)

    def test_the_incomplete_file_of_another_output_is_left_alone(self, misnamed, points):
        partial = misnamed.rename(place.partial_of(misnamed))
        with pytest.raises(ValueError, match="is incomplete; run its command again"):
            nk.write_gram(NET, points, partial)
        assert left(misnamed) == ["g.h5.partial"]


class TestLinks:
    """In a folder that others may write, a name may become a link at any time."""

    @pytest.fixture
    def victim(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("victim") / "precious"
        path.write_text("precious" * 1000)
        yield path
        assert path.read_text() == "precious" * 1000

    @staticmethod
    def swap(name, victim):
        def swap():
            name.unlink()
            name.symlink_to(victim)

        return swap

    def test_the_new_file_becomes_a_link(self, points, path, victim, monkeypatch):
        """Just after it was created, HDF5 lays it out."""
        new = place.beside(path, place.NEW)
        at_call(monkeypatch, "allocate", 1, self.swap(new, victim))
        with pytest.raises(OSError, match=r"new file was replaced or cannot be written"):
            nk.write_gram(NET, points, path)

    def test_the_new_link_file_becomes_a_link(self, points, path, victim, monkeypatch):
        parts = parts_of(points, path.parent, of=2)
        new = place.beside(path, place.NEW)
        create = disk.create

        def attacked(name):
            fd = create(name)
            if name == new:
                self.swap(new, victim)()
            return fd

        monkeypatch.setattr(disk, "create", attacked)
        with pytest.raises(OSError, match=r"new file was replaced or cannot be written"):
            nk.merge(parts, path, link=True)
        assert not path.is_file()

    @pytest.mark.parametrize("call", ["sync", "write_at"])
    @pytest.mark.parametrize("number", [4, 6])
    def test_the_unfinished_file_becomes_a_link(
        self, points, path, victim, monkeypatch, call, number
    ):
        partial = place.partial_of(path)
        at_call(monkeypatch, call, number, self.swap(partial, victim))
        with pytest.raises(nk.StoppedError, match=r"was moved or removed while|was replaced by"):
            nk.write_gram(NET, points, path)

    @pytest.mark.parametrize("name", [place.PARTIAL, place.NEW, place.NEXT])
    def test_links_that_wait_for_a_job(self, points, path, victim, name, right):
        place.beside(path, name).symlink_to(victim)
        if name == place.PARTIAL:
            with pytest.raises(ValueError, match=r"g.h5.partial is not a file. Choose another"):
                nk.write_gram(NET, points, path)
        nk.write_gram(NET, points, path, overwrite=True).close()
        assert path.read_bytes() == right

    def test_a_file_that_is_replaced_while_it_is_opened(self, points, path, monkeypatch):
        """What is checked is what is read."""
        other = path.with_name("other.h5")
        nk.write_gram(NET, points, path).close()
        nk.write_gram(NET, points + 1, other).close()
        right = h5py.File(path)["ntk"][:]
        check = layout._check_heaps

        def late(*arguments):
            check(*arguments)
            if other.exists():
                other.replace(path)

        monkeypatch.setattr(layout, "_check_heaps", late)
        with nk.open_gram(path) as f:
            assert (f.ntk[:] == right).all() and f.verify()


class TestModes:
    """A file that replaces another one has its permissions."""

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o400, 0o666])
    def test_of_the_file_that_is_replaced(self, points, path, right, mode, monkeypatch):
        path.write_text("older")
        path.chmod(mode)
        seen = []

        def look(*_):
            seen.extend(stat.S_IMODE(p.stat().st_mode) for p in path.parent.glob("*.partial*[lw]"))

        for call in ("allocate", "sync", "write_at", "rename"):
            original = getattr(disk, call)
            monkeypatch.setattr(disk, call, lambda *a, o=original: (look(), o(*a), look()))
        finish(path, points, right, overwrite=True)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert seen and all(not m & ~(mode | 0o600) for m in seen)

    def test_of_a_link(self, points, path):
        parts = parts_of(points, path.parent, of=2)
        path.write_text("older")
        path.chmod(0o600)
        nk.merge(parts, path, link=True, overwrite=True).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_an_unfinished_file_of_an_earlier_version_is_narrowed(self, points, path, right):
        place.partial_of(path).write_bytes(layout.INCOMPLETE + right[8:])
        path.write_text("older")
        path.chmod(0o600)
        header = TestSuspended.header(place.partial_of(path))
        with store.TileWriter(path, *header, store.Policy(overwrite=True)):
            assert stat.S_IMODE(place.partial_of(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize("allowed", [False, True])
    def test_the_group_gets_no_more_than_before(self, tmp_path, monkeypatch, allowed):
        new, older = tmp_path / "new", tmp_path / "older"
        new.touch()
        older.touch()
        older.chmod(0o664)

        class Like:
            st_mode, st_gid = older.stat().st_mode, older.stat().st_gid + 7

        given = []

        def chown(fd, user, group):
            given.append((user, group))
            if not allowed:
                raise PermissionError

        monkeypatch.setattr(disk.os, "fchown", chown)
        with new.open("r+") as file:
            disk.set_mode(file.fileno(), Like)
        assert given == [(-1, Like.st_gid)]
        assert stat.S_IMODE(new.stat().st_mode) == (0o664 if allowed else 0o604)

    def test_a_new_file_follows_the_mask(self, points, path):
        old = os.umask(0o027)
        try:
            nk.write_gram(NET, points, path).close()
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


class TestNames:
    """Names that are too long, files of others, and folders that move."""

    @pytest.mark.parametrize("size", [210, 242])
    def test_long_names(self, points, tmp_path, right, size, monkeypatch):
        monkeypatch.setattr(lease, "WATCH", 0.1)
        monkeypatch.setattr(lease, "SETTLE", 0.0)
        path = tmp_path / ("é" * 100 + "x" * (size - 200))
        lease.lock_of(path).write_text(OTHER)
        finish(path, points, right)
        finish(path, points, right, overwrite=True)

    def test_longer_names_are_refused_before_any_work(self, tmp_path, monkeypatch):
        path = tmp_path / ("x" * 243)
        text = r"x is too long: while it is written, the name has 256 bytes, .* allows 255; choose"
        with pytest.raises(ValueError, match=text):
            nk.write_gram(NET, "no data", path)
        with pytest.raises(ValueError, match=text):
            nk.merge(["none.h5"], path)
        with pytest.raises(ValueError, match="is too long"):
            nk.write_gram(NET, "no data", tmp_path / ("x" * 3000))
        x = np.ones((150, 2))
        with pytest.raises(ValueError, match="is too long"):
            nk.write_gram(NET, x, path.with_name("x" * 240), parts=2)
        with pytest.raises(ValueError, match="is too long"):
            nk.write_gram(NET, x, path.with_name("x" * 240), part=(1, 2))
        deep = tmp_path.joinpath(*["d" * 200] * 30)
        with pytest.raises(ValueError, match=r"g.h5 is too long: .* path has .*allows 4095"):
            nk.write_gram(NET, "no data", deep / "g.h5")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["g.h5", "g.h5.partial"])
    def test_files_of_others_in_a_sticky_folder(self, points, path, monkeypatch, name):
        (path.parent / name).write_text("another user's")
        path.parent.chmod(0o1777)
        monkeypatch.setattr(place.os, "geteuid", lambda: 12345)
        monkeypatch.setattr(nk.compute.stream, "surveys_of", None)  # nothing is read
        with pytest.raises(AccessError, match=rf"{name} is another user's file, and in the folder"):
            nk.write_gram(NET, points, path, overwrite=True)
        assert left(path) == [name]

    def test_the_working_folder_changes(self, points, tmp_path, right, monkeypatch):
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / "here")
        at_call(monkeypatch, "sync", 2, lambda: monkeypatch.chdir(tmp_path / "there"))
        with nk.write_gram(NET, points, "g.h5") as f:
            assert f.path == tmp_path / "here" / "g.h5"
        assert (tmp_path / "here" / "g.h5").read_bytes() == right
        assert left(tmp_path / "here" / "g.h5") == ["g.h5"] and not any(
            (tmp_path / "there").iterdir()
        )

    def test_the_working_folder_changes_during_a_merge(self, points, tmp_path, right, monkeypatch):
        parts = parts_of(points, tmp_path, of=2)
        monkeypatch.chdir(tmp_path)
        at_call(monkeypatch, "sync", 2, lambda: monkeypatch.chdir("/"))
        nk.merge([part.name for part in parts], "g.h5", delete_parts=True).close()
        assert (tmp_path / "g.h5").read_bytes() == right
        assert left(tmp_path / "g.h5") == ["g.h5"]

    def test_the_working_folder_is_gone(self, points, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        (tmp_path / "here").rmdir()
        with pytest.raises(FileNotFoundError, match="working folder was removed; give an absolute"):
            nk.write_gram(NET, points, "g.h5")
