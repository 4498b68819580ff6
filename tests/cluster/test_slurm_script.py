"""The text of the script for Slurm; `test_slurm.py` runs it."""

import os
import re
import subprocess

import pytest

from ntk_numba.cluster.shell import NamesOfParts
from ntk_numba.cluster.slurm import (
    SlurmOptions,
    minutes_for,
    parts_for,
    slurm_script,
)

GRAM = ["ntk-numba", "gram", "x.npy", "-o", "gram.h5", "--depth", "4"]
MERGE = ["ntk-numba", "merge", NamesOfParts("gram", 64, ".h5"), "-o", "gram.h5"]
LEAST = {
    "parts": 64, "cpus": 4, "memory": 8 << 30, "minutes": 60,
    "merge_cpus": 1, "merge_memory": 4 << 30, "merge_minutes": 60,
}  # fmt: skip

# A stand-in for sbatch, which saves its words, one per line, and the script, and prints a job ID
SBATCH = """#!/bin/bash
printf '%s\\n' "$@" > "$OUT/words-$$"
cat > "$OUT/script-$$"
echo "$$;a-cluster"
"""


def submit(folder, text, *words):
    """Run a script with a stand-in for sbatch; return the output, and the words and scripts."""
    out = folder / "out"
    programs = folder / "programs"
    out.mkdir()
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    (programs / "sbatch").chmod(0o755)
    (folder / "gram.sh").write_text(text)
    answer = subprocess.run(
        ["bash", "gram.sh", *words], cwd=folder, capture_output=True, text=True, check=True,
        env=os.environ | {"OUT": str(out), "PATH": f"{programs}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert answer.stderr == ""
    numbers = re.findall(r"^job (\d+): ", answer.stdout, re.MULTILINE)
    jobs = [
        ((out / f"words-{n}").read_text().splitlines(), (out / f"script-{n}").read_text())
        for n in numbers
    ]
    return answer.stdout, numbers, jobs


def said_by(folder, script, **variables):
    """Return the words of the command that a job's script starts with a stand-in for srun."""
    programs = folder / "programs"
    (programs / "srun").write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    (programs / "srun").chmod(0o755)
    answer = subprocess.run(
        ["bash"], input=script, cwd=folder, capture_output=True, text=True, check=True,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"} | variables,
    )  # fmt: skip
    assert answer.stderr == ""
    return answer.stdout.splitlines()


def test_two_jobs(tmp_path):
    said, (array, merge), (part, last) = submit(
        tmp_path, slurm_script(GRAM, MERGE, SlurmOptions(**LEAST))
    )
    assert said == f"job {array}: parts 1-64 of 64\njob {merge}: merges them after job {array}\n"
    assert part[0] == [
        "--parsable", "--array=1-64", "--job-name=gram", "--output=logs/%A_%a.out",
        "--open-mode=append", "--requeue", "--signal=USR1@180", "--nodes=1", "--ntasks=1",
        "--cpus-per-task=4", "--mem=8192M", "--time=60",
    ]  # fmt: skip
    assert last[0] == [
        "--parsable", f"--dependency=afterany:{array}", "--job-name=gram",
        "--output=logs/%j_merge.out", "--open-mode=append", "--requeue", "--signal=USR1@180",
        "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--mem=4096M", "--time=60",
    ]  # fmt: skip
    assert (tmp_path / "logs").is_dir()
    # the scripts of the jobs, without the line that prints where and when they run
    (tmp_path / "gram.part-07-of-64.h5").touch()
    (tmp_path / "gram.part-08-of-64.h5").touch()
    variables = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert said_by(tmp_path, part[1], **variables)[1:] == [
        "--ntasks=1", "--cpus-per-task=4", *GRAM, "--threads", "4", "--part", "7/64",
    ]  # fmt: skip
    assert said_by(tmp_path, last[1])[1:] == [
        "--ntasks=1", "--cpus-per-task=1", "ntk-numba", "merge", "gram.part-07-of-64.h5",
        "gram.part-08-of-64.h5", "-o", "gram.h5",
    ]  # fmt: skip


@pytest.mark.parametrize("words", ["3,17", "--array=3,17"])
def test_some_parts_again(tmp_path, words):
    """The text is that of --array in the errors of merge."""
    text = slurm_script(GRAM, MERGE, SlurmOptions(**LEAST, at_once=2))
    said, (array, _), (part, last) = submit(tmp_path, text, words)
    assert said.startswith(f"job {array}: parts 3,17 of 64\n")
    assert part[0][1] == "--array=3,17%2"
    assert last[0][1] == f"--dependency=afterany:{array}"


@pytest.mark.parametrize(
    ("options", "words", "job"),
    [
        ({"parts": 5}, ["--array=1-5"], 0),
        ({"cpus": 3}, ["--cpus-per-task=3"], 0),
        ({"memory": (1 << 30) + 1}, ["--mem=1025M"], 0),
        ({"minutes": 17}, ["--time=17"], 0),
        ({"name": "a b"}, ["--job-name=a b"], 2),
        ({"partition": "long"}, ["--partition=long"], 2),
        ({"account": "my lab"}, ["--account=my lab"], 2),
        ({"qos": "low"}, ["--qos=low"], 2),
        ({"grace": 60}, ["--signal=USR1@60"], 2),
        ({"at_once": 8}, ["--array=1-64%8"], 0),
        ({"logs": "my $logs/100%"}, ["--output=my $logs/100%%/%A_%a.out"], 0),
        ({"logs": "my $logs/100%"}, ["--output=my $logs/100%%/%j_merge.out"], 1),
        ({"dependency": "afterok"}, ["--dependency=afterok:N", "--kill-on-invalid-dep=yes"], 1),
        ({"extra": ("--mail-type=END", "-C 'a&b'")}, ["--mail-type=END", "-C", "a&b"], 2),
        ({"merge_cpus": 2}, ["--cpus-per-task=2"], 1),
        ({"merge_memory": 1 << 30}, ["--mem=1024M"], 1),
        ({"merge_minutes": 30}, ["--time=30"], 1),
        ({"parts": 1001, "max_array": 1002}, ["--array=1-1001"], 0),
    ],
)
def test_every_option_arrives(tmp_path, options, words, job):
    """An option reaches both jobs (2), or only job 0 or 1."""
    text = slurm_script(GRAM, MERGE, SlurmOptions(**(LEAST | options)))
    _, (array, _), jobs = submit(tmp_path, text)
    found = [" ".join(given).replace(f":{array}", ":N") for given, _ in jobs]
    expected = " ".join(words)
    assert [expected in one for one in found] == [job != 1, job != 0]


def test_options_of_the_jobs_themselves(tmp_path):
    options = SlurmOptions(**LEAST, requeues=7, setup=('module() { echo "$1"; }', "module 'a  b'"))
    _, _, jobs = submit(tmp_path, slurm_script(GRAM, MERGE, options))
    for _, script in jobs:
        assert '"${SLURM_RESTART_COUNT:-0}" -lt 7 ]' in script
        assert said_by(tmp_path, script)[0] == "a  b"


def test_any_path_is_quoted(tmp_path):
    name = "it's \"$(touch no) `touch no`\\ * [a]\t.h5"
    gram = ["ntk-numba", "gram", "x y.npy:it's", "-o", name, "--activation", "elu:1,2"]
    parts = NamesOfParts(name.removesuffix(".h5"), 64, ".h5")
    merge = ["ntk-numba", "merge", parts, "-o", name]
    # the star of the name is no pattern
    (tmp_path / name.replace("*", "x").replace(".h5", ".part-01-of-64.h5")).touch()
    found = name.removesuffix(".h5") + ".part-01-of-64.h5"
    (tmp_path / found).touch()
    text = slurm_script(gram, merge, SlurmOptions(**LEAST, logs="it's $HOME"))
    _, _, ((_, part), (_, last)) = submit(tmp_path, text)
    assert said_by(tmp_path, part, SLURM_ARRAY_TASK_ID="1")[3:-4] == gram
    assert said_by(tmp_path, last)[3:] == [*merge[:2], found, *merge[3:]]
    assert (tmp_path / "it's $HOME").is_dir() and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("name", "logs", "expected"),
    [
        ("100%j %%", "logs", "{}/100%%j %%%%/logs/%A_%a.out"),
        ("100%j %%", "/tmp/%", "/tmp/%%/%A_%a.out"),
        ("a b", "logs", "logs/%A_%a.out"),
        ("a\\b", "/tmp", "/tmp/%A_%a.out"),
    ],
)
def test_slurm_replaces_nothing_in_the_name_of_the_current_folder(tmp_path, name, logs, expected):
    folder = tmp_path / name
    folder.mkdir()
    text = slurm_script(GRAM, MERGE, SlurmOptions(**LEAST, logs=logs))
    (words, _), _ = submit(folder, text)[2]
    assert f"--output={expected.format(tmp_path)}" in words


def test_a_current_folder_below_which_slurm_writes_no_logs(tmp_path):
    folder = tmp_path / "a\\b\x1b"
    folder.mkdir()
    text = slurm_script(GRAM, MERGE, SlurmOptions(**LEAST))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        submit(folder, text)
    assert failed.value.returncode == 2 and "has a backslash; see --logs" in failed.value.stderr
    assert "\x1b" not in failed.value.stderr and not (folder / "logs").exists()


def test_without_sbatch(tmp_path):
    text = slurm_script(GRAM, MERGE, SlurmOptions(**LEAST))
    answer = subprocess.run(
        ["/bin/bash"], input=text, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True
    )
    assert answer.returncode == 2 and list(tmp_path.iterdir()) == []
    assert answer.stderr == "no sbatch here: run this where jobs are submitted to Slurm\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": 1001}, r"1001 parts .* here, 1000; .*show config \| grep MaxArraySize"),
        ({"parts": 0}, "parts must be at least 1"),
        ({"cpus": 0}, "cpus must be at least 1"),
        ({"memory": 0}, "memory must be at least 1"),
        ({"minutes": 5}, "grace=180 s is more than half of minutes=5"),
        ({"merge_minutes": 5}, "grace=180 s is more than half of merge_minutes=5"),
        ({"grace": 0}, "grace must be at least 1"),
        ({"requeues": -1}, "requeues must be at least 0"),
        ({"at_once": 0}, "at_once must be at least 1"),
        ({"dependency": "after"}, "dependency must be afterany or afterok, not 'after'"),
        ({"name": "a\nb"}, "line break"),
        ({"setup": ("a\nEND_OF_JOB",)}, "line break"),
        ({"setup": ("END_OF_JOB",)}, "would end a job.s script"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SlurmOptions(**(LEAST | options))


def test_a_line_break_in_a_command():
    with pytest.raises(ValueError, match="line break"):
        slurm_script([*GRAM, "a\nEND_OF_JOB\n"], MERGE, SlurmOptions(**LEAST))


@pytest.mark.parametrize(
    ("seconds", "tiles", "parts", "minutes"),
    [
        (0.1, 100, 1, 15),
        (1800, 100, 1, 60),
        (2600, 100, 1, 87),
        (2800, 100, 2, 47),
        (18_000, 100, 10, 60),
        (18_000, 4, 4, 150),
        (1e7, 10**6, 1000, 334),
    ],
)
def test_parts_take_half_an_hour(seconds, tiles, parts, minutes):
    assert parts_for(seconds, tiles) == parts
    assert minutes_for(seconds, parts) == minutes


def test_parts_between_15_and_60_minutes():
    for seconds in range(900, 1_000_000, 997):
        assert 900 <= seconds / parts_for(seconds, 10**6) <= 3600
    assert parts_for(1e9, 10**6, max_array=10_001) == 10_000
