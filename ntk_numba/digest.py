"""What data a file was made of: SHA-256 by blocks of rows.

A part of a job knows the blocks that it has read; those of all parts together are the whole.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntk_numba.grid import LARGEST_TILE

ROWS = LARGEST_TILE  # of a block, so that tiles of every size fill blocks
SIZE = 32  # bytes


@dataclass(frozen=True)
class Digest:
    """Of the values as float64, 0 for −0: the same from whatever file.

    shape : (N, n0)
    evenly : of the rows that are evenly spaced, see `source.Source.evenly`
    blocks : of `ROWS` rows each; empty for those that were not read
    """

    shape: tuple[int, int]
    evenly: bytes
    blocks: tuple[bytes, ...]

    @property
    def hex(self) -> str:
        """Of all."""
        digest = hashlib.sha256(repr(self.shape).encode())
        digest.update(self.table.tobytes())
        return digest.hexdigest()

    @property
    def table(self) -> NDArray[np.uint8]:
        """(1 + blocks, 32), as it is stored: zeros for what was not read."""
        rows = (block or bytes(SIZE) for block in (self.evenly, *self.blocks))
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, SIZE)

    @classmethod
    def from_table(cls, shape: tuple[int, int], table: NDArray[np.uint8]) -> "Digest":
        """The one that is stored."""
        evenly, *blocks = (row.tobytes() if row.any() else b"" for row in table)
        return cls(shape, evenly, tuple(blocks))

    def difference(self, other: "Digest") -> str:
        """Where the data is not that of `other`, as far as both know; "" where it is."""
        if self.shape != other.shape:
            return f"shape {self.shape} and not {other.shape}"
        for k, (mine, theirs) in enumerate(zip(self.blocks, other.blocks, strict=True)):
            if mine and theirs and mine != theirs:
                return f"rows {k * ROWS} to {min((k + 1) * ROWS, self.shape[0]) - 1}"
        return "other rows" if self.evenly != other.evenly else ""


def blocks_of(rows: Iterable[range], length: int) -> set[int]:
    """The blocks that runs of rows, of `length` in all, lie in."""
    return {k for run in rows for k in range(run.start // ROWS, -(-min(run.stop, length) // ROWS))}
