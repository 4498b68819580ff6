"""Experiments that disturb the checkpoints of iterations: each continues to the same bits."""

import itertools
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from broken_jobs import (
    DONE,
    REFUSED,
    SPARED,
    STOPPED,
    Count,
    break_at,
    empty_folder,
    ended,
    run,
    start_process,
)
from disk_model import CALLS, lose_power

import ntk_numba as nk
from ntk_numba.gramfile import disk
from ntk_numba.solvers import block_krylov
from ntk_numba.solvers.systems import Systems

HOWS = ("ENOSPC", "EIO", "kill before", "kill within", "kill after")
# Methods, and the columns of the largest basis: with few, several spaces follow each other
CASES = {"krylov": ("block_krylov", 4400), "spaces": ("block_krylov", 6), "pcg": ("nystrom_pcg", 0)}


class System:
    """A small system, its solution by an undisturbed run, and the products that this takes."""

    def __init__(self, case: str, size: int = 16, ridges: Any = (1.0, 3.0)) -> None:
        rng = np.random.default_rng(0)
        factor = rng.standard_normal((size, size))
        self.matrix, self.y = factor @ factor.T / size, rng.standard_normal((size, 2))
        self.case, self.pause, self.ridges = case, 0.0, ridges
        self.method, self.largest = CASES[case]
        self.right = self.solve()

    def solve(self, path: Path | None = None) -> nk.Solution:
        block_krylov.LARGEST = self.largest
        return nk.solve(
            self.matrix,
            self.y,
            ridge=self.ridges,
            method=self.method,
            tolerance=1e-4,
            threads=1,
            path=path,
        )

    def __call__(self, folder: Path) -> int:
        """Solve it with a checkpoint; refuse a wrong solution."""
        multiply = Systems.multiply

        def logged(self: Systems, columns: Any) -> Any:
            with (folder.parent / f"{folder.name}.log").open("ab") as file:
                file.write(b".")
            return multiply(self, columns)

        Systems.multiply = logged  # type: ignore[method-assign]
        time.sleep(self.pause)
        found = self.solve(folder / "c")
        same = found.x.tobytes() == self.right.x.tobytes() and found.passes == self.right.passes
        return DONE if same else REFUSED

    def products(self, folder: Path) -> int:
        """Return how many products all runs in a folder took, and forget them."""
        log = folder.parent / f"{folder.name}.log"
        count = log.stat().st_size if log.exists() else 0
        log.unlink(missing_ok=True)
        return count

    def check(self, count: Count, folder: Path, what: object, stops: int = 1) -> None:
        """Check that the next call finds the solution, with the passes that were not lost."""
        code = run(partial(self, folder))
        again = self.products(folder) - self.right.passes
        if code != DONE:
            count.add("wrong solutions", (what, code))
        elif again > stops:
            count.add("lost passes", (what, again))
        elif (names := sorted(path.name for path in folder.iterdir())) != ["c"]:
            count.add("files left over", (what, names))
        else:
            count.add("right")


def calls_of(system: System) -> int:
    """Return how many calls change files in an undisturbed run."""
    with empty_folder() as folder:
        counted = folder.parent / f"{folder.name}.calls"

        def work() -> int:
            for name in CALLS:
                original = getattr(disk, name)

                def call(*arguments: Any, original: Any = original) -> None:
                    with counted.open("ab") as file:
                        file.write(b".")
                    original(*arguments)

                setattr(disk, name, call)
            return system(folder)

        assert run(work) == DONE
        system.products(folder)
        number = counted.stat().st_size
        counted.unlink()
        return number


def solutions(rounds: int) -> dict[str, Any]:
    """Let calls that change a file fail, or be the last, in turn; then solve again.

    rounds : how many of them, at even distances; all, if there are fewer
    """
    count, calls = Count(), 0
    for case in CASES:
        system = System(case)
        number_of_calls = calls_of(system)
        step = max(1, number_of_calls // rounds)
        for how, number in itertools.product(HOWS, range(1, number_of_calls + 1, step)):
            with empty_folder() as folder:

                def disturbed(
                    number: int = number, how: str = how, at: Path = folder, s: System = system
                ) -> int:
                    break_at(number, how)
                    return s(at) or SPARED  # only the lock file was not removed

                code, calls = run(disturbed), calls + 1
                kills = "kill" in how
                if code not in ((-signal.SIGKILL,) if kills else (STOPPED, REFUSED, SPARED)):
                    count.add("wrong ends", (case, how, number, code))
                system.check(count, folder, (case, how, number))
    return count.result(calls=calls)


def killed_solutions(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Kill an iteration at random times until it is complete."""
    rng, count, killed = random.Random(seed), Count(), 0
    systems = [System(case, 400, (0.1, 1e-3)) for case in ("krylov", "pcg")]
    with empty_folder() as home:
        for system in systems:
            start = time.monotonic()
            folder = home / system.case
            folder.mkdir()
            run(partial(system, folder))
            system.products(folder)
            system.pause = time.monotonic() - start
    longest = {system.case: system.pause for system in systems}
    for system in systems:
        system.pause = 0.0
    while killed < rounds:
        for system in systems:
            with empty_folder() as folder:
                stops = 0
                for attempt in itertools.count():
                    pid = start_process(partial(system, folder))
                    time.sleep(rng.uniform(0, longest[system.case] * 2 ** (attempt / 5)))
                    os.kill(pid, signal.SIGKILL)
                    code = ended(pid)
                    if code == DONE:
                        break
                    stops += 1
                    if code != -signal.SIGKILL:
                        count.add("wrong ends", (system.case, code))
                        break
                killed += stops
                system.check(count, folder, system.case, stops)
    return count.result(kills=killed)


def crashed_solutions(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Let the power fail between two calls: the disk keeps any of the bytes not yet synced."""
    count = Count()
    systems = [System(case) for case in CASES]
    for number in range(rounds):
        rng, system = random.Random(f"{seed} {number}"), systems[number % len(systems)]
        with empty_folder() as folder, empty_folder() as after:

            def disturbed(
                rng: random.Random = rng,
                folder: Path = folder,
                after: Path = after,
                system: System = system,
            ) -> None:
                lose_power(lambda: system(folder), rng, folder, after, 80)

            code = run(disturbed)
            if code not in (DONE, -signal.SIGKILL):
                count.add("wrong ends", (number, code))
                continue
            system.products(folder)
            system.check(count, after, number, 0)
    return count.result()


def damaged_solutions(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Change a byte of a checkpoint: it is refused, or continued to the same bits."""
    count = Count()
    for case in CASES:
        system = System(case)
        with empty_folder() as folder:

            def begun(folder: Path = folder, system: System = system) -> None:
                break_at(35, "kill before")
                system(folder)

            run(begun)
            data = (folder / "c").read_bytes()
            for path in folder.iterdir():
                path.unlink()

            def looked_at(numbers: range, data: bytes = data, at: Path = folder, s: Any = system):
                for number in numbers:
                    rng = random.Random(f"{seed} {number}")
                    changed = bytearray(data)
                    # half of them near the beginning, where the states are
                    spot = rng.randrange(len(data) if number % 2 else min(len(data), 12000))
                    changed[spot] ^= 1 << rng.randrange(8)
                    if number % 7 == 0:
                        del changed[spot:]
                    (at / "c").write_bytes(changed)
                    try:
                        code = s(at)
                        answer = "right" if code == DONE else f"wrong {number} {spot}"
                    except (OSError, ValueError):
                        answer = "refused"
                    with (at / "found").open("a") as log:
                        log.write(answer + "\n")

            code = run(partial(looked_at, range(rounds)))
            for answer in (folder / "found").read_text().splitlines():
                count.add(answer.split()[0], answer if "wrong" in answer else None)
            if code != DONE:
                count.add("crashed", (case, code))
            system.products(folder)
    return count.result()


SOLUTIONS = {
    "solutions": solutions,
    "killed_solutions": killed_solutions,
    "crashed_solutions": crashed_solutions,
    "damaged_solutions": damaged_solutions,
}
