"""`ntk-numba cholesky`, and what `info` and `verify` say of factors, as a user calls them."""

import errno
import json
import os
import re

import h5py
import numpy as np
import pytest
from marks import marked
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.cli import program as cli
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.gramfile.lease import Lease

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((150, 7)), RNG.standard_normal(150)
NET = nk.MLP(3, b_std=0.1)
CHOLESKY = ("cholesky", "g.h5", "-o", "l.h5", "--ridge", "0.01")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grams")
    nk.write_gram(NET, X, folder / "g.h5").close()
    nk.write_gram(NET, X, folder / "both.h5", kernels=("nngp", "ntk"), layout="lower").close()
    nk.write_gram(NET, X + 1, folder / "other.h5").close()
    nk.write_gram(NET, X, folder / "z.h5", Z=X[:20]).close()
    nk.write_gram(NET, np.vstack([X[:80], X[:80]]), folder / "twice.h5").close()
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch, capsys):
    """Run the command in this process, beside Gram files; return what it has printed."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        capsys.readouterr()
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main(words)
        answer = capsys.readouterr()
        assert (end.value.code or 0) == code, answer.err
        assert "Traceback" not in answer.err
        return answer.err if code == 2 else answer.out

    return run


def damage(path, i, j):
    with open_factor(path) as f:
        at = f.tile_map.tile_at("factor", 0, i, j)
    data = bytearray(path.read_bytes())
    data[at + 9] ^= 1
    path.write_bytes(data)


def test_from_gram_to_factor(run, tmp_path):
    with nk.open_gram("g.h5") as f:
        a = f.ntk[:] + 0.01 * np.eye(150)
    log_det = np.linalg.slogdet(a)[1]
    lines = run(*CHOLESKY).splitlines()
    assert lines[0] == "l.h5: factor, 150 × 150, float64, ridge 0.01"
    assert float(lines[1].removeprefix("log det ")) == pytest.approx(log_det, abs=1e-8)
    with nk.open_cholesky("l.h5") as factor:
        assert np.allclose(factor.solve(Y), np.linalg.solve(a, Y), rtol=1e-9, atol=1e-9)
    before = (tmp_path / "l.h5").stat().st_mtime_ns
    assert run(*CHOLESKY).splitlines() == lines  # which it was already
    assert (tmp_path / "l.h5").stat().st_mtime_ns == before
    assert run(*CHOLESKY, "--overwrite", "--quiet", "--threads", "1").splitlines() == lines


def test_from_samples_to_factor(run):
    np.save("x.npy", X)
    words = ("cholesky", "x.npy", "-o", "s.h5", "--ridge", "0.01")
    said = run(*words, "--depth", "3", "--b-std", "0.1").splitlines()
    assert said[1:] == run(*CHOLESKY).splitlines()[1:]
    with h5py.File("s.h5") as samples, h5py.File("l.h5") as gram:
        assert (samples["factor"][:] == gram["factor"][:]).all()
    assert "x.npy is read for the matrix" in run(
        "cholesky", "x.npy", "-o", "x.npy", "--depth", "3", "--overwrite", code=2
    )
    assert "--b-std is of a network" in run(*CHOLESKY, "--b-std", "0.1", code=2)


@pytest.mark.parametrize("name", ["x.npy", "nothing.npz:x", "g.h5:ntk", "x.csv"])
@pytest.mark.parametrize(
    "words",
    [("cholesky", "-o", "l.h5"), ("spectrum",),
     ("solve", "-o", "w.npy", "--ridge", "1", "--targets", "x.npy")],
)  # fmt: skip
def test_samples_without_a_network(run, name, words):
    np.save("x.npy", X)
    text = f"{name} names samples, not a Gram file: give the network of their kernel too, --depth"
    assert text in run(words[0], name, *words[1:], code=2)


def test_what_info_says_of_a_factor(run):
    run(*CHOLESKY)
    facts = json.loads(run("info", "l.h5", "--json"))
    assert facts["kind"] == "factor" and facts["complete"] and facts["tiles"] == 6
    assert facts["tiles_done"] == 6 and facts["shape"] == [150, 150]
    assert facts["ridge"] == 0.01 and facts["exponent"] == 0 and facts["tile"] == 64
    text = run("info", "l.h5")
    assert (
        "kind             factor" in text
        and "150 × 150" in text
        and "ridge            0.01" in text
    )


def test_what_verify_says_of_a_factor(run, tmp_path):
    run(*CHOLESKY)
    assert run("verify", "l.h5").count("ok ") == 3
    assert "4 tiles of L Lᵀ are those" in run("verify", "l.h5", "--data", "g.h5")
    answer = run("verify", "l.h5", "--data", "other.h5", code=4)
    assert "WRONG  this is not the matrix of the factor: the matrix is another one" in answer
    assert "factor; --against is for Gram" in run(
        "verify", "l.h5", "--data", "g.h5", "--against", "z.h5", code=2
    )
    assert "x.npy names samples; a factor is compared with a Gram file" in run(
        "verify", "l.h5", "--data", "x.npy", code=2
    )
    right = (tmp_path / "l.h5").read_bytes()
    damage(tmp_path / "l.h5", 2, 1)
    damage(tmp_path / "l.h5", 1, 0)
    answer = run("verify", "l.h5", code=4)
    assert answer.count("WRONG") == 2 and "tile (2, 1) does not match its checksum" in answer
    assert "give it their data" in run("verify", "l.h5", "--repair", code=2)
    assert "cannot be repaired: the matrix is another one" in run(
        "verify", "l.h5", "--repair", "--data", "other.h5", code=2
    )
    answer = run("verify", "l.h5", "--repair", "--data", "g.h5")
    assert "ok     2 tiles computed again" in answer and "4 tiles of L Lᵀ" in answer
    assert (tmp_path / "l.h5").read_bytes() == right


def test_a_factor_of_one_kernel_of_two(run):
    assert "gram has two kernels" in run("cholesky", "both.h5", "-o", "l.h5", code=2)
    run("cholesky", "both.h5", "-o", "l.h5", "--kernel", "nngp")
    assert json.loads(run("info", "l.h5", "--json"))["kernel"] == "nngp"
    assert "4 tiles" in run("verify", "l.h5", "--data", "both.h5")
    answer = run("cholesky", "both.h5", "-o", "l.h5", "--kernel", "ntk", code=2)
    assert "l.h5 exists with other contents: the matrix is another one (nngp" in answer


@pytest.mark.parametrize(
    ("words", "text"),
    marked(
        pytest.mark.slow,
        [
            (
                ["g.h5", "-o", "l.h5", "--ridge", "0.02"],
                "l.h5 exists with other contents: ridge is 0.01",
            ),
            (
                ["g.h5", "-o", "g.h5", "--overwrite"],
                "g.h5 is read for the matrix; choose another output",
            ),
            (["g.h5", "-o", "none/l.h5"], "the folder .* does not exist; create it first"),
            (["g.h5", "-o", "m.h5", "--ridge", "-1"], "ridge"),
            (["g.h5", "-o", "m.h5", "--ridge", "nan"], "ridge"),
            (["g.h5", "-o", "m.h5", "--kernel", "nngp"], "nngp"),
            (["g.h5", "-o", "m.h5", "--memory", "1KiB"], "memory"),
            (["g.h5", "-o", "m.h5", "--threads", "0"], "threads"),
            (["z.h5", "-o", "m.h5"], "square|symmetric"),
            (["none.h5", "-o", "m.h5"], "none.h5 does not exist"),
            (
                ["l.h5", "-o", "m.h5"],
                "it is a Cholesky factor: open it with ntk_numba.open_cholesky",
            ),
            (["twice.h5", "-o", "m.h5"], "not positive definite in float64: .* row 80"),
        ],
    ),
)
def test_what_cannot_be_factorised(run, tmp_path, words, text):
    run(*CHOLESKY)
    assert re.search(text, answer := run("cholesky", *words, code=2)), answer
    assert not list(tmp_path.glob("m.h5*")) and not list(tmp_path.glob("*.partial*"))
    assert nk.open_gram("g.h5").verify()


def test_a_disk_that_fails_and_the_same_command_again(run, tmp_path, monkeypatch):
    run(*CHOLESKY)
    right = (tmp_path / "l.h5").read_bytes()
    (tmp_path / "l.h5").unlink()
    left = [3]

    def write_at(fd, block, at, original=disk.write_at):
        left[0] -= len(block) == 8 and at > 0  # a checksum
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(fd, block, at)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_at", write_at)
        run(*CHOLESKY, "--threads", "1", code=3)
    partial = tmp_path / "l.h5.partial"
    facts = json.loads(run("info", str(partial), "--json"))
    assert not facts["complete"] and facts["tiles_done"] == 3
    assert "WRONG  incomplete: " in run("verify", str(partial), code=4)
    answer = run("cholesky", "g.h5", "-o", "l.h5", "--ridge", "0.1", code=2)
    assert "is the beginning of another job: ridge is 0.01, not 0.1. Choose another" in answer
    run(*CHOLESKY, "--progress")
    assert (tmp_path / "l.h5").read_bytes() == right and not partial.exists()


def test_one_writer_at_a_time(run, tmp_path):
    with Lease(tmp_path / "l.h5"):
        assert "l.h5 is being written by process" in run(*CHOLESKY, code=2)
    run(*CHOLESKY)
    damage(tmp_path / "l.h5", 2, 1)
    with Lease(tmp_path / "l.h5"):
        answer = run("verify", "l.h5", "--repair", "--data", "g.h5", code=2)
    assert "l.h5 is being written by process" in answer
    assert sorted(p.name for p in tmp_path.glob("l.h5*")) == ["l.h5"]
