"""What is printed: escapes for names of others, and the verdict whatever happens to the output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from marks import marked
from programs import ENVIRONMENT, own_process_kept

import ntk_numba as nk
from ntk_numba.cli import program as cli
from ntk_numba.gramfile.formats import GRAM
from ntk_numba.terminal import escaped

HARM = "\x1b]0;x\x07\x9b\u202e\udcff\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a good and a bad Gram file."""
    monkeypatch.chdir(tmp_path)
    for name in ("good.h5", "bad.h5"):
        nk.write_gram(nk.MLP(2), np.random.default_rng(0).standard_normal((100, 3)), name)
    with h5py.File("bad.h5", "r") as file:
        at = file["ntk"].id.get_chunk_info(0).byte_offset
    with (tmp_path / "bad.h5").open("r+b") as file:
        file.seek(at + 4096)
        file.write(b"damage")
    return tmp_path


COMMANDS = {
    "a failed check": (["verify", "bad.h5"], 4, 4),
    "a passed check": (["verify", "good.h5"], 0, 2),
    "facts": (["info", "good.h5"], 0, 2),
    "many lines": (["activations", "--json"], 0, 2),
    "bad input": (["info", "none.h5"], 2, 2),
    "a picture": (["plot", "good.h5", "-o", "good.png"], 0, 0),
}


@pytest.mark.parametrize("where", ["reader has gone", "disk is full", "closed"])
@pytest.mark.parametrize("which", marked(pytest.mark.slow, COMMANDS))
def test_the_verdict_is_that_of_the_command(which, where, place):
    words, code, not_printed = COMMANDS[which]
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    answer = subprocess.run(
        [sys.executable, "-m", "ntk_numba", *words], env=ENVIRONMENT, stderr=subprocess.PIPE,
        stdout={"reader has gone": writer, "disk is full": full, "closed": None}[where],
        preexec_fn=(lambda: os.close(1)) if where == "closed" else None,
    )  # fmt: skip
    os.close(writer)
    os.close(full)
    assert answer.returncode == (not_printed if where == "disk is full" else code)
    said = answer.stderr.decode()
    assert "Traceback" not in said and "Exception" not in said
    assert ("the results cannot be printed to standard output: No space left" in said) == (
        where == "disk is full" and which not in ("bad input", "a picture")
    )


@pytest.fixture
def run(place, capsys):
    """Run the command in this process, and check that nothing harmful is printed."""

    def run(*words, code=0):
        capsys.readouterr()
        with own_process_kept(), pytest.raises(SystemExit) as end:
            cli.main(words)
        said = "".join(capsys.readouterr())
        assert (end.value.code or 0) in ((0, 2) if code is None else (code,)), said
        assert all(escaped(line) == line for line in said.split("\n"))
        return said

    return run


def test_names_of_others_are_escaped(run):
    x = np.random.default_rng(0).standard_normal((100, 3))
    name = f"x{HARM}"
    np.save(f"{name}.npy", x)
    np.savez(f"{name}.npz", **{f"a{HARM[:-2]}": x, "b": x})
    Path(f"{name}.csv").write_text(f"a{HARM[:-2]},b\n1,2\n3,{HARM[:-2]}\n")
    job = ["-o", f"{name}.h5", "--depth=2"]
    run("plan", f"{name}.npy", *job)
    run("gram", f"{name}.npy", *job)
    for words in (["info"], ["info", "--json"], ["verify"], ["verify", "--data", f"{name}.npy"]):
        run(*words, f"{name}.h5")
    for data in (f"{name}.npz", f"{name}.csv", f"{name}.csv:b{HARM}", f"none{HARM}.npy"):
        assert "\\x1b" in run("gram", data, "-o", "k.h5", "--depth=2", code=2)
    run("gram", "x.npy", "-o", "k.h5", "--depth=2", f"--{HARM}", code=2)
    run(HARM, code=2)
    run("activations", HARM, code=2)
    run("merge", f"{HARM}.part-1-of-2.h5", "-o", f"{HARM}/k.h5", code=2)
    run("merge", f"{name}.h5", "-o", "k.h5", code=2)
    run("plot", f"{name}.h5", "-o", f"{HARM}.picture", code=2)


def test_attributes_of_others_are_escaped(run):
    """Who makes a file can compute its seal too."""
    text = HARM[:-2]  # HDF5 keeps no halves of characters
    for key in ("package_version", "processor", "net", "layout", "format"):
        with h5py.File("good.h5", "r+") as file:
            before = file.attrs[key], file.attrs["seal"]
            other = json.loads(before[0]) | {"activation": [text]} if key == "net" else None
            file.attrs[key] = json.dumps(other) if other else text
            file.attrs["seal"] = GRAM.seal(file.attrs)
        run("info", "good.h5", code=None)
        run("verify", "good.h5", code=None)
        with h5py.File("good.h5", "r+") as file:
            file.attrs[key], file.attrs["seal"] = before
    run("verify", "good.h5")
