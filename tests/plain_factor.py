"""Files of factors that NumPy computes, for tests of the file alone."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ntk_numba.arguments import Policy
from ntk_numba.gramfile.contents import FactorContents
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.gramfile.stored import existing
from ntk_numba.gramfile.writer import TileWriter

TILE = 64


def matrix(size: int = 150, seed: int = 0) -> np.ndarray:
    """A positive definite matrix."""
    x = np.random.default_rng(seed).standard_normal((size, size))
    return x @ x.T + size * np.eye(size)


def contents_of(a: np.ndarray, ridge: float = 0.0, **options: Any) -> FactorContents:
    """The contents of the factor of a matrix."""
    digest = hashlib.sha256(a.tobytes()).hexdigest()
    return FactorContents.of(len(a), TILE, a.dtype, matrix=digest, ridge=ridge, **options)


def tiles_of(a: np.ndarray, ridge: float = 0.0) -> dict[tuple[int, int], np.ndarray]:
    """The tiles of the factor, padded with those of the identity."""
    down = -(-len(a) // TILE)
    whole = np.eye(down * TILE, dtype=a.dtype)
    whole[: len(a), : len(a)] = np.linalg.cholesky(a + ridge * np.eye(len(a)))
    return {
        (i, j): np.ascontiguousarray(whole[i * TILE : (i + 1) * TILE, j * TILE : (j + 1) * TILE])
        for j in range(down)
        for i in range(j, down)
    }


def write(path: Path, a: np.ndarray, ridge: float = 0.0, overwrite: bool = False) -> None:
    """Write the factor of a matrix, column by column, as a job that can be continued."""
    contents = contents_of(a, ridge)
    try:
        with TileWriter(path, contents, 1, Policy(overwrite)) as writer:
            for (i, j), tile in tiles_of(a, ridge).items():
                if not writer.done[i, j]:
                    writer.check()
                    writer.tiles.write("factor", 0, i, j, tile)
                    writer.tiles.commit()
    except FileExistsError:
        existing(path, contents, open_factor).close()
