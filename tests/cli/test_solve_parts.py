"""``ntk-numba solve`` by the workers of a cluster, with real workers, kills and schedulers."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from private_slurm import Slurm
from programs import ENVIRONMENT, MPIEXEC, PATIENCE, needs_mpi, start

import ntk_numba as nk

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("slurm")]

COMMAND = [sys.executable, "-m", "ntk_numba", "solve"]
NET = ["--depth", "3", "--b-std", "0.1", "--ridge", "1e-3", "--method", "nystrom_pcg"]
N = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((N, 5)))
    np.save(folder / "y.npy", rng.standard_normal((N, 2)))
    run([*COMMAND, "x.npy", "--targets", "y.npy", "-o", "right.npy", *NET], folder)
    return folder


def run(command, folder):
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def job(folder, output, *more):
    """Return a command whose parts are computed in a folder of its own."""
    (folder / f"{output}.work").mkdir(exist_ok=True)
    return [
        *COMMAND, folder / "x.npy", "--targets", folder / "y.npy", "-o", folder / output, *NET,
        "--parts", "4", "--checkpoint", folder / f"{output}.checkpoint",
        "--scratch", folder / f"{output}.work", *more,
    ]  # fmt: skip


def check(folder, output):
    np.testing.assert_array_equal(np.load(folder / output), np.load(folder / "right.npy"))
    assert list((folder / f"{output}.work").iterdir()) == []


def test_a_driver_that_is_killed_goes_on(folder):
    command = job(folder, "killed.npy", "--executor", "processes:2")
    work = folder / "killed.npy.work"
    driver = start(command)
    end = time.monotonic() + PATIENCE
    # in the middle of a pass, after some
    checkpoint = folder / "killed.npy.checkpoint"
    while not (checkpoint.exists() and any("product" in path.name for path in work.iterdir())):
        assert time.monotonic() < end and driver.poll() is None, driver.communicate()
        time.sleep(0.002)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert not (folder / "killed.npy").exists()
    run(command, folder)
    check(folder, "killed.npy")


def test_a_folder_of_its_own_is_removed(folder):
    run([*COMMAND, "x.npy", "--targets", "y.npy", "-o", "own.npy", *NET, "--parts", "3"], folder)
    np.testing.assert_array_equal(np.load(folder / "own.npy"), np.load(folder / "right.npy"))
    assert not (folder / "own.npy.passes").exists()


def test_a_gram_file(folder):
    nk.write_gram(nk.MLP(3, "relu", b_std=0.1), folder / "x.npy", folder / "g.h5").close()
    common = ["--targets", "y.npy", "--ridge", "1e-3", "--method", "nystrom_pcg"]
    run([*COMMAND, "g.h5", "-o", "one.npy", *common], folder)
    run(
        [*COMMAND, "g.h5", "-o", "parts.npy", *common, "--parts", "5", "--executor", "processes"],
        folder,
    )
    np.testing.assert_array_equal(np.load(folder / "parts.npy"), np.load(folder / "one.npy"))


@needs_mpi
def test_ranks_of_mpi(folder):
    run([MPIEXEC, "-n", "3", *job(folder, "mpi.npy", "--executor", "mpi")], folder)
    check(folder, "mpi.npy")


def test_an_executor_needs_parts(folder):
    done = subprocess.run(
        [*COMMAND, "x.npy", "--targets", "y.npy", "-o", "z.npy", *NET, "--executor", "processes"],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "say how many, as --parts 16" in done.stderr


SCRIPT = """\
#!/bin/bash
export PYTHONPATH={root}
{mpiexec} -n 2 {command}
code=$?
# 3: stopped before the end; the same command continues
if [ "$code" = 3 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


@needs_mpi
def test_a_job_of_slurm(folder):
    """A job of MPI ranks that loses its first run to a kill, and goes on when it is requeued."""
    command = job(folder, "slurm.npy", "--executor", "mpi")
    text = SCRIPT.format(root=ROOT, mpiexec=MPIEXEC, command=" ".join(map(str, command)))
    (folder / "job.sh").write_text(text)
    work = folder / "slurm.npy.work"
    with Slurm() as slurm:
        submitted = slurm.sbatch(
            "--ntasks=2", "--requeue", "--open-mode=append", "--mem=3000M",
            f"--output={folder / 'log'}", folder / "job.sh", cwd=folder,
        )  # fmt: skip
        slurm.until(
            lambda: any("product" in path.name for path in work.iterdir()), "a part is computed"
        )
        slurm.requeue(submitted)
        found = slurm.wait(submitted, 2 * PATIENCE)
    assert found[None].state == "COMPLETED", (folder / "log").read_text()
    assert found[None].restarts == 1
    check(folder, "slurm.npy")
