"""Workers: their threads, requests to stop them, idle ones, and the end of their pool."""

import os
import signal
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import pytest
import stand_ins
from marks import marked
from programs import alive, needs_mpi, run, start, wait_until
from programs import stand_ins as command

from ntk_numba import stopping
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.workers import (
    LocalPool,
    Receipt,
    Share,
    attempt,
    parts_on_this_host,
    worker_threads,
)
from ntk_numba.machine import available_threads


def test_outside_of_a_pool_there_is_nothing_to_share():
    assert worker_threads() is None and parts_on_this_host() == 1


@pytest.mark.parametrize(
    ("kind", "signum", "to_all"),
    [
        ("processes:2", signal.SIGTERM, False),
        pytest.param("processes:2", signal.SIGINT, True, marks=pytest.mark.cluster),  # as Ctrl-C
        pytest.param("loky:2", signal.SIGTERM, False, marks=pytest.mark.cluster),
        pytest.param("mpi 3", signal.SIGTERM, False, marks=[needs_mpi, pytest.mark.cluster]),
        pytest.param("processes:2", signal.SIGKILL, False, marks=pytest.mark.cluster),
        pytest.param("loky:2", signal.SIGKILL, False, marks=pytest.mark.cluster),
    ],
)
def test_stopped_by_a_signal(tmp_path, kind, signum, to_all):
    """The workers end too, with their parts in a good state, even if the job is killed."""
    job = start(command(kind, tmp_path, 6, {1: "slow", 2: "slow"}))
    pids = [worker_of(tmp_path, part) for part in (1, 2)]
    begin = time.monotonic()
    (os.killpg if to_all else os.kill)(job.pid, signum)
    _, err = job.communicate(timeout=60)
    wait_until(lambda: not any(map(alive, pids)))
    assert time.monotonic() - begin < 30
    assert (tmp_path / "stopped-1").exists() and (tmp_path / "stopped-2").exists()
    if signum == signal.SIGKILL:
        assert job.returncode == -signal.SIGKILL
    else:
        assert job.returncode == 3
        assert "stopped ['1 of 6 parts are done; run the same again to go on']" in err
        assert "Traceback" not in err and "Warning" not in err
    assert stand_ins.starts(tmp_path, 5) == 0


def worker_of(folder, part):
    """Wait until a slow part has begun, and return the PID of its worker."""
    wait_until((folder / f"slow-{part}").exists)
    return int((folder / f"starts-{part}").read_text())


@pytest.mark.parametrize("kind", marked(pytest.mark.cluster, ["processes:2", "loky:2"]))
def test_a_worker_that_is_asked_to_stop_is_replaced(tmp_path, kind):
    job = start(command(kind, tmp_path, 6, {1: "slow 1"}))
    os.kill(worker_of(tmp_path, 1), signal.SIGTERM)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 0, err
    assert (tmp_path / "stopped-1").exists() and stand_ins.starts(tmp_path, 1) == 2
    assert stand_ins.done(tmp_path) == set(range(6))


@pytest.mark.cluster
@needs_mpi
def test_a_rank_that_is_asked_to_stop_ends_the_job(tmp_path):
    """A rank cannot be replaced; parts that others have begun are finished."""
    job = start(command("mpi 3", tmp_path, 40, {1: "slow"}))
    os.kill(worker_of(tmp_path, 1), signal.SIGTERM)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 3
    assert "could not be done: 1," in err and ": its worker was asked to stop); the oth" in err
    assert (tmp_path / "stopped-1").exists() and stand_ins.starts(tmp_path, 39) == 0
    assert all(stand_ins.starts(tmp_path, part) == 1 for part in stand_ins.done(tmp_path))


@pytest.mark.cluster
def test_workers_share_threads_and_host(tmp_path):
    """A worker of Dask has its own threads, though OMP_NUM_THREADS is 1 there."""
    assert run("cluster 1x2", tmp_path, 2, "threads").returncode == 0
    assert (tmp_path / "part-1").read_text() == f"{min(available_threads(), 2)} 2"
    assert run("processes:2", tmp_path, 2, "threads").returncode == 0
    # here a task comes with its number of threads
    assert (tmp_path / "part-1").read_text().endswith(" 2")


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["reusable", "process-instance"])
def test_pools_that_the_user_made_share_the_machine_too(tmp_path, kind):
    """The workers of these pools do not know their number."""
    assert run(kind, tmp_path, 3, "threads").returncode == 0
    share = max(available_threads() // 2, 1)
    assert (tmp_path / "part-1").read_text() == f"{share} 2"
    assert run(kind, tmp_path, 1, "threads").returncode == 0  # a single part has all threads
    assert (tmp_path / "part-0").read_text() == f"{available_threads()} 1"


def test_threads_of_a_pool_share_its_memory():
    seen = []

    def task(part):
        seen.append((worker_threads(), parts_on_this_host()))
        return Receipt(part, "", 0, 0.0, "", False)

    with ThreadPoolExecutor(3) as pool:
        run_parts(pool, task, range(1, 5))
    assert seen == [(None, 3)] * 4 and (worker_threads(), parts_on_this_host()) == (None, 1)


@pytest.mark.cluster
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_cores(tmp_path, ranks):
    """Rank 0 does not count, since it only hands out parts."""
    assert run(f"mpi {ranks}", tmp_path, 2, "threads").returncode == 0
    share = max(available_threads() // (ranks - 1), 1)
    assert (tmp_path / "part-1").read_text() == f"{share} {ranks - 1}"


@pytest.fixture
def pool():
    made = LocalPool(1)
    yield made
    made.shutdown()


def test_an_idle_worker_ends_at_once(pool):
    pid = pool.submit(os.getpid).result()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid))
    with pytest.raises(BrokenExecutor):
        pool.submit(os.getpid).result()


@pytest.mark.cluster
def test_a_worker_that_ignores_the_request_ends_all_the_same(pool, tmp_path):
    # wait until the worker has started and imported everything
    pool.submit(stand_ins.starts, tmp_path, 0).result()
    future = pool.submit(attempt, stand_ins.ignore_stop, 1, 0, Share())
    pid = pool.submit(os.getpid)
    time.sleep(2)
    begin = time.monotonic()
    pool.stop()
    with pytest.raises(BrokenExecutor):
        future.result(timeout=30)
    assert stopping.WORKER_PATIENCE - 0.5 < time.monotonic() - begin < stopping.WORKER_PATIENCE + 15
    assert pid.exception() is not None
