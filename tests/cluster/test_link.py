"""Small files that link the parts of a job."""

import h5py
import numpy as np
import pytest
from parts import NET, Stop, parts_of, stop_after

import ntk_numba as nk
from ntk_numba.gramfile import link


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((700, 20))


@pytest.fixture
def parts(x, tmp_path):
    return parts_of(x, tmp_path)


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
            with pytest.raises(
                ValueError, match=r"g.h5 has entries that are NaN: one of its parts"
            ):
                f.ntk[...]
            assert f.verify().problems == [f"{paths[1]} does not exist"]
