"""Digests of the data that a file was computed from: SHA-256 by blocks of rows.

A part of a job knows the digests of the blocks that it has read; the digests of all parts together
are those of all data. `inputs.survey` computes them, and Gram files store them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntk_numba.grid import LARGEST_TILE

ROWS = LARGEST_TILE  # rows of a block; tiles of any size fill whole blocks
SIZE = 32  # bytes of a SHA-256


@dataclass(frozen=True)
class Digest:
    """SHA-256 digests of the values of X as float64, with 0 for −0.

    They do not depend on the kind of file or the dtype that X is stored in.

    shape : (N, n0)
    centre_sample : the digest of the evenly spaced rows that `Source.centre_sample` returns
    blocks : the digests of all blocks of `ROWS` rows; empty for a block that was not read
    """

    shape: tuple[int, int]
    centre_sample: bytes
    blocks: tuple[bytes, ...]

    @property
    def hex(self) -> str:
        """The SHA-256, in hexadecimal, over the shape and all digests."""
        digest = hashlib.sha256(repr(self.shape).encode())
        digest.update(self.table.tobytes())
        return digest.hexdigest()

    @property
    def table(self) -> NDArray[np.uint8]:
        """The digests as they are stored, (1 + blocks, 32), with zeros for rows not read."""
        rows = (block or bytes(SIZE) for block in (self.centre_sample, *self.blocks))
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, SIZE)

    @classmethod
    def from_table(cls, shape: tuple[int, int], table: NDArray[np.uint8]) -> "Digest":
        """Return the digest that is stored as `table`."""
        centre_sample, *blocks = (row.tobytes() if row.any() else b"" for row in table)
        return cls(shape, centre_sample, tuple(blocks))

    def difference(self, other: "Digest") -> str:
        """Describe where the data differs from that of `other`, in rows that both have read.

        The description is empty if there is no difference.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} and not {other.shape}"
        for k, (own, expected) in enumerate(zip(self.blocks, other.blocks, strict=True)):
            if own and expected and own != expected:
                return f"rows {k * ROWS} to {min((k + 1) * ROWS, self.shape[0]) - 1}"
        return "other rows" if self.centre_sample != other.centre_sample else ""


def blocks_of(rows: Iterable[range], length: int) -> set[int]:
    """Return the numbers of the blocks that some runs of rows lie in.

    length : the number of rows of the whole data
    """
    return {k for run in rows for k in range(run.start // ROWS, -(-min(run.stop, length) // ROWS))}
