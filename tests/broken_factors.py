"""Factors of small matrices as jobs that are disturbed, and experiments of their own."""

from pathlib import Path
from typing import Any

import plain_factor
from broken_jobs import Job

from ntk_numba.gramfile.factor import open_factor
from ntk_numba.gramfile.tiles import TileFile


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
        plain_factor.write(path, self.matrix)

    def open(self, path: Path, **options: Any) -> Any:
        return open_factor(path, **options)

    def log_tiles(self, log: Path) -> None:
        write = TileFile.write

        def logged(self: TileFile, *arguments: Any) -> None:
            write(self, *arguments)
            with log.open("ab") as file:
                file.write(b".")

        TileFile.write = logged  # type: ignore[method-assign]


FACTORS: dict[str, Any] = {}
