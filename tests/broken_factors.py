"""Factors of small Gram files as jobs that are disturbed, and an experiment of their own."""

import itertools
import os
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from broken_jobs import DONE, REFUSED, STOPPED, Count, Job, empty_folder, run
from meddling import suspended, wake

import ntk_numba as nk
from ntk_numba.factors.left_looking import LeftLooking
from ntk_numba.gramfile.factor import open_factor


class Factor(Job):
    """The factorisation of a small Gram file, and the bytes that its file must have."""

    names = ("factor",)
    middle = 30

    def __init__(self, folder: Path, samples: int, features: int = 7, depth: int = 3) -> None:
        x = np.random.default_rng(0).standard_normal((samples, features))
        self.samples, self.gram = samples, folder / "gram.h5"
        nk.write_gram(nk.MLP(depth, b_std=0.1), x, self.gram, layout="lower").close()
        self.right = folder / "right.h5"
        self(self.right)
        self.bytes = self.right.read_bytes()

    def __call__(self, path: Path, X: Any = None, **options: Any) -> None:
        options["memory"] = self._least if options.pop("memory", None) else None
        nk.cholesky(X or self.gram, path, ridge=0.01, **options).close()

    @property
    def _least(self) -> int:
        """Memory for few tiles, so that panels are narrow and most of L is read again."""
        return (-(-self.samples // 64) + 5) * 64 * 64 * 8

    def words(self, path: Path) -> list[str]:
        return ["cholesky", str(self.gram), "-o", str(path), "--ridge", "0.01", "--threads", "1"]

    def repair(self, path: Path) -> None:
        nk.repair_factor(path, self.gram, threads=1)

    def open(self, path: Path, **options: Any) -> Any:
        return open_factor(path, **options)

    def log_tiles(self, log: Path) -> None:
        write = LeftLooking._write

        def logged(self: LeftLooking, *arguments: Any) -> None:
            with log.open("ab") as file:
                file.write(b".")
            write(self, *arguments)

        LeftLooking._write = logged  # type: ignore[method-assign]


def factor_changes(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Change the Gram file that is factorised before each call that changes the factor's file."""
    count = Count()
    with empty_folder() as home, empty_folder() as elsewhere:
        job, other = Factor(home, 200), Factor(elsewhere, 200, 7, 4)
        old, new = job.gram.read_bytes(), other.gram.read_bytes()
        least = job._least
        for number in itertools.count(1):
            rng = random.Random(f"{seed} {number}")
            with empty_folder() as folder, empty_folder() as output:
                gram = folder / "gram.h5"
                gram.write_bytes(old)
                again = partial(job, output / "g.h5", X=gram)
                pid = suspended(number, partial(again, threads=1, memory=least))
                if pid is None:
                    count.check(job, output, DONE, number)
                    break
                how = rng.choice(["rewritten", "replaced", "removed", "cut", "flipped"])
                if how == "rewritten":
                    with gram.open("r+b") as file:
                        file.write(new)
                elif how == "replaced":
                    shutil.copy(other.gram, folder / "new")
                    (folder / "new").replace(gram)
                elif how == "removed":
                    gram.unlink()
                elif how == "cut":
                    os.truncate(gram, len(old) // 2)
                else:
                    with gram.open("r+b") as file:
                        file.seek(rng.randrange(len(old) // 2, len(old)))
                        file.write(b"\x55")
                code = wake(pid)
                if code == DONE:
                    count.check(job, output, DONE, (number, how))
                    continue
                if code not in (REFUSED, STOPPED):
                    count.add("wrong ends", (number, how, code))
                gram.write_bytes(old)
                count.check(job, output, run(again), (number, how))
            if number == rounds:
                break
    return count.result()


FACTORS = {"factor_changes": factor_changes}
