"""Hostile names in scripts for Slurm: the words that arrive are the words that were given."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from marks import marked
from programs import ENVIRONMENT, own_process_kept

from ntk_numba.cli import program as cli
from ntk_numba.cli.options import make_parser

# Stand-ins: sbatch saves its words and runs the script; srun saves its words, separated by zeros
SBATCH = """#!/bin/bash
count=$(ls "$OUT" | grep -c options)
printf '%s\\0' "$@" > "$OUT/options-$count"
cat > "$OUT/script-$count"
SLURM_ARRAY_TASK_ID=1 OUT="$OUT/words-$count" bash "$OUT/script-$count" > /dev/null
echo 7
"""
SRUN = """#!/bin/bash
printf '%s\\0' "$@" > "$OUT"
"""

NAMES = [
    b"plain",
    b"with space",
    b"-dash",
    b"--overwrite",
    b"--",
    b'it\'s "quoted"',
    b"$HOME `id` $(id) !! ~ {a,b} #;&|<>()",
    b"~",
    b"back\\slash\\",
    b"star*[a-z]?",
    b"a.part-*-of-2",
    b"a.part-1-of-2.part-*",
    b"100%j%A%%",
    b"\xff\xfe\x80bytes",
    b"caf\xe9",
    "Σ 中文 é".encode(),
    "\u202egnp".encode(),
    b"\x1b]0;pwn\x07\x01\x7f\t",
    b"END_OF_JOB",
    b"a:b",
    b"=x",
    b"'",
    b"$'\\n'",
    b"-1*relu",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder that is the current one, and has programs and a place for what they save."""
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        program = tmp_path / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def script(capsysbinary, *words, code=0):
    """Return the script that the command prints, and its errors."""
    capsysbinary.readouterr()
    with own_process_kept(), pytest.raises(SystemExit) as end:
        cli.main(["slurm", "--parts", "2", "--cpus", "1", "--time", "20", *words])
    text, said = capsysbinary.readouterr()
    assert (end.value.code or 0) == code, said
    return text, said.decode()


def arrived(place, text):
    """Run a script; return the options of sbatch and the commands of both jobs."""
    (place / "gram.sh").write_bytes(text)
    path = f"{place / 'programs'}:{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", place / "gram.sh"], env=os.environ | {"PATH": path, "OUT": str(place / "out")},
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    assert answer.returncode == 0 and answer.stderr == b"", answer.stderr

    def words(name):
        return [os.fsdecode(w) for w in (place / "out" / name).read_bytes().split(b"\0")[:-1]]

    return [(words(f"options-{k}"), words(f"words-{k}")) for k in range(2)]


def understood(words):
    """Return the options that the words of a command stand for, after those of srun."""
    assert words[2] == "ntk-numba"
    return make_parser().parse_args(words[3:])


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(name, place, capsysbinary):
    data, target = os.fsdecode(name + b".npy"), os.fsdecode(name + b".h5")
    np.save(data, np.random.default_rng(0).standard_normal((600, 2)))
    for stem in (name, b"other"):
        for k in (1, 2):
            Path(os.fsdecode(stem + b".part-%d-of-2.h5" % k)).touch()
    text, _ = script(
        capsysbinary, f"--output={target}", "--against", f"./{data}", "--depth=2",
        "--activation=-1*relu", "--b-std=0.5", f"--logs={target.replace(chr(92), '')}-logs", "--",
        data,
    )  # fmt: skip
    text.decode()  # whatever the bytes of the names, the script is text
    (options, part), (_, merge) = arrived(place, text)
    found = understood(part)
    assert Path(found.data).samefile(data) and found.output == target
    assert found.against == f"./{data}" and found.activation == ["-1*relu"] and found.part == "1/2"
    found = understood(merge)
    given = {os.path.normpath(part) for part in found.parts}
    assert given == {os.fsdecode(name + b".part-%d-of-2.h5" % k) for k in (1, 2)}
    assert found.output == target
    logs = target.replace("\\", "") + "-logs"
    assert Path(logs).is_dir() and f"--output={logs.replace('%', '%%')}/%A_%a.out" in options


def test_names_of_parts_that_are_too_long(place, capsysbinary):
    np.save("x.npy", np.random.default_rng(0).standard_normal((600, 2)))
    target = "g" * 228 + ".h5"  # it has no room for .part-1-of-2
    text, said = script(capsysbinary, "x.npy", f"--output={target}", "--depth=2", code=2)
    assert not text and "part-2-of-2.h5 is too long" in said


@pytest.mark.parametrize("name", marked(pytest.mark.slow, NAMES, NAMES[::4]))
def test_names_of_jobs_and_folders(name, place, capsysbinary):
    text = os.fsdecode(name)
    Path(text).mkdir()
    np.save("x.npy", np.random.default_rng(0).standard_normal((600, 2)))
    out, _ = script(
        capsysbinary, "x.npy", f"--output={text}/g.h5", "--depth=2", f"--name={text}",
        f"--partition={text}", f"--account={text}", f"--qos={text}",
        f"--setup=true {'x' if name.endswith(b'x') else ''}",
    )  # fmt: skip
    for options, words in arrived(place, out):
        assert understood(words).output == f"{text}/g.h5"
        expected = {f"--{key}={text}" for key in ("job-name", "partition", "account", "qos")}
        assert expected <= set(options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--logs", "a\\b"], "except in paths with a backslash"),
        (["--logs", ""], "cannot be the folder for logs"),
        (["--logs", "x.npy"], "x.npy is not a folder"),
        (["--logs", "a\nb"], "line break"),
        (["--name", ""], "the name of the jobs is empty"),
        (["--sbatch", "script.sh"], "'script.sh' would be the name of a script"),
        (["--sbatch=-- x"], "no option of sbatch"),
        (["--sbatch=-C 'a"], "has a mistake: No closing quotation"),
        (["--setup", "echo 'a"], "the shell cannot run the setup"),
        (["--setup", "if true"], "the shell cannot run the setup"),
        (["--setup", "cat <<X"], "the shell cannot run the setup"),
        (["--setup", "module load python \\"], "a backslash at the end"),
        (["--setup", "fi"], "the shell cannot run the setup"),
        (["--setup", "f() {"], "the shell cannot run the setup"),
    ],
)
def test_what_cannot_run_is_refused(words, said, place, capsysbinary):
    np.save("x.npy", np.random.default_rng(0).standard_normal((600, 2)))
    text, why = script(capsysbinary, "x.npy", "-o", "g.h5", "--depth=2", *words, code=2)
    assert text == b"" and said in why and why.count("\n") == 1


def test_setup_of_several_lines(place, capsysbinary):
    np.save("x.npy", np.random.default_rng(0).standard_normal((600, 2)))
    setup = ("if true; then", "touch 'a\\'; fi", "b=\\\\")
    text, _ = script(
        capsysbinary, "x.npy", "-o", "g.h5", "--depth=2", *(f"--setup={line}" for line in setup)
    )
    arrived(place, text)
    assert Path("a\\").exists()


@pytest.mark.parametrize("locale", marked(pytest.mark.slow, ["C", "POSIX", "C.UTF-8"]))
@pytest.mark.parametrize("encoding", marked(pytest.mark.slow, ["ascii", "utf-8", "latin-1"]))
def test_the_bytes_do_not_depend_on_the_terminal(locale, encoding, place):
    np.save("Σ é.npy", np.random.default_rng(0).standard_normal((600, 2)))
    words = ["slurm", "Σ é.npy", "-o", "中.h5", "--depth=2", "--parts=2", "--cpus=1", "--time=20"]
    answer = subprocess.run(
        [sys.executable, "-m", "ntk_numba", *words], capture_output=True,
        env=ENVIRONMENT | {"LC_ALL": locale, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (_, part), (_, merge) = arrived(place, answer.stdout)
    assert understood(part).data == "Σ é.npy" and understood(merge).output == "中.h5"
