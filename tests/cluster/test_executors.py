"""Parts on executors of all kinds, whose workers are really killed.

Tests that need a program of its own run `stand_ins`, which records the parts that are done.
"""

import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import pytest
import stand_ins
from marks import marked
from programs import ENVIRONMENT, needs_mpi, run

from ntk_numba import StoppedError
from ntk_numba.cluster import executors
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.workers import Receipt


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(executors, "PAUSE", 0.05)


def task_of(folder, plan=None):
    return partial(stand_ins.compute, folder, plan or {})


def test_receipts_come_in_the_order_of_the_parts(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        receipts = run_parts(pool, task_of(tmp_path), [7, 2, 9, 4])
    assert [receipt.part for receipt in receipts] == [7, 2, 9, 4]
    assert isinstance(receipts[0], Receipt) and receipts[0].path == str(tmp_path / "part-7")
    assert stand_ins.done(tmp_path) == {2, 4, 7, 9}


def test_no_parts_at_all(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert run_parts(pool, task_of(tmp_path), []) == []


def test_a_part_that_failed_is_tried_again(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        run_parts(pool, task_of(tmp_path, {1: "full 2"}), range(4))
    assert stand_ins.done(tmp_path) == {0, 1, 2, 3}
    assert [stand_ins.starts(tmp_path, part) for part in range(4)] == [1, 3, 1, 1]


def test_parts_that_always_fail_are_given_up_and_named(tmp_path):
    plan = {1: "full", 3: "full", 4: "full 1"}
    text = (
        r"^2 of 6 parts could not be done: 1,3 \(1: part 1: the disk is full; "
        r"3: part 3: the disk is full\); the others are kept; run the same again to go on$"
    )
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(StoppedError, match=text):
            run_parts(pool, task_of(tmp_path, plan), range(6), attempts=2)
        assert stand_ins.done(tmp_path) == {0, 2, 4, 5}
        assert [stand_ins.starts(tmp_path, part) for part in (1, 3, 4)] == [2, 2, 2]
        run_parts(pool, task_of(tmp_path), range(6))  # now the disk has space
    assert stand_ins.done(tmp_path) == set(range(6))


def test_few_reasons_are_told():
    text = executors._loss_text({part: f"because {part % 7}" for part in range(14)}, 20)
    assert "14 of 20 parts could not be done: 0,1,2,3,4,5,6,7,8,9,10,11,12,13 (0,7: bec" in text
    assert "4,11: because 4; and so on)" in text and "because 5" not in text


@pytest.mark.cluster
def test_a_second_try_waits(tmp_path, monkeypatch):
    """A process that holds the file of a part, such as a worker thought lost, may need time."""
    monkeypatch.setattr(executors, "PAUSE", 1.0)
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        run_parts(pool, task_of(tmp_path, {0: "full 2"}), [0])
    assert time.monotonic() - start > 3.0


def test_bad_input_is_raised_at_once(tmp_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="part 1: X is bad") as bad:
        run_parts(pool, task_of(tmp_path, {1: "bad"}), range(20))
    assert not hasattr(bad.value, "__notes__")
    assert stand_ins.done(tmp_path) <= {0, 2} and stand_ins.starts(tmp_path, 1) == 1


@pytest.mark.parametrize("bad", ["processes", 3, None, lambda: 3])
def test_bad_executors_are_refused(bad):
    with pytest.raises(TypeError, match="executor must be a concurrent"):
        run_parts(bad, print, [1])


def test_attempts_are_a_number():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="attempts must be at leas"):
        run_parts(pool, print, [1], attempts=0)


def test_an_executor_that_takes_no_more(tmp_path):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(StoppedError, match=r"2 of 2 .* no more parts: cannot schedule new futures"):
        run_parts(pool, task_of(tmp_path), [1, 2])


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_of_parts_and_on_standard_error(tmp_path, capsys, progress):
    with ThreadPoolExecutor(2) as pool:
        run_parts(pool, task_of(tmp_path), range(3), progress=progress)
    out, err = capsys.readouterr()
    assert out == "" and ("3/3" in err and "part" in err if progress else err == "")


class Cancelling(ThreadPoolExecutor):
    """An executor that cancels its first task by itself."""

    first = True

    def submit(self, *arguments):
        if self.first:
            self.first = False
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future
        return super().submit(*arguments)


def test_a_part_that_the_scheduler_cancels_is_tried_again(tmp_path):
    with Cancelling(2) as pool:
        run_parts(pool, task_of(tmp_path), range(3))
    assert stand_ins.done(tmp_path) == {0, 1, 2}


class Client(Executor):
    """A client of Dask whose scheduler disappears just after it took a part, without an error."""

    __module__ = "distributed.cfexecutor"
    closed = False

    def submit(self, *arguments):
        if self.closed:
            raise RuntimeError("Client is closed.")
        self.closed = True
        return Future()


def test_a_scheduler_that_is_gone(monkeypatch):
    monkeypatch.setattr(executors, "SILENCE", 0.5)
    with pytest.raises(
        StoppedError, match=r"1 of 1 .* \(7: the executor is gone: Client is closed"
    ):
        run_parts(Client(), print, [7])


def test_a_silent_scheduler_is_not_taken_for_a_dead_one(tmp_path):
    """Stand-ins set SILENCE to 0, so that Dask is checked at every step."""
    end = run("cluster 1x1", tmp_path, 2, {})
    assert (end.returncode, end.stdout) == (0, "[0, 1]\n"), end.stderr


class Fragile(Executor):
    """A pool of one worker that dies of certain parts; then all of its futures fail."""

    made: ClassVar[list["Fragile"]] = []

    def __init__(self, deadly):
        self.made.append(self)
        self.deadly, self.most, self.began = deadly, 0, []
        self.broken, self.closed = False, False
        self.tasks, self.lock = queue.Queue(), threading.Lock()
        self.futures = []
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def submit(self, function, task, part, number, share):
        with self.lock:
            if self.broken:
                raise BrokenExecutor("it is broken")
            future = Future()
            self.futures.append(future)
            self.most = max(self.most, sum(not f.done() for f in self.futures))
            self.tasks.put((future, function, (task, part, number, share)))
            return future

    def work(self):
        while item := self.tasks.get():
            time.sleep(0.005)
            future, function, arguments = item
            self.began.append(arguments[1])
            if arguments[1] in self.deadly:
                with self.lock:
                    self.broken = True
                    for future in self.futures:
                        if not future.done():
                            future.set_exception(BrokenExecutor("worker died. And much more."))
                return
            future.set_result(function(*arguments))

    def shutdown(self, wait=True):
        self.tasks.put(None)
        self.thread.join()
        self.closed = True


@pytest.fixture
def fragile(monkeypatch):
    monkeypatch.setattr(Fragile, "made", [])
    return Fragile


def easy(part):
    return Receipt(part, "", 0, 0.0, "", False)


def test_the_part_that_breaks_pools_is_found(fragile):
    """Only this part is blamed and named; the others are done, most of them many at a time."""
    text = r"1 of 40 parts could not be done: 3 \(3: a worker was lost: worker died\); the others"
    with pytest.raises(StoppedError, match=text):
        run_parts(partial(Fragile, {3}), easy, range(40))
    began = [part for pool in fragile.made for part in pool.began]
    assert set(began) == set(range(40))
    assert all(began.count(part) == 1 for part in range(40) if part != 3)
    assert fragile.made[0].most > 20 and fragile.made[1].most > 10
    assert len(fragile.made) <= 6 and all(pool.closed for pool in fragile.made)


def test_several_parts_that_break_pools(fragile):
    with pytest.raises(StoppedError, match=r"2 of 40 parts could not be done: 3,20 \(3,20: a wor"):
        run_parts(partial(Fragile, {3, 20}), easy, range(40))


def test_a_pool_that_always_breaks_is_given_up(fragile):
    """It is given up after halving and three breaks of one part, not three of each part."""
    with pytest.raises(StoppedError, match=r"1,000 of 1,000 parts could not be done: 0,1,2,"):
        run_parts(partial(Fragile, range(1000)), easy, range(1000))
    assert [pool.most for pool in fragile.made][-3:] == [1, 1, 1] and len(fragile.made) < 15


def test_no_new_pool(fragile):
    def make():
        if fragile.made:
            raise BlockingIOError("too many processes")
        return Fragile({2})

    with pytest.raises(
        StoppedError, match=r"3 of 5 .* died, and there is no new one: too many pro"
    ):
        run_parts(make, easy, range(5))


def test_nothing_optional_is_imported():
    code = (
        "import sys; from ntk_numba.cluster import executors, schedulers, workers;"
        "from concurrent.futures import ThreadPoolExecutor;"
        "workers.worker_threads(); schedulers.pool_of(ThreadPoolExecutor).is_lost(OSError());"
        "print({'distributed', 'dask', 'mpi4py', 'loky'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True)
    assert done.stdout == b"set()\n", done.stderr


@pytest.mark.parametrize(
    "kind", marked(pytest.mark.cluster, ["processes:2", "loky:2", "reusable", "cluster 2x1"])
)
def test_a_lost_worker_and_a_part_that_loses_every_worker(tmp_path, kind):
    end = run(kind, tmp_path, 8, {1: "die", 4: "die 1"})
    assert end.returncode == 3, end.stderr
    assert "StoppedError 1 of 8 parts could not be done: 1 (1: " in end.stderr
    assert ("all those workers died" if "cluster" in kind else "a worker was lost") in end.stderr
    assert "the others are kept; run the same again to go on" in end.stderr
    assert stand_ins.done(tmp_path) == {0, 2, 3, 4, 5, 6, 7}
    assert stand_ins.starts(tmp_path, 1) >= 3 and stand_ins.starts(tmp_path, 4) >= 2


@pytest.mark.cluster
def test_a_pool_that_cannot_be_replaced(tmp_path):
    end = run("process-instance", tmp_path, 6, {1: "outlive"})
    assert end.returncode == 3
    assert "of 6 parts could not be done: 1," in end.stderr
    assert "give a function, as lambda: ProcessPoolExecutor(2, mp" in end.stderr
    assert stand_ins.starts(tmp_path, 1) == 1 and 0 in stand_ins.done(tmp_path)


@pytest.mark.cluster
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_mpi(tmp_path, ranks):
    end = run(f"mpi {ranks}", tmp_path, 6, {2: "full 1"})
    assert (end.returncode, end.stdout) == (0, "[0, 1, 2, 3, 4, 5]\n"), end.stderr
    pids = {(tmp_path / f"starts-{part}").read_text() for part in (0, 1, 3, 4, 5)}
    assert len(pids) == ranks - 1  # all ranks compute except rank 0


@pytest.mark.cluster
@needs_mpi
def test_a_rank_that_dies_ends_the_job_which_can_be_resumed(tmp_path):
    assert run("mpi 3", tmp_path, 6, {1: "die 1"}).returncode not in (0, 2)
    assert run("mpi 3", tmp_path, 6, {1: "die 1"}).returncode == 0
    assert stand_ins.done(tmp_path) == set(range(6))
