"""Experiments that disturb the writing of models: there is the old file or the new one, whole."""

import itertools
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
from broken_jobs import DONE, REFUSED, Count, break_at, empty_folder, run
from disk_model import lose_power

import ntk_numba as nk

HOWS = ("ENOSPC", "EIO", "EDQUOT", "kill before", "kill within", "kill after")


class Model:
    """A small model that replaces an older one, and the bytes of both files."""

    def __init__(self, home: Path) -> None:
        x = np.random.default_rng(0).standard_normal((40, 6))
        old, self.new = (nk.kernel_ridge(nk.MLP(depth), x, x[:, 0]) for depth in (2, 3))
        old.save(home / "old.h5")
        self.new.save(home / "new.h5")
        self.bytes = [(home / name).read_bytes() for name in ("old.h5", "new.h5")]

    def save(self, folder: Path) -> None:
        self.new.save(folder / "m.h5", overwrite=True)

    def check(self, count: Count, folder: Path, what: object) -> None:
        """Check that one of both files is there, and that the next call completes the new one."""
        if (folder / "m.h5").read_bytes() not in self.bytes:
            count.add("wrong files", what)
        code = run(lambda: self.save(folder))
        if code != DONE or (folder / "m.h5").read_bytes() != self.bytes[1]:
            count.add("files that cannot be replaced", (what, code))
        elif (names := sorted(path.name for path in folder.iterdir())) != ["m.h5"]:
            count.add("files left over", (what, names))
        else:
            count.add("right")


def models(rounds: int) -> dict[str, Any]:
    """Let each call that changes a file fail, or be the last, in turn; then save again."""
    count, calls = Count(), {}
    with empty_folder() as home:
        model = Model(home)
        for how in HOWS:
            for number in itertools.count(1):
                with empty_folder() as folder:
                    (folder / "m.h5").write_bytes(model.bytes[0])

                    def disturbed(number: int = number, how: str = how, at: Path = folder) -> int:
                        broken = break_at(number, how)
                        model.save(at)
                        return REFUSED if broken else DONE  # only the lock file was not removed

                    code = run(disturbed)
                    if code == DONE:
                        calls[how] = number - 1
                        break
                    if code != (-signal.SIGKILL if "kill" in how else REFUSED):
                        count.add("wrong ends", (how, number, code))
                    model.check(count, folder, (how, number))
                if number == rounds:
                    break
    return count.result(calls=calls)


def crashed_models(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Let the power fail between two calls: the disk keeps any of the bytes not yet synced."""
    count = Count()
    with empty_folder() as home:
        model = Model(home)
        for number in range(rounds):
            rng = random.Random(f"{seed} {number}")
            with empty_folder() as folder, empty_folder() as after:

                def disturbed(
                    rng: random.Random = rng, folder: Path = folder, after: Path = after
                ) -> None:
                    lose_power(lambda: model.save(folder), rng, folder, after, 25)

                code = run(disturbed)
                if code not in (DONE, -signal.SIGKILL):
                    count.add("wrong ends", (number, code))
                    continue
                if not (after / "m.h5").exists():  # the model of the disk knows no older file
                    (after / "m.h5").write_bytes(model.bytes[0])
                model.check(count, after, number)
    return count.result()


MODELS = {"models": models, "crashed_models": crashed_models}
