"""What happens to the output does not change how a command has ended."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from marks import marked
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba import stopping
from ntk_numba.cli import commands
from ntk_numba.cli import program as cli

OUTPUTS = ["gone", "full", "closed", "none"]
GRAM = ["gram", "x.npy", "-o", "g.h5", "--depth", "2", "--overwrite"]


def output(kind):
    """Return a stream: a pipe whose reader has left, a full disk, or a closed stream."""
    if kind == "none":
        return None
    if kind == "full":
        return Path("/dev/full").open("w")
    ends = os.pipe()
    os.close(ends[0])
    stream = os.fdopen(ends[1], "w")
    if kind == "closed":
        stream.close()
    return stream


@pytest.fixture
def folder(tmp_path, points, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", points)
    for name in ("good.h5", "bad.h5"):
        nk.write_gram(nk.MLP(2), points, name).close()
    with h5py.File("bad.h5", "r+") as file:
        file["ntk"][3, 3] *= 2
    return tmp_path


def ends(monkeypatch, kind, words):
    """Return the exit code of a command whose output is of this kind."""
    stream = output(kind)
    with own_process_kept(), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as end:
            cli.main(words)
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()
    return end.value.code or 0


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["verify", "bad.h5"], 4), (["verify", "good.h5"], 0), (["info", "good.h5"], 0),
        (["info", "missing.h5"], 2), (["plan", "x.npy", "--depth", "0", "-o", "g.h5"], 2),
        (["verify"], 2), (["--help"], 0), (GRAM, 0), (["activations", "--json"], 0),
    ],
)  # fmt: skip
def test_exit_codes_whatever_happens_to_the_output(folder, monkeypatch, capfd, kind, words, code):
    lost = kind == "full" and code != 2 and words[0] != "gram"  # there is no result but the output
    assert ends(monkeypatch, kind, words) == (2 if lost and code == 0 else code)
    said = capfd.readouterr().err
    assert ("cannot be printed to standard output: No space left on device" in said) == lost
    assert "Traceback" not in said and "Exception ignored" not in said


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (stopping.StopRequested(), 3), (nk.StoppedError("stopped"), 3), (OSError("no"), 2),
        (BrokenPipeError("a worker has died"), 2), (MemoryError(), 2),
    ],
)  # fmt: skip
def test_work_that_did_not_end(folder, monkeypatch, kind, error, code):
    def work(options):
        print("a line" * 10_000)
        raise error

    monkeypatch.setattr(commands, "info", work)
    assert ends(monkeypatch, kind, ["info", "good.h5"]) == code


WHERE = ["| (exec 0<&-; sleep 2)", ">/dev/full", ">&-", "| true"]


@pytest.mark.parametrize("where", marked(pytest.mark.system, WHERE))
def test_a_failed_check_in_a_pipeline(folder, where):
    command = f"{{ {sys.executable} -m ntk_numba verify bad.h5; echo $? >code; }} {where}"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (folder / "code").read_text() == "4\n"
    assert ("cannot be printed" in answer.stderr) == ("full" in where)
    assert answer.stderr.count("\n") == ("full" in where)


@pytest.mark.parametrize("asked", [False, True])
def test_what_cannot_be_raised_is_shown_unless_the_command_stops(monkeypatch, capsys, asked):
    class HalfMade:
        def __del__(self):
            raise AttributeError("not made yet")

    monkeypatch.setattr(sys, "unraisablehook", cli._unraisable)
    monkeypatch.setattr(stopping, "_asked", asked)
    HalfMade()
    assert ("not made yet" in capsys.readouterr().err) is not asked
