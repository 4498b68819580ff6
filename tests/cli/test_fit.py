"""`ntk-numba fit` and `predict`, as a user calls them."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from programs import ENVIRONMENT, own_process_kept

import ntk_numba as nk
from ntk_numba.cli import program as cli

RNG = np.random.default_rng(0)
X, NEW = RNG.standard_normal((40, 3)), RNG.standard_normal((9, 3))
Y = np.column_stack([X[:, 0] - X[:, 1] ** 2, np.sin(X[:, 2])])
WORDS = np.where(Y[:, 0] > 0, "hi", np.where(Y[:, 1] > 0, "lo, x", "ä"))
NET = ["--depth", "3", "--b-std", "0.1"]
NETWORK = nk.MLP(3, b_std=0.1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    np.save(folder / "new.npy", NEW)
    np.save(folder / "digit.npy", np.arange(40) % 3)
    with (folder / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "u", "v", "label"])
        writer.writerows([*x, *y, w] for x, y, w in zip(X, Y, WORDS, strict=True))
    return folder


@pytest.fixture
def run(files, tmp_path, monkeypatch, capsys):
    """Run the command in this process, in a folder with the data; return what it has printed."""
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
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


@pytest.fixture
def folder(run, tmp_path):
    return tmp_path


def names(folder):
    return {path.name for path in folder.iterdir() if not path.is_symlink()}


def test_a_regression(run, folder):
    out = run("fit", "x.npy", "--targets", "y.npy", "-o", "m.h5", *NET, "--ridge", "1e-3")
    model = nk.kernel_ridge(NETWORK, X, Y, ridge=1e-3)
    rmse = np.sqrt(np.mean(model.leave_one_out().residual ** 2, axis=0))
    assert out.splitlines()[0] == "m.h5: kernel ridge, ntk, depth 3, activation relu, w_std 1, " \
        "b_std 0.1"  # fmt: skip
    assert "40 rows, 3 features, 2 targets" in out and "(0.001 of the mean of the diagonal)" in out
    assert f"root mean square error {rmse[0]:.4g}, {rmse[1]:.4g}" in out
    assert run("predict", "m.h5", "new.npy", "-o", "p.npy") == "p.npy: mean of 9 samples\n"
    assert (np.load("p.npy") == model.predict(NEW)).all()
    run("predict", "m.h5", "new.npy", "-o", "s.npy", "--std")
    process = nk.gaussian_process(NETWORK, X, Y, kernel="ntk", noise=1e-3)
    mean, std = process.predict(NEW, return_std=True)
    assert np.allclose(np.load("s.npy"), mean, rtol=1e-10)
    assert np.allclose(np.load("s.std.npy"), std, rtol=1e-10)
    run("predict", "m.h5", "new.npy", "-o", "s.npz", "--std")
    with np.load("s.npz") as archive:
        assert set(archive) == {"mean", "std"} and (archive["mean"] == np.load("s.npy")).all()
    run("predict", "m.h5", "new.npy", "-o", "s.csv", "--std")
    rows = np.genfromtxt("s.csv", delimiter=",", names=True)
    assert rows.dtype.names == ("prediction_0", "prediction_1", "std")
    assert (rows["prediction_1"] == np.load("s.npy")[:, 1]).all()
    assert (rows["std"] == np.load("s.std.npy")).all()
    assert names(folder) == {"m.h5", "p.npy", "s.npy", "s.std.npy", "s.npz", "s.csv"}


def test_columns_of_a_table(run):
    run("fit", "t.csv:a,b,c", "--targets", "t.csv:v", "-o", "m.h5", *NET, "--standardize",
        "--ridge", "loo", "--kernel", "nngp", "--reference")  # fmt: skip
    model = nk.kernel_ridge(
        NETWORK, X, Y[:, 1], ridge="loo", kernel="nngp", preprocess="standardize"
    )
    run("predict", "m.h5", "new.npy", "-o", "p.csv")
    with open("p.csv") as file:  # noqa: PTH123
        header, *rows = csv.reader(file)
    assert header == ["v"]
    assert np.allclose(np.array(rows, float)[:, 0], model.predict(NEW), rtol=1e-12)
    facts = json.loads(run("info", "m.h5", "--json"))
    assert facts["targets"] == ["v"] and facts["chosen_by"] == "loo" and facts["standardized"]
    assert facts["data"].endswith("t.csv:a,b,c") and facts["net"] == NETWORK.to_dict()


def test_classes_of_text(run):
    out = run("fit", "t.csv:a,b,c", "--targets", "t.csv:label", "-o", "m.h5", *NET)
    targets, classes = nk.one_hot(WORDS)
    model = nk.kernel_ridge(NETWORK, X, targets)
    right = (model.leave_one_out().mean.argmax(1) == targets.argmax(1)).sum()
    assert "3 classes" in out and f"{right} of 40 classes right, {100 * right / 40:.1f} %" in out
    run("predict", "m.h5", "new.npy", "-o", "p.npy")
    labels = classes[model.predict(NEW).argmax(1)]
    assert (np.load("p.npy") == labels).all()
    run("predict", "m.h5", "new.npy", "-o", "p.csv")
    with open("p.csv") as file:  # noqa: PTH123
        assert list(csv.reader(file)) == [["label"], *[[label] for label in labels]]
    run("predict", "m.h5", "new.npy", "-o", "s.npz", "--scores")
    assert (np.load("s.npz")["scores"] == model.predict(NEW)).all()
    run("predict", "m.h5", "new.npy", "-o", "q.npy", "--proba")
    assert np.allclose(np.load("q.npy").sum(axis=1), 1) and np.load("q.npy").shape == (9, 3)


def test_classes_that_are_numbers(run):
    out = run("fit", "x.npy", "--targets", "digit.npy", "-o", "m.h5", *NET, "--classes", "--json")
    facts = json.loads(out)
    assert facts["classes"] == [0, 1, 2] and 0 <= facts["loo_accuracy"] <= 1
    run("predict", "m.h5", "new.npy", "-o", "p.npy")
    assert np.load("p.npy").dtype == np.int64
    assert "1 target" in run("fit", "x.npy", "--targets", "digit.npy", "-o", "r.h5", *NET)
    words = ["fit", "x.npy", "--targets", "digit.npy", "-o", "n.h5", *NET, "--ridge", "-1"]
    assert "3 different whole numbers, which are fitted as numbers; --classes" in run(
        *words, code=2
    )


def test_a_process(run):
    words = ["fit", "x.npy", "--targets", "y.npy", *NET, "--process"]
    facts = json.loads(run(*words, "-o", "m.h5", "--noise", "evidence", "--json"))
    process = nk.gaussian_process(NETWORK, X, Y, noise="evidence")
    assert facts["kernel"] == "nngp" and facts["chosen_by"] == "evidence"
    assert np.isclose(facts["log_marginal_likelihood"], process.log_marginal_likelihood)
    run(*words, "-o", "e.h5", "--kernel", "ensemble")
    run("predict", "e.h5", "new.npy", "-o", "p.npz", "--std")
    mean, std = nk.load_model("e.h5").predict(NEW, return_std=True)
    with np.load("p.npz") as archive:
        assert (archive["mean"] == mean).all() and (archive["std"] == std).all()


def test_a_matrix_that_is_there_already(run):
    nk.write_gram(NETWORK, X, "g.h5").close()
    words = ["fit", "x.npy", "--targets", "y.npy", "-o", "m.h5", "--gram", "g.h5"]
    run(*words, *NET)
    assert np.allclose(nk.load_model("m.h5").predict(NEW), nk.kernel_ridge(NETWORK, X, Y)
                       .predict(NEW), rtol=1e-12)  # fmt: skip
    said = run(*words, "--depth", "4", "--overwrite", code=2)
    assert "gram is of another network" in said


def test_verify(run):
    run("fit", "x.npy", "--targets", "y.npy", "-o", "m.h5", *NET)
    assert run("verify", "m.h5").startswith("ok")
    assert run("verify", "m.h5", "--data", "x.npy").count("ok") == 2
    np.save("other.npy", np.vstack([X[:5], X[5:] + 1e-12]))
    run("verify", "m.h5", "--data", "other.npy", code=4)
    assert "is a model; --repair" in run("verify", "m.h5", "--data", "x.npy", "--repair", code=2)
    with open("m.h5", "r+b") as file:  # noqa: PTH123
        file.seek(-30, os.SEEK_END)
        file.write(b"?")
    assert run("verify", "m.h5", code=4).startswith("WRONG  m.h5 is damaged or truncated")
    for command in (
        ["info", "m.h5"],
        ["predict", "m.h5", "x.npy", "-o", "p.npy"],
    ):
        assert "m.h5 is damaged or truncated" in run(*command, code=2)


FIT = ["fit", "x.npy", "--targets", "y.npy", "-o", "m.h5", *NET]
WRONG = [
    (["--targets", "new.npy"], "new.npy has 9 rows, and X has 40; give one row of targets"),
    (["--targets", "none.npy"], "none.npy does not exist"),
    (["--targets", "nan.npy"], "nan.npy: row 7 (counted from 0) is nan"),
    (["--targets", "t.csv:b,label"], "columns of numbers and columns of text"),
    (["--targets", "one.npy"], "all samples are of one class"),
    (["--classes"], "has 2 columns, and class labels are one"),
    (["--ridge", "-1"], "ridge must be finite and not negative"),
    (["--ridge", "much"], "--ridge must be a number, loo or evidence, not much"),
    (["--noise", "1"], "--noise is of a Gaussian process: add --process"),
    (["--process", "--ridge", "1"], "--process has a --noise, not a --ridge"),
    (["--kernel", "ensemble"], "add --process"),
    (["-o", "none/m.h5"], "does not exist; create it first"),
    (["-o", "new.npy"], "new.npy exists already; choose another output"),
    (["-o", "x.npy", "--overwrite"], "x.npy is read by this command; choose another output"),
    (["-o", "y.npy", "--overwrite"], "y.npy is read by this command; choose another output"),
    (["--memory", "1KiB"], "memory"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_arguments_of_fit(run, folder, words, message):
    nan = Y[:, 0].copy()
    nan[7] = np.nan
    np.save("nan.npy", nan)
    np.save("one.npy", np.full(40, "a"))
    assert message in run(*FIT, *words, code=2)
    assert names(folder) == {"nan.npy", "one.npy"}


def test_wrong_arguments_of_predict(run, folder):
    run(*FIT)
    np.save("wide.npy", np.ones((2, 4)))
    np.save("nan.npy", np.array([[0, 0, 0], [0, np.nan, 0]]))
    before = names(folder)
    for words, message in [
        (["x.npy", "-o", "p.txt"], "p.txt: its ending must be one of .npy, .npz, .csv"),
        (["wide.npy", "-o", "p.npy"], "wide.npy has 4 features, and the model was trained with 3"),
        (["nan.npy", "-o", "p.npy"], "nan.npy: row 1, column 1 (counted from 0) is nan"),
        (["x.npy", "-o", "wide.npy"], "wide.npy exists already"),
        (["x.npy", "-o", "x.npy", "--overwrite"], "x.npy is read by this command"),
        (["x.npy", "-o", "p.npy", "--proba"], "m.h5 is a regression; --scores and --proba are"),
        (["x.npy", "-o", "p.npy", "--memory", "1KiB"], "memory"),
    ]:
        assert message in run("predict", "m.h5", *words, code=2)
    assert "x.npy is no model that ntk_numba has written" in run(
        "predict", "x.npy", "x.npy", "-o", "p.npy", code=2
    )
    assert names(folder) == before


def test_predictions_replace_nothing_that_they_need(run, folder):
    run(*FIT, "--reference")
    np.save("p.std.npy", NEW)
    for words in (["-o", "x.npy"], ["-o", "p.npy", "--std"]):
        said = run("predict", "m.h5", "p.std.npy", *words, "--overwrite", code=2)
        assert "is read by this command; choose another output" in said
    assert (np.load("x.npy") == X).all() and (np.load("p.std.npy") == NEW).all()


@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_targets_of_any_size(run, unit):
    np.save("one.npy", Y[:, 0])
    np.save("far.npy", Y[:, 0] * unit)
    words = ["fit", "x.npy", "-o", "m.h5", *NET, "--json", "--overwrite", "--targets"]
    right, found = (json.loads(run(*words, name))["loo_rmse"][0] for name in ("one.npy", "far.npy"))
    assert found / unit == pytest.approx(right, rel=1e-10)


def test_output_is_replaced_only_if_it_is_wanted(run):
    run(*FIT)
    before = nk.load_model("m.h5").ridge
    assert "exists already" in run(*FIT, "--ridge", "1", code=2)
    run(*FIT, "--ridge", "1", "--overwrite")
    assert nk.load_model("m.h5").ridge > 1e5 * before


KILLED = """
import os, signal, sys
from ntk_numba.cli import main
from ntk_numba.gramfile import disk
if sys.argv[1] == "kill":
    disk.sync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "stop":
    write = disk.write_at
    def write_at(fd, block, at):
        if at > 600:
            os.kill(os.getpid(), signal.SIGTERM)
        write(fd, block, at)
    disk.write_at = write_at
main(sys.argv[2:])
"""


@pytest.mark.system
@pytest.mark.parametrize(("how", "code"), [("kill", -signal.SIGKILL), ("stop", 3)])
def test_a_fit_that_is_stopped_leaves_no_model(run, folder, how, code):
    run(*FIT)
    right = (folder / "m.h5").read_bytes()
    (folder / "m.h5").unlink()
    command = [sys.executable, "-c", KILLED, how, *FIT]
    answer = subprocess.run(command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    left = {"m.h5.partial.new", "m.h5.partial.lock"} if how == "kill" else set()
    assert names(folder) == left
    run(*FIT)
    assert (folder / "m.h5").read_bytes() == right and names(folder) == {"m.h5"}
