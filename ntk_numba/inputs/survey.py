"""Survey the rows of X before a kernel is computed: NaN, norms and digests in one loop.

X may be larger than memory and slow to read. What one call has found out is kept for each block of
`digest.ROWS` rows, so that no other call reads these rows for it again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ntk_numba.digest import ROWS, Digest, blocks_of

FAINT = 2.0**-900  # of a sum of squares, below which some of them may have underflowed


@dataclass(frozen=True)
class Survey:
    """Say what some rows hold; none of them holds NaN or infinity.

    Attributes
    ----------
    largest_norm : float
    longest_row : int
        The first row that has it.
    digest : Digest
        Of these rows, if it was asked for, else one without blocks.
    """

    largest_norm: float
    longest_row: int
    digest: Digest


class Depth(IntEnum):
    """How much is found out about a block; each takes longer and includes those before it."""

    NOTHING = 0
    FINITE = 1
    NORMS = 2
    HASHES = 3


class Findings:
    """Keep what is known of X so far, block by block.

    Attributes
    ----------
    length : int
        Rows of X.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        count = -(-length // ROWS)
        self._known = [Depth.NOTHING] * count
        self._norms = np.zeros(count)  # the largest of each block
        self._rows = np.zeros(count, np.int64)  # that have them
        self._hashes = [b""] * count

    def unknown(self, rows: Sequence[range] | None, depth: Depth) -> Iterator[tuple[int, int]]:
        """Yield runs of rows, in order, that have to be read to know the blocks of `rows`."""
        blocks = [k for k in self.blocks(rows) if self._known[k] < depth]
        while blocks:
            count = next((i for i, k in enumerate(blocks) if k > blocks[0] + i), len(blocks))
            yield blocks[0] * ROWS, min((blocks[0] + count) * ROWS, self.length)
            blocks = blocks[count:]

    def blocks(self, rows: Sequence[range] | None) -> list[int]:
        """Return the blocks that runs of rows lie in, by default all, in order."""
        return sorted(blocks_of([range(self.length)] if rows is None else rows, self.length))

    def largest(self, blocks: list[int]) -> tuple[float, int]:
        """Return the largest norm of some blocks, and the first row that has it."""
        k = blocks[int(np.argmax(self._norms[blocks]))]
        return float(self._norms[k]), int(self._rows[k])

    def hashes(self, blocks: list[int]) -> tuple[bytes, ...]:
        """Return the hashes of some blocks in the places that a `Digest` has for them."""
        chosen = set(blocks)
        return tuple(h if k in chosen else b"" for k, h in enumerate(self._hashes))

    def keep_finite(self, start: int, stop: int) -> None:
        """Keep that the blocks that rows `start` to `stop` complete are finite."""
        end = len(self._known) if stop == self.length else stop // ROWS
        for k in range(start // ROWS, end):
            self._known[k] = Depth.FINITE

    def keep(self, k: int, depth: Depth, norm: float, row: int, digest: bytes) -> None:
        """Keep what is known of a block, all of which has been read."""
        if self._known[k] < Depth.NORMS:  # or the last bit might change
            self._norms[k], self._rows[k] = norm, row
        self._known[k], self._hashes[k] = depth, digest


class Reading:
    """Find out about blocks whose rows are read one piece after another."""

    def __init__(self, findings: Findings, depth: Depth) -> None:
        self._findings, self._depth = findings, depth
        self._begin()

    def _begin(self) -> None:
        """Begin a block."""
        self._norm, self._row, self._hash = -1.0, 0, hashlib.sha256()

    def add(self, start: int, block: NDArray[np.floating]) -> None:
        """Take in finite rows, from `start` on, that follow those of the last call."""
        stop = start + len(block)
        if self._depth == Depth.FINITE:
            self._findings.keep_finite(start, stop)
            return
        values = block.astype("<f8")
        values += 0.0  # −0.0 and 0.0 are the same value
        norms = row_norms(values)
        for k in range(start // ROWS, -(-stop // ROWS)):
            end = min((k + 1) * ROWS, self._findings.length)
            piece = slice(max(k * ROWS, start) - start, min(end, stop) - start)
            row = piece.start + int(np.argmax(norms[piece]))
            if norms[row] > self._norm:
                self._norm, self._row = float(norms[row]), start + row
            if self._depth >= Depth.HASHES:
                self._hash.update(values[piece].data)
            if stop >= end:
                digest = self._hash.digest() if self._depth >= Depth.HASHES else b""
                self._findings.keep(k, self._depth, self._norm, self._row, digest)
                self._begin()


def row_norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean norms of finite rows.

    No square overflows, and none that matters underflows. Which rows come together decides the last
    bits of a norm, so `Source.blocks` has to stay as it is for results to stay as they are.
    """
    scale = largest_entry(rows)
    if scale == 0:
        return np.zeros(len(rows))
    scaled = rows / scale
    squares = np.einsum("ij,ij->i", scaled, scaled)
    with np.errstate(over="ignore"):
        norms = np.asarray(scale * np.sqrt(squares))
        faint = np.flatnonzero(squares < FAINT)
        if faint.size:
            own = np.abs(rows[faint]).max(axis=1)
            own[own == 0] = 1
            scaled = rows[faint] / own[:, None]
            norms[faint] = own * np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return norms


def largest_entry(rows: NDArray[np.floating]) -> float:
    """Return the largest absolute value; NaN or infinity if there is one."""
    return max(float(rows.max()), -float(rows.min()))
