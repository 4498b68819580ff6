"""The script on a real Slurm: real daemons, real commands, kills and signals by Slurm itself."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import psutil
import pytest
from conftest import ROOT
from private_slurm import Slurm

import ntk_numba as nk
from ntk_numba.cluster.shell import NamesOfParts
from ntk_numba.cluster.slurm import SlurmOptions, slurm_script

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("slurm")]

COMMAND = [sys.executable, "-m", "ntk_numba"]
# Little memory, so that a batch has few tiles and the first ones are done soon
NET = ["--depth", "600", "--b-std", "0.1", "--memory", "48MiB"]
N = 2000  # 36 tiles of 256 × 256, each a tenth of a second on one core
FAST = {
    "cpus": 1, "memory": 900 << 20, "minutes": 10, "grace": 60,
    "merge_cpus": 1, "merge_memory": 900 << 20, "merge_minutes": 60,
}  # fmt: skip

# Jobs of one partition preempt those of the other
PREEMPTION = """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


@pytest.fixture(scope="session")
def slurm():
    with Slurm(more=PREEMPTION) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "it's x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((N, 20)))
    return path


@pytest.fixture(scope="session")
def right(data):
    """The bytes of a run without parts, which also compiles the kernels for all other runs."""
    path = data.with_name("right.h5")
    subprocess.run([*COMMAND, "gram", data, "-o", path, *NET], check=True)
    return path.read_bytes()


class Run:
    """A script in `folder`, and the jobs that it has submitted."""

    def __init__(self, slurm, folder, data, parts, gram=None, **options):
        self.slurm, self.folder, self.parts = slurm, folder, parts
        self.begun = {}  # by index: the inodes of unfinished files, which must be continued
        text = slurm_script(
            gram or [*COMMAND, "gram", str(data), "-o", "a b.h5", *NET],
            [*COMMAND, "merge", NamesOfParts("a b", parts, ".h5"), "-o", "a b.h5"],
            SlurmOptions(parts=parts, **(FAST | options)),
        )
        (folder / "gram.sh").write_text(text)
        self.submit()

    def submit(self, *words):
        said = self.slurm.run("bash", "gram.sh", *words, cwd=self.folder)
        self.array, self.merge = map(int, re.findall(r"^job (\d+):", said, re.MULTILINE))

    def log(self, index):
        return (self.folder / f"logs/{self.array}_{index}.out").read_text()

    def merge_log(self):
        return (self.folder / f"logs/{self.merge}_merge.out").read_text()

    def part(self, index):
        return self.folder / f"a b.part-{index}-of-{self.parts}.h5"

    def wait_for_tiles(self, index):
        """Wait until an element has done some of its tiles, but not all."""
        partial = self.part(index).with_name(self.part(index).name + ".partial")

        def done():
            with contextlib.suppress(OSError, ValueError):
                return nk.open_gram(partial, incomplete=True).done.sum()

        self.slurm.until(done, f"{index} has done a tile")
        self.begun[index] = partial.stat().st_ino

    def kill_command(self, index):
        """Kill the process that computes a part, and nothing else of the job."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                ours = words[:1] == COMMAND[:1] and process.cwd() == str(self.folder)
                if ours and f"{index}/{self.parts}" in words:
                    process.kill()
                    return
        raise AssertionError(f"no process computes part {index}")

    def ends_well(self, right):
        """Check that all jobs succeed and write the file of a run without parts."""
        merged = self.slurm.wait(self.merge)[None]
        elements = self.slurm.state(self.array)
        logs = [self.log(index) for index in elements]
        assert {one.state for one in elements.values()} == {"COMPLETED"}, logs
        assert (merged.state, merged.code) == ("COMPLETED", 0), self.merge_log()
        assert (self.folder / "a b.h5").read_bytes() == right
        for index, node in self.begun.items():
            assert self.part(index).stat().st_ino == node, f"part {index} was not continued"


@pytest.fixture
def run(slurm, data, tmp_path):
    yield partial(Run, slurm, tmp_path, data)
    slurm.cancel_all()


def test_an_array_and_its_merge(run, right):
    job = run(4)
    job.ends_well(right)
    for index in range(1, 5):
        first = rf"part {index} of 4 on \S+, .*, restarted 0 times\n"
        assert re.match(first, job.log(index)) and job.part(index).exists()


def test_stopped_elements_are_resumed(run, slurm, right):
    """An operator and the signal before the limit stop them; the merge waits for their success."""
    job = run(2, dependency="afterok")
    job.wait_for_tiles(1)
    slurm.run("scontrol", "requeue", f"{job.array}_1")
    job.wait_for_tiles(2)
    slurm.signal(f"{job.array}_2", signal.SIGUSR1)
    job.ends_well(right)
    for index in (1, 2):
        assert slurm.state(job.array)[index].restarts == 1
        assert "restarted 1 times" in job.log(index)
    assert "ntk-numba: stopped" in job.log(1)  # or "stopped at once": SIGTERM comes twice
    assert re.search(r"ntk-numba: stopped; \d+ of \d+ tiles are done", job.log(2))
    assert "stopped before the end, and requeued" in job.log(2)


# A stand-in for a long command that stops at a signal, and succeeds at its second start
STOPS = """
echo starts
test -z "$SLURM_RESTART_COUNT" || exit 0
trap 'echo stops; exit 3' TERM
sleep 60 & wait
"""


def test_a_job_of_higher_priority(run, slurm, tmp_path):
    (tmp_path / "stops.sh").write_text(STOPS)
    job = run(1, cpus=2, partition="low", gram=["sh", "stops.sh"])
    slurm.until(lambda: "starts" in job.log(1), "the element runs")
    other = slurm.sbatch(
        "--partition=high", "--cpus-per-task=2", "--mem=100M", "--wrap=true", cwd=tmp_path
    )
    assert slurm.wait(other)[None].state == "COMPLETED"
    last = slurm.wait(job.array)[1]
    assert (last.state, last.code, last.restarts) == ("COMPLETED", 0, 1)
    assert "stops\n" in job.log(1) and "DUE TO PREEMPTION" in job.log(1)


def test_a_killed_element(run, slurm, right):
    job = run(2)
    job.wait_for_tiles(1)
    job.kill_command(1)
    merged = slurm.wait(job.merge)[None]
    assert (merged.state, merged.code) == ("FAILED", 2)
    elements = slurm.state(job.array)
    assert elements[1][:2] == ("FAILED", 128 + signal.SIGKILL)
    assert elements[2].state == "COMPLETED"
    again = re.search(r"of 2 parts 1 are unfinished.* (--array=1), ", job.merge_log())[1]
    job.submit(again)
    job.ends_well(right)
    assert list(slurm.state(job.array)) == [1]


def test_the_merge_only_after_success(run, slurm):
    job = run(2, dependency="afterok", gram=["sh", "-c", "exit 1"])
    assert slurm.wait(job.merge)[None].state == "CANCELLED"
    assert {one[:2] for one in slurm.wait(job.array).values()} == {("FAILED", 1)}
    assert not (job.folder / f"logs/{job.merge}_merge.out").exists()


def test_a_cancelled_job_is_not_started_again(run, slurm):
    """The command stops with exit code 3, but is not started again."""
    job = run(1)
    job.wait_for_tiles(1)
    slurm.run("scancel", job.array)
    assert slurm.wait(job.merge)[None].code == 2  # it ran after the array
    assert slurm.state(job.array)[1][:4] == ("CANCELLED", 0, signal.SIGTERM, 0)
    assert "ntk-numba: stopped" in job.log(1) and "requeued" not in job.log(1)


# The environment of an interactive job
INTERACTIVE = {
    "SLURM_JOB_ID": "7",
    "SLURM_RESTART_COUNT": "9",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x800000",
    "SLURM_NTASKS": "4",
}


def test_requeues_are_counted(run, slurm, monkeypatch):
    """The count starts at zero, even if the script is run within another job."""
    for name, value in INTERACTIVE.items():
        monkeypatch.setitem(slurm.environment, name, value)
    job = run(1, gram=["sh", "-c", "exit 3"], requeues=1)
    last = slurm.wait(job.array)[1]
    assert (last.state, last.code, last.restarts) == ("FAILED", 3, 1), job.log(1)


def test_bad_input_is_not_tried_again(run, slurm):
    job = run(1, gram=[*COMMAND, "gram", "no.npy", "-o", "a b.h5", *NET])
    last = slurm.wait(job.array)[1]
    assert (last.state, last.code, last.restarts) == ("FAILED", 2, 0)
    assert "no.npy" in job.log(1)


def test_a_lost_node(data, right, tmp_path):
    """The controller requeues the element, which continues on another node."""
    with Slurm(nodes=2, more="SlurmdTimeout=5\nMessageTimeout=3") as slurm:
        job = Run(slurm, tmp_path, data, 1, cpus=2)
        job.wait_for_tiles(1)
        first = slurm.state(job.array)[1].node
        slurm.lose_node(first)
        job.ends_well(right)
        last = slurm.state(job.array)[1]
        assert last.restarts == 1 and {first, last.node} == {"n1", "n2"}
        assert "stopped" not in job.log(1)  # its processes were killed


@pytest.mark.parametrize(
    "name",
    [
        b"-it's \xff\xe9 100%j $(x) \"*?[a] \xce\xa3",
        b"--a.part-*-of-2 \x1b[31m\x07\t\x01\x7f",
        b"~'\\ !",
    ],
)
def test_hostile_names(slurm, tmp_path, name):
    """Names of the folder, the data, the result, the logs and the jobs."""
    text = os.fsdecode(name)
    folder = tmp_path / text.replace("\\", "")
    folder.mkdir()
    data, target, logs = text + ".npy", text + ".h5", text.replace("\\", "") + " logs"
    np.save(folder / data, np.random.default_rng(0).standard_normal((600, 3)))
    program = tmp_path / "programs" / "ntk-numba"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    words = [
        program, "slurm", "--parts=2", "--cpus=1", "--time=20", "--memory=500MiB", "--depth=2",
        "--activation=-1*relu", f"--output={target}", f"--logs={logs}", f"--name={text}",
        f"--setup=export PATH='{program.parent}':\"$PATH\"", "--", data,
    ]  # fmt: skip
    script = subprocess.run(words, cwd=folder, capture_output=True, check=True).stdout
    (folder / "gram.sh").write_bytes(script)
    said = slurm.run("bash", "gram.sh", cwd=folder)
    array, merge = map(int, re.findall(r"^job (\d+):", said, re.MULTILINE))
    merged = slurm.wait(merge)[None]
    found = {path.name: path.read_text(errors="replace") for path in (folder / logs).iterdir()}
    assert (merged.state, merged.code) == ("COMPLETED", 0), found
    assert set(found) == {f"{array}_1.out", f"{array}_2.out", f"{merge}_merge.out"}
    with nk.open_gram(folder / target) as file:
        assert file.complete and file.verify()
    slurm.cancel_all()
