"""``ntk-numba fit`` and ``predict`` with matrices that do not fit in memory."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import ENVIRONMENT, PATIENCE, own_process_kept, start

import ntk_numba as nk
from ntk_numba.cli import program as cli
from ntk_numba.predict import factors, fitting

NET = ["--depth", "3", "--b-std", "0.1"]
NETWORK = nk.MLP(3, b_std=0.1)
RNG = np.random.default_rng(0)
X, NEW = RNG.standard_normal((150, 3)), RNG.standard_normal((9, 3))
Y = np.column_stack([X[:, 0] - X[:, 1] ** 2, np.sin(X[:, 2])])


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in this process, where no matrix fits in memory; return what it printed."""
    for name, array in (("x", X), ("y", Y), ("new", NEW)):
        np.save(tmp_path / f"{name}.npy", array)
    monkeypatch.chdir(tmp_path)
    for module in (fitting, factors):
        monkeypatch.setattr(module, "fits", lambda *_, **__: False)

    def run(*words, code=0):
        capsys.readouterr()
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main(words)
        answer = capsys.readouterr()
        assert (end.value.code or 0) == code, answer.err
        return answer.err if code else answer.out

    return run


def fit(output, method, *more):
    """Return the words of a fit."""
    common = ["--targets", "y.npy", "--ridge", "1e-3", "--method", method, "--tolerance", "1e-10"]
    return ["fit", "x.npy", "-o", output, *NET, *common, *more]


def test_fit_and_predict(run):
    wanted = nk.gaussian_process(NETWORK, X, Y, kernel="ntk", noise=1e-3, method="nystrom_pcg")
    wanted = wanted.predict(NEW, return_std=True)
    for method in ("cholesky", "nystrom_pcg"):
        if method == "nystrom_pcg":
            Path(f"{method}.h5.scratch.partial").touch()  # of a factorisation that was stopped
        out = run(*fit(f"{method}.h5", method))
        assert "leave-one-out" not in out
        assert (" by nystrom_pcg" in out) == (method == "nystrom_pcg")
        run("predict", f"{method}.h5", "new.npy", "-o", f"{method}.npy", "--std")
        assert np.abs(np.load(f"{method}.npy") - wanted[0]).max() < 1e-4
        assert np.abs(np.load(f"{method}.std.npy") - wanted[1]).max() < 1e-4
    assert np.abs(np.load("cholesky.npy") - np.load("nystrom_pcg.npy")).max() < 1e-8
    assert np.abs(np.load("cholesky.std.npy") - np.load("nystrom_pcg.std.npy")).max() < 1e-8
    assert not list(Path().glob("*scratch*"))


def test_scratch_that_is_named_stays(run):
    out = run(*fit("m.h5", "cholesky", "--scratch", "factor", "--json"))
    assert json.loads(out)["method"] == "cholesky"
    before = Path("factor").stat().st_ino
    run("predict", "m.h5", "new.npy", "-o", "p.npy", "--std", "--scratch", "factor")
    run(*fit("n.h5", "auto", "--scratch", "factor"))  # it is complete
    assert Path("factor").stat().st_ino == before
    np.testing.assert_array_equal(nk.load_model("m.h5").dual_coef, nk.load_model("n.h5").dual_coef)
    said = run(*fit("o.h5", "cholesky", "--scratch", "factor", "--ridge", "1e-2"), code=2)
    assert "factor" in said and "ridge" in said and not Path("o.h5").exists()
    run(*fit("o.h5", "cholesky", "--scratch", "factor", "--ridge", "1e-2", "--overwrite"))
    for scratch in ("x.npy", "y.npy"):
        said = run(*fit("q.h5", "cholesky", "--scratch", scratch), code=2)
        assert "is read by this command" in said


@pytest.mark.slow
def test_a_process(run):
    words = [word for word in fit("p.h5", "nystrom_pcg", "--process") if word != "--ridge"]
    words[words.index("1e-3")] = "--noise=1e-3"
    out = run(*words)
    assert "log evidence" not in out and "noise" in out
    words[words.index("p.h5")], words[words.index("nystrom_pcg")] = "c.h5", "cholesky"
    assert "log evidence" in run(*words)


def test_what_cannot_be_done_is_said(run):
    said = run(*fit("m.h5", "block_krylov", "--ridge", "loo"), code=2)
    assert "give a number" in said
    said = run(*fit("m.h5", "nystrom_pcg", "--memory", "1MB"), code=2)
    assert "memory=488 KiB is too little" in said and "488 KiB is half of memory='1MB'" in said
    assert sorted(p.name for p in Path().iterdir()) == ["new.npy", "x.npy", "y.npy"]


@pytest.mark.system
@pytest.mark.parametrize(
    ("method", "number"), [("cholesky", signal.SIGKILL), ("nystrom_pcg", signal.SIGTERM)]
)
def test_a_fit_that_is_killed_goes_on(tmp_path, method, number):
    rng, count = np.random.default_rng(0), 2600 if method == "cholesky" else 1200
    np.save(tmp_path / "x.npy", rng.standard_normal((count, 20)))
    np.save(tmp_path / "y.npy", rng.standard_normal((count, 2)))
    command = [sys.executable, "-m", "ntk_numba", *fit("m.h5", method)]
    memory = ["--memory", "44MB"] if method == "cholesky" else ["--scratch", "m.h5.scratch"]

    def finish(folder):
        done = subprocess.run(
            [*command, *memory], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    finish(tmp_path)
    wanted = nk.load_model(tmp_path / "m.h5")
    for path in tmp_path.glob("m.h5*"):
        path.unlink()
    process = start([sys.executable, "-c", STARTER, str(tmp_path), *command[3:], *memory])
    end = time.monotonic() + PATIENCE
    scratch = "m.h5.scratch.partial" if method == "cholesky" else "m.h5.scratch"
    while not (tmp_path / scratch).exists():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.002)
    time.sleep(0.05)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (3 if number == signal.SIGTERM else -number)
    assert not (tmp_path / "m.h5").exists() and list(tmp_path.glob("m.h5.scratch*"))
    finish(tmp_path)
    found = nk.load_model(tmp_path / "m.h5")
    np.testing.assert_array_equal(found.dual_coef, wanted.dual_coef)
    assert found.method == method
    assert len(list(tmp_path.glob("m.h5.scratch*"))) == (method == "nystrom_pcg")


STARTER = """
import os, sys
os.chdir(sys.argv[1])
from ntk_numba.cli.program import main
main(sys.argv[2:])
"""
