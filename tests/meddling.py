"""Experiments in which others meddle: they replace files, change data, take over, close streams.

`breaking` runs them.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from broken_jobs import (
    DONE,
    REFUSED,
    STOPPED,
    Count,
    Job,
    break_at,
    empty_folder,
    ended,
    run,
    start_process,
)

import ntk_numba as nk
from ntk_numba.cli.program import main
from ntk_numba.gramfile import lease

Make = Callable[..., Any]  # makes a job: `Job`, or another that looks like it


def suspended(number: int, work: Callable[[], Any]) -> int | None:
    """Start work that is suspended before its `number`-th call; None if it has fewer of them."""

    def suspend() -> None:
        break_at(number, "suspend")
        work()

    pid = start_process(suspend)
    _, status = os.waitpid(pid, os.WUNTRACED)
    return pid if os.WIFSTOPPED(status) else None


def wake(pid: int) -> int:
    """Wake a suspended process, and return its exit code as `ended` does."""
    os.kill(pid, signal.SIGCONT)
    return ended(pid)


def takeovers(rounds: int, seed: int = 0, make: Make = Job) -> dict[str, Any]:
    """Suspend a job before one of its calls, let another machine take it over, and wake it.

    The other machine completes the job, or is killed within it, before the first one wakes.
    """
    count, woken = Count(), Counter[str]()
    with empty_folder() as home:
        job = make(home, 200, 7, 3)

        def on_machine(name: str, work: Callable[[], None]) -> None:
            """Do the work as if on a machine that shares no locks with others."""
            me = lease.Holder.me
            lease.Holder.me = lambda: me()._replace(host=name, boot=name)
            lease._lock = lambda fd, path: None
            lease.WATCH, lease.SETTLE, lease.BEAT, lease.GLANCE = 0.2, 0.05, 0.02, 0.01
            work()

        def other(number: int, path: Path) -> None:
            if number:
                break_at(number, "kill before")
            on_machine("second", lambda: job(path, threads=1))

        for number in itertools.count(1):
            rng = random.Random(f"{seed} {number}")
            with empty_folder() as folder:
                path = folder / "g.h5"
                pid = suspended(number, partial(on_machine, "first", partial(job, path, threads=1)))
                if pid is None:
                    break
                killed = rng.choice([0, rng.randrange(1, 60)])
                code = run(partial(other, killed, path))
                if code not in (DONE, -signal.SIGKILL):
                    count.add("jobs that cannot be taken over", (number, code))
                code = wake(pid)
                woken[str(code)] += 1
                if code not in (DONE, REFUSED, STOPPED):
                    count.add("wrong ends", (number, killed, code))
                time.sleep(0.3)  # no touch of the lock file any more
                again = run(lambda path=path: on_machine("third", lambda: job(path)))
                count.check(job, folder, again, (number, killed, code))
            if number == rounds:
                break
    return count.result(woken=woken)


def repairs(rounds: int, make: Make = Job) -> dict[str, Any]:
    """Replace a damaged file by that of another job before each call of its repair."""
    count = Count()
    with empty_folder() as home, empty_folder() as elsewhere:
        job, other = make(home, 150, 7, 3), make(elsewhere, 150, 7, 4)
        with job.open(job.right) as file:
            at = file.tile_map.tile_at(job.names[-1], 0, 1, 0)
        damaged = job.bytes[: at + 8] + bytes(8) + job.bytes[at + 16 :]
        for number in itertools.count(1):
            with empty_folder() as folder:
                path = folder / "g.h5"
                path.write_bytes(damaged)
                pid = suspended(number, lambda path=path: job.repair(path))
                if pid is not None:
                    shutil.copy(other.right, folder / "new")
                    (folder / "new").replace(path)
                    code = wake(pid)
                    if code not in (DONE, REFUSED, STOPPED):
                        count.add("wrong ends", (number, code))
                    count.check(other, folder, DONE, number)
                else:
                    count.check(job, folder, DONE, number)
                    break
            if number == rounds:
                break
    return count.result()


def changes(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Change the data of a job, with its times set back, before each of its calls."""
    count = Count()
    with empty_folder() as home:
        job = Job(home, 200, 7, 3)
        others = np.random.default_rng(1).standard_normal(job.x.shape)

        def write(folder: Path, kind: str, values: np.ndarray) -> tuple[Path, Path]:
            """Write data in place; return its path, and that of the file with the values."""
            path = source = folder / f"x{kind}"
            if kind == ".npy":
                with path.open("r+b" if path.exists() else "w+b") as file:
                    np.save(file, values)
            elif kind == ".csv":
                with path.open("r+" if path.exists() else "w+") as file:
                    np.savetxt(file, values, "%+.17e", delimiter=",")
            else:
                source = folder / "source.h5"
                with h5py.File(source, "a", locking=False) as file:
                    if "x" in file:
                        file["x"][:] = values
                    else:
                        file["x"] = values
                if not path.exists():
                    layout = h5py.VirtualLayout(values.shape, values.dtype)
                    layout[:] = h5py.VirtualSource("source.h5", "x", values.shape)
                    with h5py.File(path, "w") as file:
                        file.create_virtual_dataset("x", layout)
            return path, source

        for number in itertools.count(1):
            rng = random.Random(f"{seed} {number}")
            kind = [".npy", ".h5", ".csv"][number % 3]
            with empty_folder() as folder, empty_folder() as output:
                x, source = write(folder, kind, job.x)
                again = partial(job, output / "g.h5", X=x)
                pid = suspended(number, partial(again, threads=1))
                if pid is None:
                    count.check(job, output, DONE, number)
                    break
                before = source.stat()
                how = rng.choice(["rewritten", "replaced", "cut"])
                if how == "replaced":
                    source.rename(folder / "old")
                if how == "cut":
                    os.truncate(source, before.st_size // 2)
                else:
                    write(folder, kind, others)
                os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
                code = wake(pid)
                if code == DONE:
                    count.check(job, output, DONE, (number, kind, how))
                    continue
                if code not in (REFUSED, STOPPED):
                    count.add("wrong ends", (number, kind, how, code))
                source.unlink()
                write(folder, kind, job.x)
                count.check(job, output, run(again), (number, kind, how))
            if number == rounds:
                break
    return count.result()


def links(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Meddle with parts before or after their link is opened; entries are right or refused."""
    count = Count()
    with empty_folder() as home, empty_folder() as elsewhere:
        job, other = Job(home, 200, 7, 3), Job(elsewhere, 200, 7, 4)
        for one in (job, other):
            for number in (1, 2, 3):
                one(one.right.parent / "g.h5", part=(number, 3))
        parts = sorted(home.glob("g.part-*"))
        nk.merge(parts, home / "link.h5", link=True).close()
        with nk.open_gram(job.right) as file:
            right = file.nngp[:], file.ntk[:]

        def meddle(how: str, folder: Path, rng: random.Random) -> None:
            """Replace parts by those of the other job, in one of several ways."""
            name = rng.choice(parts).name
            if how == "replaced":
                shutil.copy(elsewhere / name, folder / "new")
                (folder / "new").replace(folder / name)
            elif how == "removed":
                (folder / name).unlink()
            elif how == "prefix":
                os.environ["HDF5_VDS_PREFIX"] = str(elsewhere)
            elif how == "elsewhere":
                os.chdir(elsewhere)

        def read(number: int, folder: Path) -> int | None:
            rng = random.Random(f"{seed} {number}")
            how = rng.choice(["replaced", "removed", "prefix", "elsewhere"])
            when = rng.choice(["before", "after", "while"])
            if when == "before":
                meddle(how, folder, rng)
            with nk.open_gram(folder / "link.h5") as file:
                if when == "after":
                    meddle(how, folder, rng)
                first = file.nngp[:100, :100]
                if when == "while":
                    meddle(how, folder, rng)
                found = file.nngp[:], file.ntk[:]
                same = np.array_equal(first, right[0][:100, :100])
            return DONE if same and all(map(np.array_equal, found, right)) else WRONG

        for number in range(1, rounds + 1):
            with empty_folder() as folder:
                for path in (*parts, home / "link.h5"):
                    shutil.copy(path, folder)
                code = run(partial(read, number, folder))
                name = {DONE: "right", REFUSED: "refused"}.get(code, "wrong entries")
                count.add(name, None if code in (DONE, REFUSED) else (number, code))
    return count.result()


def streams(rounds: int, seed: int = 0, make: Make = Job) -> dict[str, Any]:
    """Run the command line with standard streams closed, and end it by Ctrl-C at each call."""
    count, calls = Count(), 0
    with empty_folder() as home:
        job = make(home, 150, 7, 3)
        job.words(home)
        reached = home / "reached"

        def gram(path: Path, number: int, closed: list[int]) -> int:
            null = os.open(os.devnull, os.O_RDWR)
            for k in range(3):
                os.dup2(null, k)
            os.close(null)
            for k in closed:
                os.close(k)
                setattr(sys, ["stdin", "stdout", "stderr"][k], None)
            break_at(number, "interrupt", reached)
            try:
                main(job.words(path))
            except SystemExit as end:
                return int(end.code or DONE)

        for number in itertools.count(1):
            rng = random.Random(f"{seed} {number}")
            closed = rng.choice([[0, 1, 2], [2], rng.sample(range(3), rng.randint(1, 3))])
            with empty_folder() as folder:
                path = folder / "g.h5"
                code = run(partial(gram, path, number, closed))
                if code not in (DONE, STOPPED):
                    count.add("wrong ends", (number, closed, code))
                for found in (path, path.with_name("g.h5.partial")):
                    try:
                        if found.exists():
                            with job.open(found, incomplete=True) as file:
                                assert not file.verify().bad
                    except (ValueError, AssertionError) as error:
                        count.add("files that are damaged", (number, closed, error))
                count.check(job, folder, run(partial(gram, path, 0, closed)), (number, closed))
            if not reached.exists() or number == rounds:
                break
            reached.unlink()
            calls = number
    return count.result(calls=calls)


WRONG = 4  # the exit code of a process that has read wrong entries
MEDDLING = {
    "takeovers": takeovers,
    "repairs": repairs,
    "changes": changes,
    "links": links,
    "streams": streams,
}
