"""The command ``spectrum``."""

import json
import subprocess

import numpy as np
import pytest
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.cli import program as cli
from ntk_numba.linalg import spectrum as module

X = np.random.default_rng(3).standard_normal((90, 4))
NET = nk.MLP(3, "relu", 1.0, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("spectra")
    np.save(path / "x.npy", X)
    np.save(path / "y.npy", np.column_stack([X[:, 0], X[:, 1] ** 2]))
    nk.write_gram(NET, X, path / "gram.h5").close()
    return path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main(["spectrum", *arguments])
        answer = subprocess.CompletedProcess(arguments, end.value.code or 0, *capsys.readouterr())
        assert answer.returncode == code, answer.stderr
        return answer

    return run


def test_json_and_text(run, monkeypatch):
    exact = np.linalg.eigvalsh(nk.gram(NET, X).ntk)[::-1]
    options = ("-k", "3", "--ridge", "0.5", "--ridge", "0", "--targets", "y.npy")
    facts = json.loads(run("gram.h5", *options, "--json").stdout)
    assert facts["values"] == pytest.approx(exact[:3]) and facts["exact"]
    at, without = facts["ridges"]
    assert at["effective_dimension"] == pytest.approx(
        {"value": (exact / (exact + 0.5)).sum(), "error": 0}
    )
    assert at["log_det"]["value"] == pytest.approx(np.log(exact + 0.5).sum())
    assert "effective_dimension" not in without
    assert without["condition"]["least"] == pytest.approx(exact[0] / exact[-1], rel=1e-6)
    assert np.shape(facts["share"]) == (3, 2) and len(facts["total"]) == 3
    text = run("gram.h5", *options).stdout
    assert "eigenvalue 3" in text and "% of the targets so far" in text
    assert "with a ridge of 0.5\n  effective dimension" in text
    monkeypatch.setattr(module, "DENSE", 20)
    net = ("--depth", "3", "--b-std", "0.1")
    facts = json.loads(run("x.npy", *net, "-k", "2", "--ridge", "0", "--json").stdout)
    assert facts["values"] == pytest.approx(exact[:2], rel=1e-6)
    assert not facts["exact"] and facts["ridges"][0]["condition"]["largest"] is None
    text = run("gram.h5", "-k", "25", "--probes", "25", "--ridge", "0.5").stdout
    assert " ± " in text and "5 more with --json" in text and ", at most " in text


@pytest.mark.slow
def test_a_picture(run, folder):
    run("gram.h5", "-k", "3", "--targets", "y.npy", "--plot", "out.png")
    assert (folder / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("missing.h5",), "missing.h5 does not exist"),
        (("gram.h5", "-k", "0"), "k must be at least 1"),
        (("gram.h5", "--ridge", "-1"), "--ridge must be finite and not negative"),
        (("gram.h5", "--kernel", "nngp"), "no nngp"),
        (("gram.h5", "--plot", "a.xyz"), "its ending must be one of"),
        (("gram.h5", "--b-std", "1"), "give its --depth too"),
        (("gram.h5", "--targets", "x.npz"), "x.npz"),
    ],
)
def test_mistakes(run, arguments, text):
    answer = run(*arguments, code=2)
    assert text in answer.stderr and not answer.stdout
