"""Small files that link the parts of a job."""

import errno
import gc
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import psutil
import pytest
from parts import NET, Stop, parts_of, stop_after

import ntk_numba as nk
from ntk_numba.gramfile import layout, link, stored
from ntk_numba.gramfile import parts as linked_parts


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
def k(x):
    return nk.gram(NET, x, kernels="ntk").ntk


def test_a_full_disk_is_reported_in_a_sentence(parts, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError(
            "flush failed (file write failed: time = Mon, filename = 'g.h5.partial.new', errno = "
            "28, error message = 'No space left on device', buf = 0x5644, offset = 8192)"
        )

    monkeypatch.setattr(link, "_link", full)
    with pytest.raises(OSError, match=r"^\S*g.h5 cannot be written: No space left on device$"):
        nk.merge(parts, tmp_path / "g.h5", link=True)
    assert sorted(tmp_path.iterdir()) == parts


class TestLink:
    @pytest.fixture(params=["last", "all"])
    def linked(self, x, tmp_path, request):
        folder = tmp_path / "parts"
        folder.mkdir()
        paths = parts_of(x, folder, layers=request.param, kernels=("nngp", "ntk"))
        path = tmp_path / "g.h5"
        nk.merge(paths, path, link=True).close()
        return path, paths, nk.gram(NET, x, layers=request.param)

    def test_it_is_small_and_reads_as_the_whole(self, linked):
        path, paths, k = linked
        assert path.stat().st_size < 30_000
        with nk.open_gram(path) as f:
            for key in (np.s_[...], np.s_[..., 3, :], np.s_[..., 690, 2], np.s_[..., 2, 690]):
                assert (f.ntk[key] == k.ntk[key]).all() and (f.nngp[key] == k.nngp[key]).all()
            assert f.complete and f.done.sum() == 66 and f.contents.layout == "lower"
            report = f.verify()
            assert report and report.checks == ["its 5 parts, each by itself"]
            assert f.parts() == paths
        nk.merge(paths, path, link=True).close()  # nothing is left to do
        assert {p.name for p in path.parent.iterdir()} == {"parts", "g.h5"}

    def test_it_moves_with_its_parts(self, linked, tmp_path):
        path, _, k = linked
        (tmp_path / "moved").mkdir()
        path.rename(tmp_path / "moved" / "g.h5")
        (tmp_path / "parts").rename(tmp_path / "moved" / "parts")
        with nk.open_gram(tmp_path / "moved" / "g.h5") as f:
            assert (f.ntk[:] == k.ntk).all()

    def test_it_may_have_another_name_elsewhere(self, linked, tmp_path):
        _, _, k = linked
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "s.h5").symlink_to("../../g.h5")
        with nk.open_gram(tmp_path / "a" / "b" / "s.h5") as f:
            assert (f.ntk[:] == k.ntk).all() and f.verify()

    def test_it_refuses_when_a_part_is_missing(self, linked, x):
        path, paths, _ = linked
        paths[3].rename(paths[3].with_suffix(".away"))
        with pytest.raises(
            ValueError, match=rf"g.h5 is made of \S*{paths[3].name}, which does not"
        ):
            nk.open_gram(path)
        with h5py.File(path) as file:  # other programs do not take it for zeros either
            assert np.isnan(file["ntk"][...].min())
        with nk.write_gram(NET, x + 1, paths[3].parent / "g.h5", part=(4, 5)) as f:
            assert f.path == paths[3]
        with pytest.raises(ValueError, match="which is not the file that was linked; put it back"):
            nk.open_gram(path)

    def test_its_damage_is_named(self, linked, x):
        path, paths, _ = linked
        with nk.open_gram(paths[1]) as f:
            i, j = (int(k) for k in np.argwhere(f.contents.grid.mask(f.contents.part))[0])
            at = f.tile_map.tile_at("ntk", 0, i, j)
        data = bytearray(paths[1].read_bytes())
        data[at] ^= 1
        paths[1].write_bytes(data)
        with nk.open_gram(path) as f:
            (problem,) = f.verify().problems
        assert paths[1].name in problem and f"tile ({i}, {j}) does not match" in problem
        with pytest.raises(ValueError, match="holds no tiles of its own: repair the parts"):
            nk.repair(path, x)
        assert nk.repair(paths[1], x)
        with nk.open_gram(path) as f:
            assert f.verify()

    def test_every_damage_of_itself_is_refused(self, linked):
        """HDF5 has no checksum of its list of files and positions, and damage may crash it."""
        path, _, _ = linked
        whole = path.read_bytes()
        changed = [whole[:n] for n in (0, 4, 15, 16, 4096, 4200, len(whole) - 1)] + [whole + b"\0"]
        for at in (*range(16), *range(4096, len(whole), 97)):
            changed.append(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        for data in changed:
            path.write_bytes(data)
            with pytest.raises(ValueError, match=r"g\.h5 is (damaged|no valid HDF5 file)"):
                nk.open_gram(path)
        path.write_bytes(whole)
        nk.open_gram(path).close()

    @pytest.mark.parametrize("layout", ["lower", "full"])
    def test_it_is_no_copy_of_its_parts(self, linked, layout):
        path, paths, k = linked
        text = "g.h5 (refers to the parts and holds no tiles|exists with other contents)"
        options = {"layout": layout, "delete_parts": True}
        with pytest.raises(ValueError, match=text):
            nk.merge(paths, path, **options)
        assert all(part.exists() for part in paths)
        nk.merge(paths, path, overwrite=True, **options).close()
        with nk.open_gram(path) as f:
            assert f.verify() and (f.ntk[...] == k.ntk).all()

    @pytest.mark.parametrize("delete", [False, True])
    def test_it_does_not_replace_an_unfinished_merge(self, parts, tmp_path, monkeypatch, delete):
        path, partial = tmp_path / "g.h5", tmp_path / "g.h5.partial"
        with monkeypatch.context() as patch:
            stop_after(patch, 30)
            with pytest.raises(Stop):
                nk.merge(parts, path, layout="lower", delete_parts=delete)
        left = [part for part in parts if part.exists()]
        with pytest.raises(ValueError, match=rf"{partial} is the beginning of a file that is not"):
            nk.merge(left, path, link=True)
        if delete:  # only this file has the tiles of the deleted parts
            with pytest.raises(ValueError, match="of 5 parts 1-2 are missing"):
                nk.merge(left, path, link=True, overwrite=True)
            assert partial.exists() and not path.exists()
        else:
            nk.merge(left, path, link=True, overwrite=True).close()
            assert not partial.exists()

    @pytest.mark.parametrize("name", ["50%.h5", "a%b.h5", "a%%c.h5", "é '\"$x.h5"])
    def test_any_name_is_allowed(self, x, parts, tmp_path, name):
        paths = [part.rename(tmp_path / f"{n}{name}") for n, part in enumerate(parts)]
        with nk.merge(paths, tmp_path / "g.h5", link=True) as f:
            assert (f.ntk[...] == nk.gram(NET, x).ntk).all()

    def test_a_part_that_goes_while_it_is_open(self, linked):
        path, paths, _ = linked
        with nk.open_gram(path) as f:
            paths[1].unlink()
            with pytest.raises(ValueError, match=rf"g.h5 is made of {paths[1]}, which does not ex"):
                f.ntk[...]
            (problem,) = f.verify().problems
            assert f"{paths[1]}, which does not exist" in problem


READ = """
import resource, sys
import numpy as np
from ntk_numba.gramfile.reader import open_gram

path, right, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
right = np.load(right)
with open_gram(path) as f:
    assert f.verify()
    for key in ([690, 3], slice(None)):
        assert np.array_equal(f.ntk[key], right[key])
    assert np.allclose(f.ntk @ right[0], right @ right[0], rtol=1e-12)
"""


def other_parts(x, folder, **options):
    """Write parts with the names of `parts` that belong to another job."""
    folder.mkdir(exist_ok=True)
    for number in range(1, 6):
        net = options.get("net", nk.MLP(3, "relu", b_std=0.7))
        more = {k: v for k, v in options.items() if k != "net"}
        nk.write_gram(net, x, folder / "g.h5", part=(number, 5), **more).close()
    return sorted(folder.glob("g.part-*"))


def damaged(part, *, with_checksum):
    """Change the first tile of a part and, if asked, its checksum, so that it verifies."""
    with nk.open_gram(part) as f, f.tiles(write=True) as tiles:
        i, j = (int(k) for k in f.contents.storage.places[0])
        (block,) = tiles.scan([("ntk", 0, i, j)], lambda tile: tile.block.copy())
        block *= 1 - 2**-20
        tiles.write("ntk", 0, i, j, block)
        if with_checksum:
            tiles.commit()
    return i, j


class TestWhatIsCheckedIsWhatIsRead:
    """HDF5 would read any file that has the name of a part at that moment."""

    @pytest.fixture
    def path(self, parts, tmp_path):
        nk.merge(parts, tmp_path / "g.h5", link=True).close()
        return tmp_path / "g.h5"

    def test_a_variable_leads_hdf5_elsewhere(self, x, path, k, tmp_path):
        other = other_parts(x, tmp_path / "other")
        np.save(tmp_path / "k.npy", k)
        command = [sys.executable, "-c", READ, path, tmp_path / "k.npy", "200"]
        environment = os.environ | {"HDF5_VDS_PREFIX": str(other[0].parent)}
        subprocess.run(command, env=environment, check=True)

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize("how", ["renamed", "written into"])
    def test_a_part_is_replaced_while_the_link_is_open(
        self, x, parts, path, k, tmp_path, before, how
    ):
        other = other_parts(x, tmp_path / "other")
        with nk.open_gram(path) as f:
            if before:
                assert (f.ntk[...] == k).all()
                f._parts._cached.clear()
            for new, part in zip(other, parts, strict=True):
                new.replace(part) if how == "renamed" else shutil.copyfile(new, part)
            if before and how == "renamed":  # the parts that were checked are still open
                assert (f.ntk[...] == k).all()
            else:
                text = "damaged or replaced since" if before else "is not the file that was linked"
                with pytest.raises(ValueError, match=text):
                    f.ntk[...]
            assert len(f.verify().problems) == 5
        with pytest.raises(ValueError, match="which is not the file that was linked"):
            nk.open_gram(path)

    @pytest.mark.parametrize(
        "options",
        [{}, {"net": NET, "dtype": "float32"}, {"net": NET, "kernels": ("nngp",)},
         {"net": NET, "kernels": ("nngp", "ntk")}],
        ids=str,
    )  # fmt: skip
    def test_it_is_moved_to_other_parts_of_the_same_names(self, x, path, k, tmp_path, options):
        """A seal does not cover the kernels and the dtype."""
        other = other_parts(x, tmp_path / "other", **options)
        with nk.open_gram(path) as f:
            path.rename(other[0].parent / "g.h5")
            assert (f.ntk[...] == k).all() and f.verify()
        with pytest.raises(ValueError, match="which is not the file that was linked"):
            nk.open_gram(other[0].parent / "g.h5")

    def test_a_part_of_the_same_header_has_other_tiles(self, parts, path):
        damaged(parts[2], with_checksum=True)
        with nk.open_gram(parts[2]) as f:
            assert f.verify()
        with pytest.raises(ValueError, match=rf"made of {parts[2]}, which is not the file that"):
            nk.open_gram(path)

    def test_a_part_is_damaged_later(self, x, parts, path, k):
        with nk.open_gram(path) as f:
            i, j = damaged(parts[2], with_checksum=False)
            text = rf"{parts[2]}: tile \({i}, {j}\) of ntk does not match its checksum; it was"
            for read in (lambda: f.ntk[...], lambda: f.ntk @ x[:, 0], lambda: f.ntk[64 * i]):
                with pytest.raises(ValueError, match=text):
                    read()
            (problem,) = f.verify().problems
            assert problem.startswith(f"{parts[2]}: ntk: tile ({i}, {j}) does not match")

    def test_an_older_link_still_opens(self, x, parts, path, k, tmp_path):
        with h5py.File(path, "r+") as file:
            del file.attrs[linked_parts.FINGERPRINTS]
        with path.open("r+b") as file:
            file.write(layout.link_mark(path))
        with nk.open_gram(path) as f:
            assert (f.ntk[...] == k).all() and f.verify()
        other = other_parts(x, tmp_path / "other", net=NET, dtype="float32")
        shutil.copyfile(other[1], parts[1])
        with pytest.raises(ValueError, match=rf"made of {parts[1]}, which is not the file that"):
            nk.open_gram(path)

    def test_it_has_no_tiles_of_its_own(self, path):
        with nk.open_gram(path) as f:
            for get in (f.tiles, lambda: f.tile_map):
                with pytest.raises(ValueError, match="refers to the parts of a job and holds no"):
                    get()

    def test_more_parts_than_descriptors(self, x, k, tmp_path):
        folder = tmp_path / "many"
        folder.mkdir()
        paths = parts_of(x, folder, 30)
        nk.merge(paths, folder / "m.h5", link=True).close()
        np.save(tmp_path / "k.npy", k)
        for limit in ("25", "15"):
            command = [sys.executable, "-c", READ, folder / "m.h5", tmp_path / "k.npy", limit]
            subprocess.run(command, check=True)

    def test_threads_read_it_at_the_same_time(self, path, k, monkeypatch):
        monkeypatch.setattr(linked_parts, "MOST_OPEN", 2)
        monkeypatch.setattr(linked_parts, "CACHE_BYTES", 1)

        def read(seed):
            rng = np.random.default_rng(seed)
            for _ in range(4):
                rows = rng.integers(0, 700, 2)
                assert (f.ntk[rows] == k[rows]).all()
                assert len(f._parts._reading) <= 2

        with nk.open_gram(path) as f, ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(4)))

    @pytest.mark.parametrize("closed", [True, False])
    def test_it_leaves_no_descriptor_open(self, path, closed):
        gc.collect()
        before = len(psutil.Process().open_files())
        f = nk.open_gram(path)
        ntk = f.ntk
        assert ntk[3, 690] and len(psutil.Process().open_files()) > before + 1
        if closed:
            f.close()
            with pytest.raises(ValueError, match="is closed; open it again"):
                ntk[3, 690]
        del f, ntk
        gc.collect()
        assert len(psutil.Process().open_files()) == before


def test_too_many_open_files_are_no_damage(parts, tmp_path, monkeypatch):
    """No part is called damaged, or to be computed again, for it."""

    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with nk.merge(parts, tmp_path / "g.h5", link=True) as f:
        monkeypatch.setattr(layout, "open_descriptor", refuse)
        for use in (
            lambda: nk.open_gram(tmp_path / "g.h5"),
            lambda: nk.merge(parts, tmp_path / "h.h5"),
            f.verify,
        ):
            with pytest.raises(OSError, match=r"^\S* cannot be read: Too many open files$"):
                use()


def test_tiles_that_cannot_be_opened_name_the_file(parts, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/dev/fd/7")

    with nk.open_gram(parts[0]) as f:
        monkeypatch.setattr(stored, "TileFile", refuse)
        with pytest.raises(OSError, match=rf"^{parts[0]} cannot be written: Permission denied$"):
            f.tiles(write=True)
