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
    """Run the command in this process, in a folder with a Gram file; return code and output."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 3))
    np.save("x.npy", x)
    np.save("y.npy", rng.standard_normal((N, 2)))
    nk.write_gram(nk.MLP(3, w_std=1.2), x, "g.h5").close()

    def run(*words):
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main(["solve", *words])
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
    code, text = run(*words)
    assert code == 0 and "w.npy: weights 40 × 2" in text and "method     block_krylov" in text
    assert np.abs(np.load("w.npy") - exact(0.1)).max() < 1e-7
    assert "exists already" in run(*words)[1]
    code, text = run(*words, "--overwrite", "--json")
    assert code == 0 and json.loads(text)["residual"] < 1e-9


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
        ],
    ),
)
def test_mistakes_get_one_line(run, words, text):
    code, found = run(*words, "--targets", "y.npy", "--ridge", "0.1")
    assert code == 2 and text in found and len(found.splitlines()) == 1
