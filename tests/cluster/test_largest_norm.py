"""Parts of networks that are fitted to the data, with and without a given largest norm."""

import json
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from marks import marked
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.cli.program import main
from ntk_numba.compute.plan import find_largest_norm
from ntk_numba.digest import ROWS, blocks_of
from ntk_numba.inputs.source import Source, open_source

N, OF = 4 * ROWS, 6
NETS = {
    "tanh": nk.MLP(3, "tanh:1e-4", b_std=0.1),
    "elu": nk.MLP(3, "elu", b_std=0.1),
}


@pytest.fixture(params=marked(pytest.mark.slow, NETS))
def net(request):
    return NETS[request.param]


@pytest.fixture
def x(tmp_path):
    """A file of rows of different norms, with the largest norm last."""
    x = np.random.default_rng(0).standard_normal((N, 5)) / 4
    x[::3] *= 0.1
    x[-1] *= 4
    np.save(tmp_path / "x.npy", x)
    return x


@pytest.fixture
def largest(x):
    return find_largest_norm(NETS["elu"], open_source(x, "X"), None)


@pytest.fixture
def blocks_read(monkeypatch):
    """The blocks of rows that are read; single rows are from the evenly spaced sample."""
    blocks = set()
    read = Source.read

    def watched(self, start, stop):
        if stop - start > 1:
            blocks.update(blocks_of([range(start, stop)], self.shape[0]))
        return read(self, start, stop)

    monkeypatch.setattr(Source, "read", watched)
    return blocks


def own_blocks(contents):
    """Return the blocks that contain the rows of the tiles of a part."""
    grid = contents.grid
    sides = [s for p in grid.pieces(contents.part) for s in (p.rows, p.columns)]
    return blocks_of([range(s.start * grid.tile, s.stop * grid.tile) for s in sides], grid.rows)


def write(net, x, folder, number, of=OF, **options):
    return nk.write_gram(net, x, folder / "g.h5", part=(number, of), **options)


def test_a_part_with_a_given_norm_reads_its_own_rows_only(net, x, largest, tmp_path, blocks_read):
    some_leave_rows_out = False
    for number in range(1, OF + 1):
        blocks_read.clear()
        with write(net, f"{tmp_path}/x.npy", tmp_path, number, up_to=largest) as f:
            assert blocks_read == own_blocks(f.contents)
            some_leave_rows_out |= blocks_read < blocks_of([range(N)], N)
    assert some_leave_rows_out
    # a part that is not given the norm reads all blocks
    blocks_read.clear()
    write(net, f"{tmp_path}/x.npy", tmp_path, 1, overwrite=True).close()
    assert blocks_read == blocks_of([range(N)], N)


def test_parts_are_the_whole_bit_for_bit(net, x, largest, tmp_path):
    """Some parts are given the norm, and one is not."""
    whole = tmp_path / "whole.h5"
    with nk.write_gram(net, x, whole) as f:
        assert f.contents.largest_norm == largest
        assert (f.ntk[:] == nk.gram(net, x).ntk).all()
    paths = []
    for number in range(1, OF + 1):
        given = {} if number == 3 else {"up_to": largest}
        with write(net, x, tmp_path, number, **given) as f:
            paths.append(f.path)
    with nk.merge(paths, tmp_path / "g.h5") as f:
        assert f.contents.largest_norm == largest and f.verify()
    assert (tmp_path / "g.h5").read_bytes() == whole.read_bytes()


def test_the_process_that_starts_all_parts_passes_the_norm_on(net, x, tmp_path, monkeypatch):
    nk.write_gram(net, x, tmp_path / "whole.h5").close()
    surveyed = []
    survey = Source.survey

    def watched(self, rows=None, *, digest=False):
        surveyed.append(rows)
        return survey(self, rows, digest=digest)

    monkeypatch.setattr(Source, "survey", watched)
    with ThreadPoolExecutor(1) as pool:
        for executor in (pool, None):
            surveyed.clear()
            path = tmp_path / f"{executor is None}.h5"
            data = f"{tmp_path}/x.npy"
            nk.write_gram(net, data, path, parts=3, executor=executor).close()
            assert surveyed.count(None) == 1 and len(surveyed) > 3
            assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_all_parts_here_read_each_row_once_beside_computing(x, tmp_path, monkeypatch):
    """The findings of one part about X, in memory or in a file, are kept for the next part."""
    counts = {}
    read_unknown = Source._read_unknown

    def watched(self, rows, depth):
        for first, last in self._findings.unknown(rows, depth):
            for k in blocks_of([range(first, last)], N):
                counts[k] = counts.get(k, 0) + 1
        read_unknown(self, rows, depth)

    monkeypatch.setattr(Source, "_read_unknown", watched)
    nk.write_gram(NETS["elu"], x, tmp_path / "g.h5", parts=3).close()
    assert set(counts.values()) == {1} and len(counts) == 4


def test_a_row_of_a_larger_norm_is_refused(net, x, largest, tmp_path):
    with pytest.raises(ValueError, match=rf"X: row {N - 1} has norm .*, more than up_to="):
        write(net, x, tmp_path, OF, up_to=0.99 * largest)
    with pytest.raises(ValueError, match=r"Z: row 3 has norm .*; give the largest norm of all"):
        nk.write_gram(net, x[:5], tmp_path / "z.h5", Z=2 * x[-4:], up_to=largest)
    with pytest.raises(ValueError, match=f"row {N - 1} has norm"):
        nk.write_gram(net, x, tmp_path / "g.h5", parts=2, up_to=0.99 * largest)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
    # another processor may add in a different order
    write(net, x, tmp_path, OF, up_to=largest * (1 - 1e-15)).close()


def test_other_networks_make_no_use_of_it(x, tmp_path):
    with write(nk.MLP(3), x, tmp_path, 1, up_to=1e-3) as f:
        assert f.contents.largest_norm is None
    with h5py.File(tmp_path / "g.part-1-of-6.h5") as f:
        assert "largest_norm" not in f.attrs


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1.0, ValueError, "up_to must be more than 0 and finite, not -1.0"),
        (np.inf, ValueError, "up_to must be more than 0 and finite"),
        (np.nan, ValueError, "up_to must be more than 0 and finite"),
        ("big", TypeError, "up_to must be a number"),
    ],
)
def test_bad_values_are_refused(x, tmp_path, value, error, text):
    for net in (nk.MLP(2), NETS["tanh"]):
        with pytest.raises(error, match=text):
            write(net, x, tmp_path, 1, up_to=value)


def test_zeros_have_the_norm_zero(net, tmp_path):
    x = np.zeros((130, 3))
    nk.write_gram(net, x, tmp_path / "whole.h5").close()
    nk.write_gram(net, x, tmp_path / "g.h5", parts=2, up_to=0.0).close()
    assert (tmp_path / "g.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_number_too_large_keeps_the_bound(x, largest, tmp_path):
    net = NETS["tanh"]
    exact = nk.gram(nk.MLP(3, "tanh:1e-13", b_std=0.1), x[:200]).ntk
    with nk.write_gram(net, x[:200], tmp_path / "g.h5", up_to=largest) as f:
        root = np.sqrt(np.diag(exact))
        error = (np.abs(f.ntk[:] - exact) / (root[:, None] * root)).max()
        assert 0 < error <= f.contents.error[1] < 1e-2
        assert f.contents.largest_norm == largest
    with pytest.raises(ValueError, match=r"with other contents: .*the largest norm is"):
        nk.write_gram(net, x[:200], tmp_path / "g.h5")


def test_parts_with_different_norms_are_not_of_one_job(net, x, largest, tmp_path):
    paths = []
    for number in range(1, 4):
        given = 1.5 * largest if number == 2 else largest
        with write(net, x, tmp_path, number, of=3, up_to=given) as f:
            paths.append(f.path)
    text = (
        rf"{paths[1].name} is of another job: .*the largest norm is {1.5 * largest!r}, not "
        rf"{largest!r}.*--array=2"
    )
    with pytest.raises(ValueError, match=text):
        nk.merge(paths, tmp_path / "g.h5")
    with pytest.raises(ValueError, match=r"exists with other contents: .*the largest norm is"):
        write(net, x, tmp_path, 2, of=3, up_to=largest)
    write(net, x, tmp_path, 2, of=3, up_to=largest, overwrite=True).close()
    nk.merge(paths, tmp_path / "g.h5", delete_parts=True).close()
    # the merged file replaces a part only if the part has the same norm
    with write(net, x, tmp_path, 2, of=3, up_to=largest) as f:
        assert f.path.name == "g.h5"
    with write(net, x, tmp_path, 2, of=3, up_to=1.5 * largest) as f:
        assert f.path.name == "g.part-2-of-3.h5"


def test_files_without_a_norm_are_read_and_merged(net, x, largest, tmp_path):
    """Earlier versions wrote such files."""
    nk.write_gram(net, x, tmp_path / "whole.h5").close()
    paths = []
    for number in range(1, 4):
        with write(net, x, tmp_path, number, of=3, up_to=largest) as f:
            paths.append(f.path)
        if number < 3:
            with h5py.File(paths[-1], "r+", locking=False) as f:
                del f.attrs["largest_norm"]
    with nk.open_gram(paths[0]) as f:
        assert f.contents.largest_norm is None and f.verify()
    write(net, x, tmp_path, 1, of=3, up_to=largest).close()  # it exists already
    with nk.merge(paths, tmp_path / "g.h5") as f, nk.open_gram(tmp_path / "whole.h5") as whole:
        assert (f.ntk[:] == whole.ntk[:]).all() and f.contents == whole.contents
        assert f.contents.largest_norm == largest


def test_repair_of_a_part_reads_its_own_rows_only(x, largest, tmp_path, blocks_read):
    net = NETS["elu"]
    with write(net, x, tmp_path, 1) as f:
        path, at = f.path, f.tile_map.tile_at("ntk", 0, 0, 0)
    right = path.read_bytes()
    broken = bytearray(right)
    broken[at] ^= 1
    path.write_bytes(broken)
    blocks_read.clear()
    assert nk.repair(path, x)
    assert path.read_bytes() == right
    with nk.open_gram(path) as f:
        assert blocks_read == own_blocks(f.contents) != blocks_of([range(N)], N)


def test_the_command_line(x, largest, tmp_path, monkeypatch, capsys, blocks_read):
    """A script for Slurm contains the norm, to the last bit, and its parts use it."""
    monkeypatch.chdir(tmp_path)
    job = ["x.npy", "-o", "g.h5", "--depth", "3", "--activation", "elu"]

    def run(*words):
        with own_process_kept(), pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        return capsys.readouterr().out

    script = run("slurm", *job, "--parts", "6", "--time", "60")
    option = f"--up-to {largest!r}"
    assert option in script and float(repr(largest)) == largest
    blocks_read.clear()
    run("gram", *job, "--part", "1/6", "--quiet", *option.split())
    with nk.open_gram("g.part-1-of-6.h5") as f:
        assert f.contents.largest_norm == largest
        assert blocks_read == own_blocks(f.contents) != blocks_of([range(N)], N)
    assert json.loads(run("info", "g.part-1-of-6.h5", "--json"))["part"] == "1/6"
    assert "--up-to" not in run("slurm", *job[:-2], "--parts", "6", "--time", "60")
