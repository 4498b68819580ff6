"""The command ``solve``."""

import json

import numpy as np
import pytest
from marks import marked
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.cli import program as cli

N = 40


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in a folder with a Gram file; return code and output."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 3))
    np.save("x.npy", x)
    np.save("y.npy", rng.standard_normal((N, 2)))
    nk.write_gram(nk.MLP(3, w_std=1.2), x, "g.h5").close()

    def run(*words, command="solve"):
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main([command, *words])
        captured = capsys.readouterr()
        return end.value.code, captured.out + captured.err

    return run


def exact(ridge):
    kernel = nk.gram(nk.MLP(3, w_std=1.2), np.load("x.npy")).ntk
    return np.linalg.solve(kernel + ridge * np.eye(N), np.load("y.npy"))


def test_a_checkpoint(run):
    words = ["g.h5", "--targets", "y.npy", "-o", "w.npy", "--ridge", "0.1", "--tolerance", "1e-9"]
    words += ["--method", "block_krylov", "--checkpoint", "c"]
    code, text = run(*words, "--max-passes", "2")
    assert code == 4 and "max_passes=2 is reached; allow more" in text
    code, text = run("c", "--json", command="info")
    facts = json.loads(text)
    assert facts["kind"] == "checkpoint" and facts["state"] == "not solved yet"
    assert (facts["method"], facts["passes"], facts["samples"]) == ("block_krylov", 2, N)
    code, text = run("c", command="verify")
    assert code == 0 and "every byte of the state after 2 passes matches" in text
    code, text = run(*words)
    assert code == 0 and "w.npy: weights 40 × 2" in text and "method     block_krylov" in text
    assert np.abs(np.load("w.npy") - exact(0.1)).max() < 1e-7
    assert "exists already" in run(*words)[1]
    assert "solved" in run("c", command="info")[1]
    assert run("c", "--data", "x.npy", command="verify")[0] == 2
    code, text = run(*words, "--overwrite", "--json")
    assert code == 0 and json.loads(text)["residual"] < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("place", [100, 4096 + 50, 4096 + 16384 + 50])
def test_a_damaged_checkpoint(run, tmp_path, place):
    words = ["g.h5", "--targets", "y.npy", "-o", "w.npy", "--ridge", "0.1", "--checkpoint", "c"]
    assert run(*words, "--method", "nystrom_pcg")[0] == 0
    data = bytearray((tmp_path / "c").read_bytes())
    data[place] ^= 1
    (tmp_path / "c").write_bytes(data)
    code, text = run("c", command="verify")
    assert code == 4 and "WRONG" in text and " damaged\n" in run("c", command="info")[1]


@pytest.mark.slow
def test_a_kernel_that_is_not_stored(run):
    words = ["x.npy", "--depth", "3", "--w-std", "1.2", "--targets", "y.npy", "-o", "w.npz"]
    code, text = run(*words, "--ridge", "0.1", "--ridge", "2", "--method", "nystrom_pcg")
    assert code == 0 and "2 × 40 × 2" in text
    with np.load("w.npz") as file:
        assert file["ridge"].tolist() == [0.1, 2]
        for found, ridge in zip(file["weights"], (0.1, 2), strict=True):
            assert np.abs(found - exact(ridge)).max() < 1e-4


@pytest.mark.slow
def test_classes(run, tmp_path):
    labels = np.array(["cat", "dog"])[np.arange(N) % 2]
    (tmp_path / "y.csv").write_text("\n".join(["kind", *labels]))
    code, _ = run("g.h5", "--targets", "y.csv:kind", "-o", "w.csv", "--ridge", "0.1")
    assert code == 0
    assert (tmp_path / "w.csv").read_text().splitlines()[0] == "cat,dog"


@pytest.mark.parametrize(
    ("words", "text"),
    marked(
        pytest.mark.slow,
        [
            (["g.h5", "-o", "w.npy", "--checkpoint", "w.npy"], "is named twice"),
            (
                ["g.h5", "-o", "w.npy", "--checkpoint", "g.h5", "--overwrite"],
                "read by this command",
            ),
            (["g.h5", "-o", "w.npy", "--w-std", "1"], "give its --depth too"),
            (["g.h5", "-o", "w.csv", "--ridge", "2"], "a table has one solution"),
            (["g.h5", "-o", "w.txt"], "its ending must be one of"),
            (["none.h5", "-o", "w.npy"], "none.h5"),
            (["g.h5", "-o", "w.npy", "--tolerance", "2"], "tolerance must be"),
            (["g.h5", "-o", "w.npy", "--parts", "2000"], "so at most"),
        ],
    ),
)
def test_mistakes_get_one_line(run, tmp_path, words, text):
    code, found = run(*words, "--targets", "y.npy", "--ridge", "0.1")
    assert code == 2 and text in found and len(found.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.h5", "x.npy", "y.npy"]
