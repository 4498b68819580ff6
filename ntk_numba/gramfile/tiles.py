"""The tiles of a Gram file and their checksums, written and read past HDF5.

A checksum stands for a tile and, where the matrix is symmetric, for its mirror image, which has to
be its transpose bit for bit. A tile is done if it has one.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.layout import CHECKSUM, TileMap, checksum

READERS = 4  # threads that read and compare: more than cores, since they wait for the disk
TOGETHER = 256  # tiles they are given at a time
APART = 64  # bytes between rows that are read as columns: a power of two would meet in the cache

Place = tuple[str, int, int, int]
"""A tile to compute: kernel, layer, i, j."""

Result = TypeVar("Result")


class Tile(NamedTuple):
    """A tile as it is on disk, for as long as it is looked at.

    block : (T, T), padding included
    mirror : (T, T), its mirror image, transposed; None where there is none
    wrong : what is not as its checksum says: (i, j), (j, i), or both, and why
    scratch : (T, T), to work in: new memory costs more than the work
    """

    place: Place
    block: NDArray[np.floating]
    mirror: NDArray[np.floating] | None
    wrong: dict[tuple[int, int], str]
    scratch: NDArray[np.floating]


class TileFile:
    """The tiles of a file that is laid out; to be closed.

    direct : past the page cache, where cores have better things to do than to copy. Who only copies
        may write through it, which writes behind.

    Raises
    ------
    OSError
        A file that cannot be opened or, if `write`, written.
    """

    def __init__(
        self, path: Path | str, tile_map: TileMap, *, write: bool = False, direct: bool = True
    ) -> None:
        self.tile_map = tile_map
        mode = os.O_RDWR if write else os.O_RDONLY
        self._lock = threading.Lock()
        self._written: list[tuple[int, int]] = []
        self._failed: OSError | None = None
        self._fd = os.open(path, mode)  # for tiles
        self._small = os.open(path, mode)  # for checksums
        disk.set_direct(self._fd, direct and tile_map.contents.tile_bytes % PAGE == 0)
        self._buffers = threading.local()

    def is_at(self, path: Path) -> bool:
        """Whether it still has that name."""
        return disk.is_at(self._fd, path)

    def close(self) -> None:
        """Close the file; what was not committed is not done."""
        os.close(self._fd)
        os.close(self._small)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def checksums(self) -> dict[str, NDArray[np.uint64]]:
        """Those of each kernel as they are on disk now, (layers, tiles down, tiles across)."""
        found: dict[str, NDArray[np.uint64]] = {}
        c = self.tile_map.contents
        for name in c.kernels:
            sums = np.empty(c.tiles, CHECKSUM)
            disk.read_at(self._small, sums, self.tile_map.checksums[name])
            found[name] = c.storage.spread(sums, c.matrices)
        return found

    def done(self) -> NDArray[np.bool_]:
        """Whether a tile has all of its checksums, (tiles down, tiles across)."""
        return np.logical_and.reduce([(s != 0).all(axis=0) for s in self.checksums().values()])

    def write(
        self,
        kernel: str,
        layer: int,
        i: int,
        j: int,
        block: NDArray[np.floating],
        mirror: NDArray[np.floating] | None = None,
    ) -> None:
        """Write tile (i, j), a whole C-contiguous chunk, and its mirror image. Any thread may.

        It is done after the next `commit`.
        """
        disk.write_at(self._fd, block, self.tile_map.tile_at(kernel, layer, i, j))
        if mirror is not None:
            disk.write_at(self._fd, mirror, self.tile_map.tile_at(kernel, layer, j, i))
        record = self.tile_map.checksum_at(kernel, layer, i, j), checksum(block)
        with self._lock:
            self._written.append(record)

    def commit(self) -> None:
        """Make what was written durable, and then its checksums known. Any thread may."""
        with self._lock:
            group, self._written = self._written, []
        if group:
            self.sync()
            for at, value in group:
                disk.write_at(self._small, value.to_bytes(8, "little"), at)

    def sync(self) -> None:
        """Make all checksums durable too; after an error never again (see `disk.sync`)."""
        if self._failed:
            raise self._failed
        try:
            disk.sync(self._fd)
        except OSError as error:
            self._failed = error
            raise

    def begin_with(self, signature: bytes) -> None:
        """Write the first bytes of the file."""
        disk.write_at(self._small, signature, 0)

    def forget(self, place: Place) -> None:
        """Take a tile's checksum away: it is not done."""
        disk.write_at(self._small, bytes(8), self.tile_map.checksum_at(*place))

    def scan(self, places: Iterable[Place], look: Callable[[Tile], Result]) -> Iterator[Result]:
        """What `look` finds, in several threads, in the given tiles, in their order."""
        sums = self.checksums()
        remaining = iter(places)
        with ThreadPoolExecutor(READERS, "reader") as pool:
            while some := list(islice(remaining, TOGETHER)):
                yield from pool.map(lambda place: look(self._read(place, sums)), some)

    def _read(self, place: Place, sums: dict[str, NDArray[np.uint64]]) -> Tile:
        kernel, layer, i, j = place
        c, own = self.tile_map.contents, self._buffers
        if not hasattr(own, "block"):
            own.block, own.mirror, own.scratch = (aligned(c.grid.chunk, c.dtype) for _ in range(3))
            own.equal = np.empty(c.grid.chunk, bool)
            rows, columns = c.grid.chunk
            own.apart = np.empty((rows, columns + APART // c.dtype.itemsize), c.dtype)[:, :columns]
        value, wrong = int(sums[kernel][layer, i, j]), {}
        why = self._fill(own.block, kernel, layer, i, j)
        if why or checksum(own.block) != value:
            wrong[i, j] = why or "does not match its checksum"
        if i == j or c.storage.images == 1:
            return Tile(place, own.block, None, wrong, own.scratch)
        why = self._fill(own.mirror, kernel, layer, j, i)
        own.apart[:] = own.mirror
        mirror = own.apart.T
        if why:
            wrong[j, i] = why
        elif not wrong:
            bits = np.dtype(f"u{c.dtype.itemsize}")  # as numbers, -0 = 0 and NaN ≠ NaN
            if not np.equal(own.block.view(bits), mirror.view(bits), out=own.equal).all():
                wrong[j, i] = f"is not the mirror of ({i}, {j})"
        elif checksum(np.ascontiguousarray(mirror)) != value:
            wrong[j, i] = "does not match its checksum"
        return Tile(place, own.block, mirror, wrong, own.scratch)

    def _fill(self, block: NDArray[np.floating], kernel: str, layer: int, i: int, j: int) -> str:
        """Read one stored tile; why it cannot be."""
        try:
            disk.read_at(self._fd, block, self.tile_map.tile_at(kernel, layer, i, j))
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return ""
