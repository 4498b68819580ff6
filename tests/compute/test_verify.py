import h5py
import numpy as np
import pytest
from parts import parts_of

import ntk_numba as nk
from ntk_numba.compute import verify
from ntk_numba.compute.verify import verify_sample
from ntk_numba.engine.kernel import NUMERICS, Kernel
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.reader import GramFile
from ntk_numba.gramfile.tiles import TileFile

NET = nk.MLP(3, "relu", b_std=0.1)


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cross", [False, True])
def test_a_good_file_passes(points, tmp_path, layers, dtype, cross):
    z = points[:30] if cross else None
    with nk.write_gram(
        NET, points, tmp_path / "g.h5", Z=z, kernels=("nngp", "ntk"), layers=layers, dtype=dtype
    ) as f:
        report = verify_sample(f, points, z)
        assert report, report.problems
        assert report.checks[-1] == f"64 × {30 if cross else 64} entries recomputed"


def test_other_data_and_wrong_entries_are_found(points, tmp_path):
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert "X is not the data" in verify_sample(f, points + 1).problems[0]
        assert "but Z is given" in verify_sample(f, points, points).problems[0]
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        file["ntk"][:] *= 1 + 1e-13
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert len(f.verify().bad) == 6
        (problem,) = verify_sample(f, points).problems
        assert "does not match the data" in problem
    with nk.write_gram(NET, points, tmp_path / "c.h5", Z=points[:9]) as f:
        assert "give Z as well" in verify_sample(f, points).problems[0]
        assert "Z is not the data" in verify_sample(f, points, points[1:10]).problems[0]


@pytest.fixture(params=[False, True], ids=["symmetric", "cross"])
def damaged(points, tmp_path, request):
    """Return a file with wrong entries and wrong checksums, its Z, and its bytes before."""
    z = points[:100] if request.param else None
    path = tmp_path / "g.h5"
    nk.write_gram(NET, points, path, Z=z, kernels=("nngp", "ntk"), layers="all").close()
    right = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file["ntk"][2, 130, 3] += 1
        file["nngp"][0, 3, 70] = np.nan
        file["checksums/ntk"][1, 2, 1] += 1
        file["checksums/nngp"][2, 1, 1] = 0
    return path, z, right


def test_repair_computes_the_bad_tiles_again(damaged, points, monkeypatch):
    path, z, right = damaged
    computed = []
    compute = Kernel.compute
    monkeypatch.setattr(
        Kernel, "compute", lambda self, t, *a: (computed.extend(t), compute(self, t, *a))
    )
    report = nk.repair(path, points, z)
    assert report and report.checks == ["4 tiles computed again"] and len(computed) == 4
    assert path.read_bytes() == right and list(path.parent.iterdir()) == [path]
    assert nk.repair(path, points, z).checks == ["0 tiles computed again"]


def test_repair_refuses(damaged, points, monkeypatch):
    path, z, _ = damaged
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cannot be repaired: X is not the data"):
        nk.repair(path, points + 1, z)
    monkeypatch.setattr(verify, "NUMERICS", NUMERICS + 1)
    text = f"its numerical version is {NUMERICS}, not {NUMERICS + 1}"
    with pytest.raises(ValueError, match=text):
        nk.repair(path, points, z)
    monkeypatch.undo()
    lease = Lease(path)
    with pytest.raises(BlockingIOError, match="is being written by process"):
        nk.repair(path, points, z)
    lease.release()
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="does not exist"):
        nk.repair(path.with_name("none.h5"), points)
    (path.rename(path.with_name("g.h5.partial"))).write_bytes(b"\x89NTK\r\n\x1a\n" + before[8:])
    with pytest.raises(ValueError, match="is incomplete; run its command again"):
        nk.repair(path.with_name("g.h5.partial"), points, z)


@pytest.mark.parametrize("when", ["before", "prepared", "batch", "end"])
def test_a_file_that_is_replaced_during_its_repair_is_left_alone(
    damaged, points, tmp_path_factory, monkeypatch, when
):
    """The older file is repaired, wherever it is now; the newer one has its bytes."""
    path, z, _ = damaged
    folder = tmp_path_factory.mktemp("other")
    nk.write_gram(
        nk.MLP(3, "abs"), points, folder / "o.h5", Z=z, kernels=("nngp", "ntk"), layers="all"
    ).close()
    new = (folder / "o.h5").read_bytes()

    def replace():
        if (folder / "o.h5").exists():
            (folder / "o.h5").replace(path)

    def late(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            result = original(*arguments, **options)
            replace()
            return result

        monkeypatch.setattr(owner, name, call)

    late(
        *{
            "before": (GramFile, "verify"),
            "prepared": (verify, "prepare"),
            "batch": (Kernel, "compute"),
            "end": (TileFile, "sync"),
        }[when]
    )
    with pytest.raises(nk.NtkNumbaError, match=r"g.h5 was replaced or moved while it was repaired"):
        nk.repair(path, points, z)
    monkeypatch.undo()
    assert path.read_bytes() == new and list(path.parent.iterdir()) == [path]
    with nk.open_gram(path) as f:
        assert f.verify()


def test_a_writer_a_merge_and_a_repair_have_one_lease(damaged, points, tmp_path, monkeypatch):
    path, z, right = damaged
    link = path.with_name("link.h5")
    link.symlink_to(path)

    def others(*arguments, **options):
        for call in (
            lambda: nk.repair(link, points, z),
            lambda: nk.write_gram(nk.MLP(4), points, link, Z=z, overwrite=True),
        ):
            with pytest.raises(BlockingIOError, match=r"g.h5 is being written by process"):
                call()
        called.append(1)
        return prepare(*arguments, **options)

    called, prepare = [], verify.prepare
    monkeypatch.setattr(verify, "prepare", others)
    assert nk.repair(path, points, z)
    assert called == [1] and path.read_bytes() == right


def test_a_merge_refuses_a_part_that_is_being_repaired(points, tmp_path, monkeypatch):
    parts = parts_of(points, tmp_path, of=2)
    text = r"g.part-1-of-2.h5 is being written by process \d+ on .*; wait until it is written, rep"
    with Lease(parts[0]), pytest.raises(BlockingIOError, match=text) as caught:
        nk.merge(parts, tmp_path / "g.h5", delete_parts=True)
    assert "run the same again" in caught.value.__notes__[0]
    assert all(part.exists() for part in parts)

    def busy(self, places, look):
        if places := list(places):  # of a part, not of the new file
            with pytest.raises(BlockingIOError, match="is being written by process"):
                nk.repair(parts[len(seen)], points)
            seen.append(1)
        return scan(self, places, look)

    seen, scan = [], TileFile.scan
    with monkeypatch.context() as patch:
        patch.setattr(TileFile, "scan", busy)
        nk.merge(parts, tmp_path / "g.h5").close()
    assert len(seen) == 2
    names = ["g.h5", "g.part-1-of-2.h5", "g.part-2-of-2.h5"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


@pytest.mark.parametrize("name", ["tanh:1e-5", "gelu"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_sample_of_other_activations_agrees(name, dtype, tmp_path):
    """The longest row is most likely not in the sample, so a series has another degree there."""
    x = np.random.default_rng(0).standard_normal((2000, 6)) / 2
    x[77] *= 4
    net = nk.MLP(3, [name, "relu"], 1.2, 0.1)
    with nk.write_gram(net, x, tmp_path / "a.h5", kernels=("nngp", "ntk"), dtype=dtype) as f:
        report = verify_sample(f, x)
        assert report, report.problems
