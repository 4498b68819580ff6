"""The survey of the rows of X before a kernel is computed: NaN, norms and digests in one loop.

X may be larger than memory and slow to read. The findings of a call are kept for each block of
`digest.ROWS` rows, so that no other call reads these rows for the same purpose again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ntk_numba.digest import ROWS, Digest, blocks_of

UNDERFLOW_SQUARES = 2.0**-900  # in a smaller sum of squares, some may have underflowed


@dataclass(frozen=True)
class Survey:
    """The largest norm and the digest of rows that hold neither NaN nor infinity.

    Attributes
    ----------
    largest_norm : float
    longest_row : int
        The first row with this norm.
    digest : Digest
        The digest of these rows if it was requested, else one without blocks.
    """

    largest_norm: float
    longest_row: int
    digest: Digest


class Depth(IntEnum):
    """A level of knowledge about a block; each includes those before it and takes longer."""

    NOTHING = 0
    FINITE = 1
    NORMS = 2
    HASHES = 3


class Findings:
    """The findings about X so far, block by block.

    Attributes
    ----------
    length : int
        The number of rows of X.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        count = -(-length // ROWS)
        self._known = [Depth.NOTHING] * count
        self._norms = np.zeros(count)  # the largest norm of each block
        self._rows = np.zeros(count, np.int64)  # the first row with this norm
        self._hashes = [b""] * count

    def unknown(self, rows: Sequence[range] | None, depth: Depth) -> Iterator[tuple[int, int]]:
        """Yield the runs of rows, in order, that must be read to know the blocks of `rows`."""
        blocks = [k for k in self.blocks(rows) if self._known[k] < depth]
        while blocks:
            count = next((i for i, k in enumerate(blocks) if k > blocks[0] + i), len(blocks))
            yield blocks[0] * ROWS, min((blocks[0] + count) * ROWS, self.length)
            blocks = blocks[count:]

    def blocks(self, rows: Sequence[range] | None) -> list[int]:
        """Return the sorted numbers of the blocks that runs of rows lie in, by default all."""
        return sorted(blocks_of([range(self.length)] if rows is None else rows, self.length))

    def largest(self, blocks: list[int]) -> tuple[float, int]:
        """Return the largest norm of the given blocks, and the first row with this norm."""
        k = blocks[int(np.argmax(self._norms[blocks]))]
        return float(self._norms[k]), int(self._rows[k])

    def hashes(self, blocks: list[int]) -> tuple[bytes, ...]:
        """Return the hashes of the given blocks as `Digest.blocks`, with b"" for all others."""
        chosen = set(blocks)
        return tuple(h if k in chosen else b"" for k, h in enumerate(self._hashes))

    def keep_finite(self, start: int, stop: int) -> None:
        """Record that the blocks that end in rows `start` to `stop` are finite."""
        end = len(self._known) if stop == self.length else stop // ROWS
        for k in range(start // ROWS, end):
            self._known[k] = Depth.FINITE

    def keep(self, k: int, depth: Depth, norm: float, row: int, digest: bytes) -> None:
        """Record the findings about block k, all rows of which have been read."""
        if self._known[k] < Depth.NORMS:  # a second sum might change the last bit
            self._norms[k], self._rows[k] = norm, row
        self._known[k], self._hashes[k] = depth, digest


class Reading:
    """The survey of blocks whose rows are read in pieces, one after another."""

    def __init__(self, findings: Findings, depth: Depth) -> None:
        self._findings, self._depth = findings, depth
        self._begin()

    def _begin(self) -> None:
        """Reset the findings for the next block."""
        self._norm, self._row, self._hash = -1.0, 0, hashlib.sha256()

    def add(self, start: int, block: NDArray[np.floating]) -> None:
        """Add finite rows, from row `start` on, which follow those of the last call."""
        stop = start + len(block)
        if self._depth == Depth.FINITE:
            self._findings.keep_finite(start, stop)
            return
        # before the copy for the hash: with two copies at once, the allocator returns the memory to
        # the system after each block, and taking it again doubles the time
        norms = row_norms(block)
        if self._depth >= Depth.HASHES:
            values = block.astype("<f8")
            values += 0.0  # turns −0.0 into 0.0, which has the same value
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


def row_norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Euclidean norms of finite rows.

    No square overflows, and none that affects the norm underflows. The last bits of a norm depend
    on which rows are passed together, so a change of `Source.blocks` would change results.
    """
    scale = largest_entry(rows)
    if scale == 0:
        return np.zeros(len(rows))
    scaled = np.divide(rows, scale, dtype=np.float64)
    squares = np.einsum("ij,ij->i", scaled, scaled)
    with np.errstate(over="ignore"):
        norms = np.asarray(scale * np.sqrt(squares))
        small = np.flatnonzero(squares < UNDERFLOW_SQUARES)
        if small.size:
            chosen = rows[small].astype(np.float64)
            scales = np.abs(chosen).max(axis=1)
            scales[scales == 0] = 1
            scaled = chosen / scales[:, None]
            norms[small] = scales * np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return norms


def largest_entry(rows: NDArray[np.floating]) -> float:
    """Return the largest absolute value, or NaN or infinity if the rows hold them."""
    return max(float(rows.max()), -float(rows.min()))
