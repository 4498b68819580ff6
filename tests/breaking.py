"""Experiments that disturb the writing of Gram files, and check that nothing is lost.

``python tests/breaking.py kills 200`` runs one experiment and prints a JSON object; the tests and
the benchmark of robustness call it. `meddling` has more experiments, `broken_jobs` the jobs.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from broken_factors import FACTORS, Factor
from broken_jobs import (
    DONE,
    REFUSED,
    SPARED,
    STOPPED,
    Count,
    Job,
    break_at,
    empty_folder,
    ended,
    run,
    start_process,
)
from broken_models import MODELS
from broken_solutions import SOLUTIONS
from disk_model import Disk, lose_power
from meddling import MEDDLING, Make, repairs, streams, takeovers

import ntk_numba as nk

BUDGETS = [("48MiB", 1), ("64MiB", 2), (None, 2)]  # memory and threads of successive runs


FAULTS = "ENOSPC", "EIO", "EDQUOT", "kill before", "kill within", "kill after"


def faults(rounds: int, make: Make = Job, hows: Sequence[str] = FAULTS) -> dict[str, Any]:
    """Let each call that changes a file fail, or be the last, in turn; then run the job again."""
    count, calls = Count(), {}
    with empty_folder() as home:
        job = make(home, 150, 7, 3)
        for how in hows:
            for number in itertools.count(1):
                with empty_folder() as folder:
                    path = folder / "g.h5"

                    def disturbed(number: int = number, how: str = how, path: Path = path) -> None:
                        break_at(number, how)
                        job(path, threads=1)

                    code = run(disturbed)
                    expected = (-signal.SIGKILL,) if "kill" in how else (STOPPED, REFUSED)
                    if code == DONE:
                        calls[how] = number - 1
                        break
                    if code not in expected:
                        count.add("wrong ends", (how, number, code))
                    count.check(job, folder, run(lambda path=path: job(path)), (how, number))
                if number == rounds:
                    break
    return count.result(calls=calls)


WAYS = {"": {}, ", deleting": {"delete_parts": True}}
WAYS[", replacing"] = {"delete_parts": True, "overwrite": True}


def merges(rounds: int) -> dict[str, Any]:
    """Do the same as `faults` to merges, also those that delete their parts or replace a file."""
    count, calls = Count(), {}
    with empty_folder() as home:
        job = Job(home, 130, 7, 3)
        for number in (1, 2):
            job(home / "g.h5", part=(number, 2))
        parts = sorted(home.glob("g.part-*"))

        def merge(folder: Path, options: dict[str, Any]) -> None:
            found = sorted(folder.glob("g.part-*.h5")) or [folder / part.name for part in parts]
            nk.merge(found, folder / "g.h5", **options).close()

        def disturbed(number: int, how: str, work: Callable[[], None]) -> int:
            broken = break_at(number, how)
            work()
            return SPARED if broken else DONE

        # a kill after a call leaves the same as one before the next call
        hows = "EIO", "kill before", "kill within"
        for how, way in itertools.product(hows, WAYS):
            for number in itertools.count(1):
                with empty_folder() as folder:
                    for part in parts:
                        shutil.copy(part, folder)
                    if "overwrite" in WAYS[way]:  # a finished file with a damaged tile
                        (folder / "g.h5").write_bytes(job.bytes[:-5000] + bytes(5000))
                    work = partial(merge, folder, WAYS[way])
                    code = run(partial(disturbed, number, how, work))
                    expected = (-signal.SIGKILL,) if "kill" in how else (STOPPED, REFUSED)
                    if code == DONE:
                        calls[f"{how}{way}"] = number - 1
                        break
                    if code == SPARED:  # the lock file of a part, or of the output, was not removed
                        right = (folder / "g.h5").read_bytes() == job.bytes
                        count.add("right" if right else "wrong files", None if right else number)
                    else:
                        if code not in expected:
                            count.add("wrong ends", (how, number, code))
                        code = run(work)
                        for part in parts if not way else ():
                            if (folder / part.name).read_bytes() != part.read_bytes():
                                count.add("parts that changed", (how, number))
                            (folder / part.name).unlink()
                        count.check(job, folder, code, (how, way, number))
                if number == rounds:
                    break
    return count.result(calls=calls)


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a process takes that does some work."""
    start = time.monotonic()
    run(work)
    return time.monotonic() - start


def kills(rounds: int, seed: int = 0, make: Make = Job) -> dict[str, Any]:
    """Kill a job at random times until it is complete; then start another one."""
    rng, count = random.Random(seed), Count()
    with empty_folder() as home:
        job = make(home, 700, 50, 100)
        with job.open(job.right) as file:
            tiles = file.contents.grid.count
        log = home / "log"
        log.touch()
        job.log_tiles(log)
        longest = 0.9 * max(seconds(lambda k=k: job(home / f"timed-{k}.h5")) for k in range(3))
        log.write_bytes(b"")
        killed = files = 0
        while killed < rounds:
            files += 1
            with empty_folder() as folder:
                for attempt, (memory, threads) in enumerate(itertools.cycle(BUDGETS)):
                    pid = start_process(
                        lambda f=folder, m=memory, t=threads: job(f / "g.h5", memory=m, threads=t)
                    )
                    # twice as long after each five kills, so that a job ends on a machine that
                    # has become slower since the job was timed
                    time.sleep(rng.uniform(0, longest * 2 ** (attempt / 5)))
                    os.kill(pid, signal.SIGKILL)
                    code = ended(pid)
                    if code == DONE:
                        break
                    killed += 1
                    if code != -signal.SIGKILL:
                        count.add("files that cannot be continued", (killed, code))
                        break
                    for path in folder.glob("g.h5*"):
                        if path.suffix not in (".lock", ".new"):
                            with job.open(path, incomplete=True) as file:
                                bad = file.verify().bad
                            if bad:
                                count.add("tiles wrongly called done", bad)
                if code == DONE:
                    count.check(job, folder, DONE, files)
        again = len(log.read_bytes()) - files * tiles
    return count.result(
        kills=killed, files=files, tiles=files * tiles, **{"tiles computed again": again}
    )


def crashes(rounds: int, seed: int = 0, make: Make = Job) -> dict[str, Any]:
    """Let the power fail between two calls: the disk keeps any of the bytes not yet synced."""
    count = Count()
    with empty_folder() as home:
        job = make(home, 200, 7, 3)
        steps = 90  # a few more than the calls of the job
        for number in range(rounds):
            rng = random.Random(f"{seed} {number}")
            with empty_folder() as folder, empty_folder() as after:

                def disturbed(
                    rng: random.Random = rng, folder: Path = folder, after: Path = after
                ) -> None:
                    lose_power(lambda: job(folder / "g.h5", threads=1), rng, folder, after, steps)

                code = run(disturbed)
                if code not in (DONE, -signal.SIGKILL):
                    count.add("wrong ends", (number, code))
                    continue
                for path in after.iterdir():
                    if path.suffix in (".partial", ".h5"):
                        with job.open(path, incomplete=True) as file:
                            report = file.verify()
                        if report.bad:
                            count.add("tiles wrongly called done", (number, report.problems))
                        if report.problems and (file.complete or path.suffix == ".h5"):
                            count.add("incomplete files called complete", number)
                count.check(job, after, run(lambda after=after: job(after / "g.h5")), number)
    return count.result()


def writebacks(rounds: int, make: Make = Job) -> dict[str, Any]:
    """Let each sync in turn lose what it should make durable, and continue on the same machine.

    Linux tells one call of such a loss, and keeps the lost bytes in its cache. When the cache is
    dropped at the end, the disk has to have the whole file.
    """
    count, losses = Count(), 0
    with empty_folder() as home:
        job = make(home, 400, 7, 3)
        for number in range(1, rounds + 1):
            with empty_folder() as folder, empty_folder() as after:

                def disturbed(
                    number: int = number, folder: Path = folder, after: Path = after
                ) -> int:
                    model = Disk(folder)
                    syncs = itertools.count(1)
                    model.loses = lambda: next(syncs) == number
                    code = DONE
                    try:
                        job(folder / "g.h5", memory="48MiB", threads=2)
                    except OSError:
                        code = STOPPED
                        job(folder / "g.h5", memory="48MiB", threads=2)
                    model.crash(random.Random(0), after, keep=0)
                    return code

                code = run(disturbed)
                if code == DONE:
                    break
                losses += 1
                count.check(job, after, DONE if code == STOPPED else code, number)
    return count.result(losses=losses)


def damage(data: bytearray, rng: random.Random, where: range) -> str:
    """Change bytes of a file or truncate it, and return a text that says how."""
    kind = rng.choice(["bit", "bit", "byte", "byte", "run", "cut"])
    at = rng.choice(where)
    if kind == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[at] = rng.choice([0, 255, data[at] ^ 255, rng.randrange(256)])
    elif kind == "run":
        length = min(rng.choice([4, 16, 512, 4096]), len(data) - at)
        data[at : at + length] = rng.randbytes(length)
    else:
        del data[at:]
    return f"{kind} at {at}"


def flips(rounds: int, seed: int = 0, make: Make = Job) -> dict[str, Any]:
    """Damage a finished file: this must be reported, or leave its entries unchanged."""
    count = Count()
    with empty_folder() as home:
        job = make(home, 150, 7, 3)
        right = job.values(job.right)
        with job.open(job.right) as file:
            layout = file.tile_map
        end = min(layout.tiles.values())
        table = min(layout.checksums.values())
        spots = [range(len(job.bytes)), range(end), range(table, table + 512)]
        found = home / "found"

        def damage_and_verify(first: int, last: int) -> None:
            for number in range(first, last):
                rng = random.Random(f"{seed} {number}")
                data = bytearray(job.bytes)
                what = damage(data, rng, rng.choice(spots))
                with found.open("a") as log:
                    log.write(f"\n{number} {what}: ")
                path = home / f"damaged-{first}.h5"
                path.write_bytes(data)
                try:
                    with job.open(path) as file:
                        good = bool(file.verify())
                except (OSError, ValueError):
                    good = False
                answer = "reported"
                if good:
                    answer = "untouched" if job.values(path) == right else "missed"
                with found.open("a") as log:
                    log.write(answer)

        step = 100
        for first in range(0, rounds, step):
            found.write_text("")
            code = run(lambda f=first: damage_and_verify(f, min(f + step, rounds)))
            lines = found.read_text().split("\n")[1:]
            for line in lines:
                answer = line.rsplit(" ", 1)[1] if not line.endswith(": ") else "crashed"
                count.add(answer, line if answer in ("missed", "crashed") else None)
            if code != DONE and not lines[-1].endswith(": "):
                count.add("crashed", code)
    return count.result()


def unfinished(rounds: int, seed: int = 0, make: Make = Job) -> dict[str, Any]:
    """Damage an unfinished file: running the job again must refuse the file, or repair it."""
    count = Count()
    with empty_folder() as home, empty_folder() as folder:
        job = make(home, 200, 7, 3)
        path, right = folder / "g.h5", job.values(job.right)

        def half() -> None:
            break_at(job.middle, "kill before")
            job(path, threads=1)

        run(half)
        (partial,) = folder.glob("*.partial")
        begun = partial.read_bytes()
        for number in range(rounds):
            rng = random.Random(f"{seed} {number}")
            data = bytearray(begun)
            what = damage(data, rng, range(len(data)) if rng.random() < 0.5 else range(6000))
            for old in folder.iterdir():
                old.unlink()
            partial.write_bytes(data)
            code = run(lambda: job(path))
            if code == REFUSED:
                count.add("refused")
            elif code == DONE and job.values(path) == right:
                count.add("right")  # except perhaps for bytes that HDF5 does not use
            else:
                count.check(job, folder, code, what)
    return count.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    print(json.dumps(EXPERIMENTS[options.experiment](options.rounds)))


EXPERIMENTS = {
    "faults": faults,
    "merges": merges,
    "kills": kills,
    "crashes": crashes,
    "writebacks": writebacks,
    **MEDDLING,
    **MODELS,
    **FACTORS,
    **SOLUTIONS,
    "flips": flips,
    "unfinished": unfinished,
}
# The same experiments with factors of a matrix
EXPERIMENTS["factor_faults"] = partial(faults, make=Factor, hows=("ENOSPC", "kill within"))
EXPERIMENTS |= {
    f"factor_{work.__name__}": partial(work, make=Factor)
    for work in (
        kills, crashes, writebacks, takeovers, repairs, streams, flips, unfinished
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
