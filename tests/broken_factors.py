"""Factors of small matrices as jobs that are disturbed, and experiments of their own."""

from pathlib import Path
from typing import Any

import plain_factor
from broken_jobs import Job

import ntk_numba as nk
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.linalg.left_looking import LeftLooking


class Factor(Job):
    """The factorisation of a small matrix, and the bytes that its file must have."""

    names = ("factor",)
    middle = 30

    def __init__(self, folder: Path, samples: int, *_: int) -> None:
        self.matrix = plain_factor.matrix(samples)
        self.right = folder / "right.h5"
        self(self.right)
        self.bytes = self.right.read_bytes()

    def __call__(self, path: Path, X: Any = None, **options: Any) -> None:
        options["memory"] = self._least if options.pop("memory", None) else None
        nk.cholesky(self.matrix if X is None else X, path, ridge=0.5, **options).close()

    @property
    def _least(self) -> int:
        """Memory for few tiles, so that panels are narrow and most of L is read again."""
        tile = 64 if len(self.matrix) < 1024 else 128
        return (-(-len(self.matrix) // tile) + 5) * tile * tile * 8

    def open(self, path: Path, **options: Any) -> Any:
        return open_factor(path, **options)

    def log_tiles(self, log: Path) -> None:
        write = LeftLooking._write

        def logged(self: LeftLooking, *arguments: Any) -> None:
            with log.open("ab") as file:
                file.write(b".")
            write(self, *arguments)

        LeftLooking._write = logged  # type: ignore[method-assign]


FACTORS: dict[str, Any] = {}
