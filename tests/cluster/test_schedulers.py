"""`write_gram` and ``ntk-numba gram --executor`` on every kind of executor.

They write the bits of a single run, even if a worker is killed in the middle of a part or the whole
job is stopped.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from marks import marked
from programs import ENVIRONMENT, PATIENCE, needs_mpi, ranks, start, wait_until

import ntk_numba as nk
from ntk_numba.cluster import schedulers
from ntk_numba.cluster.schedulers import open_executor
from ntk_numba.gramfile.lease import Holder
from ntk_numba.machine import available_threads

NET = nk.MLP(100, "relu", b_std=0.1)
DEPTH = ["--depth", "100", "--b-std", "0.1"]
CLUSTER = """
import sys, stand_ins
if __name__ == "__main__":
    with stand_ins.dask_cluster("2x1") as address:
        print(address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data that take some seconds, and the file of a single run."""
    folder = tmp_path_factory.mktemp("real")
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((2000, 20)))
    nk.write_gram(NET, folder / "x.npy", folder / "one.h5").close()
    return folder


@pytest.fixture
def out(folder, tmp_path):
    yield tmp_path / "g.h5"
    assert (tmp_path / "g.h5").read_bytes() == (folder / "one.h5").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["g.h5"]  # no parts are left


@pytest.fixture
def cluster(tmp_path_factory):
    """The address of a cluster of Dask with two workers."""
    program = tmp_path_factory.mktemp("cluster") / "cluster.py"
    program.write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, program], env=ENVIRONMENT, text=True, cwd=program.parent,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        yield process.stdout.readline().strip()


def gram(folder, out, kind, *more):
    data, name = folder / "x.npy", "mpi" if kind.startswith("mpi") else kind
    return start([
        *ranks(kind), sys.executable, "-m", "ntk_numba", "gram", data, "-o", out, *DEPTH,
        "--parts", "3", "--executor", name, *more,
    ])  # fmt: skip


def ends_well(job):
    said, err = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, err
    assert "g.h5: ntk, 2,000 × 2,000, float64" in said
    return err


def writer_of_a_part(folder):
    """Return the PID of a process that computes a part, by its lease, and the part's number."""
    for lock in folder.glob("*.part-*.lock"):
        # the lock file may just be created or removed
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Holder(*json.loads(lock.read_text())).pid, lock.name.split("part-")[1][0]
    return None


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("processes:2", marks=pytest.mark.cluster),  # below, after a kill
        pytest.param("mpi 2", marks=[needs_mpi, pytest.mark.cluster]),
        pytest.param("mpi 4", marks=[needs_mpi, pytest.mark.cluster]),
    ],
)
def test_the_bits_of_a_single_run(folder, out, kind):
    err = ends_well(gram(folder, out, kind, "--progress"))
    assert "3/3" in err and "Traceback" not in err and "Warning" not in err


@pytest.mark.parametrize("kind", marked(pytest.mark.cluster, ["processes:2", "loky:2", "dask"]))
def test_a_worker_is_killed_in_the_middle_of_a_part(folder, out, kind, request):
    if kind == "dask":
        kind = f"dask:{request.getfixturevalue('cluster')}"
    job = gram(folder, out, kind)
    pid, part = wait_until(lambda: writer_of_a_part(out.parent))
    assert pid != job.pid
    os.kill(pid, signal.SIGKILL)
    assert not list(out.parent.glob(f"*part-{part}-of-3.h5"))
    ends_well(job)


@pytest.mark.parametrize(
    "kind", marked(pytest.mark.cluster, ["processes", pytest.param("mpi 2", marks=needs_mpi)])
)
def test_a_stopped_job_is_resumed(folder, out, kind):
    job = gram(folder, out, kind)
    wait_until(lambda: writer_of_a_part(out.parent))
    os.kill(job.pid, signal.SIGTERM)
    _, err = job.communicate(timeout=PATIENCE)
    assert job.returncode == 3 and " of 3 parts are done; run the same again to go on" in err
    assert not list(out.parent.glob("*.lock")) and not out.exists()
    ends_well(gram(folder, out, kind))


@pytest.mark.cluster
@needs_mpi
def test_a_rank_is_killed_in_the_middle_of_a_part(folder, out):
    job = gram(folder, out, "mpi 3")
    pid, _ = wait_until(lambda: writer_of_a_part(out.parent))
    os.kill(pid, signal.SIGKILL)
    job.communicate(timeout=PATIENCE)
    assert job.returncode not in (0, 2)
    ends_well(gram(folder, out, "mpi 3"))


@pytest.mark.parametrize("kind", marked(pytest.mark.cluster, ["threads", "processes", "renewed"]))
def test_executors_of_the_standard_library(folder, out, kind):
    spawn = partial(ProcessPoolExecutor, 1, get_context("spawn"))
    executor = ThreadPoolExecutor(2) if kind == "threads" else spawn()
    with executor as pool:
        given = spawn if kind == "renewed" else pool
        with nk.write_gram(NET, folder / "x.npy", out, parts=3, executor=given) as file:
            assert file.complete


@pytest.mark.parametrize(
    "kind", marked(pytest.mark.cluster, ["processes:2", pytest.param("mpi 3", marks=needs_mpi)])
)
def test_bad_input_is_reported_as_without_parts(tmp_path, kind):
    x = np.ones((300, 3))
    x[200, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    job = gram(tmp_path, tmp_path / "g.h5", kind)
    _, err = job.communicate(timeout=PATIENCE)
    assert job.returncode == 2 and "row 200, column 1" in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["processes", "processes:1", "processes:3", "loky", "loky:2"])
def test_processes_share_the_threads(name):
    count = int(name.partition(":")[2] or 1)
    for threads in (None, 1):
        with open_executor(name, threads) as (make, each):
            pool = make()
            assert pool.submit(os.getpid).result() != os.getpid()
            pool.shutdown()
            assert each == max(1, (threads or available_threads()) // count)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("threads", ValueError, r"--executor 'threads' is unknown; take processes, processes:4, l"),
        ("processes:", ValueError, r"--executor 'processes:' is unknown"),
        ("loky:x", ValueError, r"--executor 'loky:x' is unknown"),
        ("processes:0", ValueError, r"--executor processes must be at least 1, not 0"),
        ("dask", ValueError, r"--executor 'dask' is unknown"),
        ("dask:nowhere.json", OSError, r"there is no scheduler file nowhere\.json"),
        ("mpi:4", ValueError, r"--executor 'mpi:4' is unknown"),
    ],
)
def test_unknown_executors_are_refused(name, error, text, monkeypatch):
    monkeypatch.setattr(schedulers, "SCHEDULER_STARTS", 0.3)
    with pytest.raises(error, match=text), open_executor(name, None):
        pass


@pytest.mark.parametrize(
    ("name", "package"), [("dask:x", "distributed"), ("mpi", "mpi4py"), ("loky:2", "loky")]
)
def test_a_package_that_is_missing(name, package, monkeypatch):
    for module in (package, "mpi4py.MPI"):
        monkeypatch.setitem(sys.modules, module, None)
    extra = name.partition(":")[0]
    text = rf"--executor {extra} needs the package {package}: pip install 'ntk_numba\[{extra}\]'"
    with pytest.raises(ValueError, match=text), open_executor(name, None):
        pass


@pytest.mark.cluster
@pytest.mark.parametrize("place", ["tcp://127.0.0.1:9", "late.json"])
def test_a_cluster_that_does_not_answer(tmp_path, place):
    """The job waits for the file, since a script may start the scheduler just before it."""
    job = subprocess.run(
        [sys.executable, "-c", "from pathlib import Path\n"
         "from threading import Timer\n"
         "from ntk_numba.cluster.schedulers import open_executor\n"
         "late = '{\"address\": \"tcp://127.0.0.1:9\"}'\n"
         "Timer(1.0, Path('late.json').write_text, [late]).start()\n"
         f"with open_executor('dask:{place}', None): pass"],
        env=ENVIRONMENT | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"},
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert f"FileError: --executor dask: no scheduler at {place}: Timed out" in job.stderr


@pytest.mark.cluster
@needs_mpi
def test_mpi_with_one_rank(folder, tmp_path):
    job = gram(folder, tmp_path / "g.h5", "mpi 1")
    _, err = job.communicate(timeout=PATIENCE)
    assert job.returncode == 2
    assert "needs several ranks, one to hand out the parts: mpiexec -n 4 ntk-numba" in err
