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
    STOPPED,
    Count,
    break_at,
    empty_folder,
    ended,
    run,
    start_process,
)
from disk_model import lose_power

import ntk_numba as nk
from ntk_numba.linalg.systems import Systems

HOWS = ("ENOSPC", "EIO", "EDQUOT", "kill before", "kill within", "kill after")
METHODS = ("block_krylov", "nystrom_pcg")


class System:
    """A small system, its solution by an undisturbed run, and the products that this takes."""

    def __init__(self, method: str, size: int = 60, pause: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        factor = rng.standard_normal((size, size))
        self.matrix, self.y = factor @ factor.T / size, rng.standard_normal((size, 2))
        self.method, self.pause = method, pause
        self.right = nk.solve(self.matrix, self.y, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        return {"ridge": [0.1, 1e-3], "method": self.method, "tolerance": 1e-9, "threads": 1}

    def __call__(self, folder: Path) -> int:
        """Solve it with a checkpoint; refuse a wrong solution."""
        multiply = Systems.multiply

        def logged(self: Systems, columns: Any) -> Any:
            with (folder.parent / f"{folder.name}.log").open("ab") as file:
                file.write(b".")
            return multiply(self, columns)

        Systems.multiply = logged  # type: ignore[method-assign]
        time.sleep(self.pause)
        found = nk.solve(self.matrix, self.y, path=folder / "c", **self.options)
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


def solutions(rounds: int) -> dict[str, Any]:
    """Let each call that changes a file fail, or be the last, in turn; then solve again."""
    count, calls = Count(), {}
    for method, how in itertools.product(METHODS, HOWS):
        system = System(method)
        for number in itertools.count(1):
            with empty_folder() as folder:

                def disturbed(
                    number: int = number, how: str = how, at: Path = folder, s: System = system
                ) -> int:
                    broken = break_at(number, how)
                    code = s(at)
                    return code if not broken else STOPPED  # only the lock file was not removed

                code = run(disturbed)
                if code == DONE:
                    calls[f"{method} {how}"] = number - 1
                    system.products(folder)
                    break
                expected = (-signal.SIGKILL,) if "kill" in how else (STOPPED, REFUSED)
                if code not in expected:
                    count.add("wrong ends", (method, how, number, code))
                system.check(count, folder, (method, how, number))
            if number == rounds:
                break
    return count.result(calls=calls)


def killed_solutions(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Kill an iteration at random times until it is complete."""
    rng, count, killed = random.Random(seed), Count(), 0
    systems = [System(method, size=400) for method in METHODS]
    with empty_folder() as home:
        for system in systems:
            start = time.monotonic()
            folder = home / system.method
            folder.mkdir()
            run(partial(system, folder))
            system.products(folder)
            system.pause = time.monotonic() - start
    longest = {system.method: system.pause for system in systems}
    for system in systems:
        system.pause = 0.0
    while killed < rounds:
        for system in systems:
            with empty_folder() as folder:
                stops = 0
                for attempt in itertools.count():
                    pid = start_process(partial(system, folder))
                    time.sleep(rng.uniform(0, longest[system.method] * 2 ** (attempt / 5)))
                    os.kill(pid, signal.SIGKILL)
                    code = ended(pid)
                    if code == DONE:
                        break
                    stops += 1
                    if code != -signal.SIGKILL:
                        count.add("wrong ends", (system.method, code))
                        break
                killed += stops
                system.check(count, folder, system.method, stops)
    return count.result(kills=killed)


def crashed_solutions(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Let the power fail between two calls: the disk keeps any of the bytes not yet synced."""
    count = Count()
    systems = [System(method) for method in METHODS]
    for number in range(rounds):
        rng, system = random.Random(f"{seed} {number}"), systems[number % 2]
        with empty_folder() as folder, empty_folder() as after:

            def disturbed(
                rng: random.Random = rng,
                folder: Path = folder,
                after: Path = after,
                system: System = system,
            ) -> None:
                lose_power(lambda: system(folder), rng, folder, after, 120)

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
    for method in METHODS:
        system = System(method)
        with empty_folder() as folder:

            def begun(folder: Path = folder, system: System = system) -> None:
                break_at(45, "kill before")
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
                count.add("crashed", (method, code))
            system.products(folder)
    return count.result()


SOLUTIONS = {
    "solutions": solutions,
    "killed_solutions": killed_solutions,
    "crashed_solutions": crashed_solutions,
    "damaged_solutions": damaged_solutions,
}
