"""The script on a real Slurm: real daemons, the real command, kills and signals by Slurm itself."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from private_slurm import Slurm

import ntk_numba as nk
from ntk_numba.jobs.slurm import SlurmOptions, slurm_script

COMMAND = [sys.executable, "-m", "ntk_numba"]
NET = ["--depth", "300", "--b-std", "0.1", "--memory", "150MiB"]
N = 2500  # 55 tiles of 256 × 256, some seconds on two cores
FAST = {"cpus": 1, "memory": 900 << 20, "minutes": 10, "grace": 60, "merge_memory": 900 << 20}


@pytest.fixture(scope="session")
def slurm():
    with Slurm() as slurm:
        yield slurm


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "it's x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((N, 20)))
    return path


@pytest.fixture(scope="session")
def right(data):
    """The bytes of a run without parts; its kernels are compiled for all others, too."""
    path = data.with_name("right.h5")
    subprocess.run([*COMMAND, "gram", data, "-o", path, *NET], check=True)
    return path.read_bytes()


class Run:
    """A script in `folder`, and what became of it."""

    def __init__(self, slurm, folder, data, parts, gram=None, **options):
        self.slurm, self.folder, self.parts = slurm, folder, parts
        text = slurm_script(
            gram or [*COMMAND, "gram", str(data), "-o", "a b.h5", *NET],
            [*COMMAND, "merge", f"a b.part-*-of-{parts}.h5", "-o", "a b.h5"],
            SlurmOptions(parts=parts, **(FAST | options)),
        )
        (folder / "gram.sh").write_text(text)

    def submit(self, *words):
        said = self.slurm.run("bash", "gram.sh", *words, cwd=self.folder)
        self.array, self.merge = map(int, re.findall(r"^job (\d+):", said, re.MULTILINE))

    def log(self, index):
        return (self.folder / f"logs/{self.array}_{index}.out").read_text()

    def merge_log(self):
        return (self.folder / f"logs/{self.merge}_merge.out").read_text()

    def element(self, index):
        return f"{self.array}_{index}"

    def wait_for_tiles(self, index, count=1):
        """Until an element has done some."""
        partial = self.folder / f"a b.part-{index}-of-{self.parts}.h5.partial"

        def done():
            with contextlib.suppress(OSError, ValueError):
                return nk.open_gram(partial, incomplete=True).done.sum() >= count

        self.slurm.until(done, f"{index} has done {count} tiles")

    def command_of(self, index):
        """The process that computes a part."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if f"{index}/{self.parts}" in words and process.cwd() == str(self.folder):
                    if words[0] == sys.executable:
                        return process
        raise AssertionError(f"no process computes part {index}")

    def ends_well(self, right):
        """All of it, in a file that is that of a run without parts."""
        merged = self.slurm.wait(self.merge)[None]
        assert (merged.state, merged.code) == ("COMPLETED", 0), self.merge_log()
        assert {one.state for one in self.slurm.state(self.array).values()} == {"COMPLETED"}
        assert (self.folder / "a b.h5").read_bytes() == right


@pytest.fixture
def run(slurm, data, tmp_path):
    def begin(parts, **options):
        new = Run(slurm, tmp_path, data, parts, **options)
        new.submit()
        return new

    return begin


def test_an_array_and_its_merge(run, right):
    job = run(4)
    job.ends_well(right)
    for index in range(1, 5):
        assert re.match(rf"part {index} of 4 on \S+, .*, restarted 0 times\n", job.log(index))


def test_requeued_by_slurm(run, slurm, right):
    """As when a job of higher priority comes."""
    job = run(1)
    job.wait_for_tiles(1)
    slurm.requeue_now(job.element(1))
    job.ends_well(right)
    assert slurm.state(job.array)[1].restarts == 1
    assert "restarted 1 times" in job.log(1)


def test_a_signal_before_the_limit(run, slurm, right):
    job = run(1)
    job.wait_for_tiles(1)
    slurm.signal(job.element(1), signal.SIGUSR1)
    job.ends_well(right)
    log = job.log(1)
    assert re.search(r"ntk-numba: stopped; \d+ of \d+ tiles are done", log)
    assert "stopped before the end, and requeued" in log and "restarted 1 times" in log


def test_a_killed_element(run, slurm, right):
    job = run(2)
    job.wait_for_tiles(1)
    job.command_of(1).kill()
    merged = slurm.wait(job.merge)[None]
    assert (merged.state, merged.code) == ("FAILED", 2)
    states = slurm.state(job.array)
    assert states[1][:2] == ("FAILED", 128 + signal.SIGKILL) and states[2].state == "COMPLETED"
    assert re.search(r"--array=1\b", job.merge_log())
    job.submit("--array=1")
    job.ends_well(right)


def test_the_merge_runs_only_after_success(run, slurm, right):
    job = run(1, dependency="afterok")
    job.wait_for_tiles(1)
    job.command_of(1).kill()
    assert slurm.wait(job.merge)[None].state == "CANCELLED"
    job.submit("1")
    job.ends_well(right)


def test_what_is_cancelled_stays_so(run, slurm):
    job = run(1)
    job.wait_for_tiles(1)
    slurm.run("scancel", job.array)
    assert slurm.wait(job.array)[1].state == "CANCELLED"
    assert slurm.wait(job.merge)[None].code == 2
    assert slurm.state(job.array)[1][:4] == ("CANCELLED", 0, 15, 0)


def test_requeues_are_counted(run, slurm):
    job = run(1, gram=["sh", "-c", "exit 3"], requeues=1)
    last = slurm.wait(job.array)[1]
    assert (last.state, last.code, last.restarts) == ("FAILED", 3, 1)


def test_bad_input_is_not_tried_again(run, slurm):
    job = run(1, gram=[*COMMAND, "gram", "no.npy", "-o", "a b.h5", *NET])
    last = slurm.wait(job.array)[1]
    assert (last.state, last.code, last.restarts) == ("FAILED", 2, 0)
    assert "no.npy" in job.log(1)
