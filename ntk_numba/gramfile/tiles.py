"""The tiles of a file and their checksums, written and read past HDF5.

A checksum covers a tile and, if the matrix is symmetric, its mirror image, which has to be its
transpose bit for bit. A tile is done if it has a checksum.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_numba import streams
from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.layout import CHECKSUM, TileMap, checksum
from ntk_numba.opening import is_at

READERS = 4  # threads that read and compare; may be more than cores, since they wait for the disk
BATCH = 256  # tiles that the threads are given at a time
# Bytes added to each row of a mirror image, which is read by columns: rows of a power of two bytes
# would fall into the same lines of the cache
PADDING = 64
CLOSED = -1  # in place of a descriptor

Place = tuple[str, int, int, int]
"""The place of a tile in a file: kernel, layer, i, j."""

Result = TypeVar("Result")


class Tile(NamedTuple):
    """A tile as it is on disk; its arrays are valid until its thread reads another.

    block : (T, T), the entries, padding included
    mirror : (T, T), the mirror image, transposed; None if there is none
    wrong : for (i, j) and for (j, i), the reason why it is wrong; empty if both are right
    scratch : (T, T), memory to work in, since allocating it would cost more than the work
    """

    place: Place
    block: NDArray[np.floating]
    mirror: NDArray[np.floating] | None
    wrong: dict[tuple[int, int], str]
    scratch: NDArray[np.floating]


class TileFile:
    """The tiles of a file that is laid out; a context manager that closes it.

    fd : a descriptor of the file, so that no other file can take its place; it may be closed then
    write : open the file for writing too
    direct : bypass the page cache, since copying through it takes cores from computing. A process
        that only copies tiles may write through the cache, which writes in the background.

    Raises
    ------
    OSError
        The file cannot be opened or, with `write`, cannot be written.
    """

    def __init__(
        self, fd: int, tile_map: TileMap, *, write: bool = False, direct: bool = True
    ) -> None:
        self.tile_map = tile_map
        self._fd = self._small = CLOSED
        streams.occupy()
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._written: list[tuple[int, int]] = []
        self._failed: OSError | None = None
        mode = os.O_RDWR if write else os.O_RDONLY
        self._fd = disk.reopen(fd, mode)  # for tiles
        try:
            self._small = disk.reopen(self._fd, mode)  # for checksums
        except OSError:
            self.close()
            raise
        disk.set_direct(self._fd, direct and tile_map.contents.tile_bytes % PAGE == 0)
        self._buffers = threading.local()

    def is_at(self, path: Path) -> bool:
        """Return whether the file still has the name `path`."""
        return is_at(self._fd, path)

    def keep_mode(self, like: os.stat_result) -> None:
        """Give the file the permissions of another one, see `disk.set_mode`."""
        disk.set_mode(self._fd, like)

    def close(self) -> None:
        """Close the file, once; tiles that were not committed are not done."""
        # a descriptor that was closed may be that of another file by now
        fds, self._fd, self._small = (self._fd, self._small), CLOSED, CLOSED
        for fd in fds:
            if fd != CLOSED:
                os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may not have been initialised
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stored_checksums(self) -> dict[str, NDArray[np.uint64]]:
        """Read the checksums of each matrix from disk, one after another as they are stored."""
        found: dict[str, NDArray[np.uint64]] = {}
        c = self.tile_map.contents
        for name in c.kernels:
            found[name] = np.empty(math.prod(c.tiles_shape), CHECKSUM)
            disk.read_at(self._small, found[name], self.tile_map.checksums[name])
        return found

    def checksums(self) -> dict[str, NDArray[np.uint64]]:
        """Read the checksums of each matrix from disk, as (layers, tiles down, tiles across)."""
        c = self.tile_map.contents
        return {
            name: c.storage.spread(sums, c.matrices)
            for name, sums in self.stored_checksums().items()
        }

    def done(self) -> NDArray[np.bool_]:
        """Return whether each tile has all of its checksums, as (tiles down, tiles across)."""
        return np.logical_and.reduce([(s != 0).all(axis=0) for s in self.checksums().values()])

    def write(
        self,
        kernel: str,
        layer: int,
        i: int,
        j: int,
        block: NDArray[np.floating],
        mirror: NDArray[np.floating] | None = None,
    ) -> int:
        """Write tile (i, j), a whole C-contiguous chunk, and its mirror image.

        Return its checksum. The tile is done after the next `commit`. Any thread may call this.
        """
        disk.write_at(self._fd, block, self.tile_map.tile_at(kernel, layer, i, j))
        if mirror is not None:
            disk.write_at(self._fd, mirror, self.tile_map.tile_at(kernel, layer, j, i))
        value = checksum(block)
        with self._lock:
            self._written.append((self.tile_map.checksum_at(kernel, layer, i, j), value))
        return value

    def commit(self) -> None:
        """Make the tiles written so far durable, then write their checksums.

        Any thread may call this. The tiles of calls that wait for each other are synced at once.
        """
        with self._syncing:
            with self._lock:
                group, self._written = self._written, []
            if group:
                self._sync()
                for at, value in group:
                    disk.write_at(self._small, value.to_bytes(8, "little"), at)

    def sync(self) -> None:
        """Make all tiles and checksums durable; after an error raise it again (see `disk.sync`)."""
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        """Sync once the lock is held.

        Of several syncs at the same time Linux tells one that data was lost; the others would
        write the checksums of lost tiles.
        """
        if self._failed:
            raise self._failed
        try:
            disk.sync(self._fd)
        except OSError as error:
            self._failed = error
            raise

    def forget(self) -> None:
        """Make all durable, and read from the disk from now on, not from the page cache."""
        self.sync()
        disk.forget(self._fd)

    def begin_with(self, signature: bytes) -> None:
        """Write the first bytes of the file."""
        disk.write_at(self._small, signature, 0)

    def clear_checksum(self, place: Place) -> None:
        """Clear the checksum of a tile, which is then not done."""
        disk.write_at(self._small, bytes(8), self.tile_map.checksum_at(*place))

    def scan(self, places: Iterable[Place], look: Callable[[Tile], Result]) -> Iterator[Result]:
        """Yield the results of `look` for the given tiles, in their order, from several threads."""
        sums = self.checksums()
        remaining = iter(places)
        with ThreadPoolExecutor(READERS, "reader") as pool:
            while batch := list(islice(remaining, BATCH)):
                yield from pool.map(lambda p: look(self.read(p, int(sums[p[0]][p[1:]]))), batch)

    def read(self, place: Place, value: int) -> Tile:
        """Read a tile and its mirror image into this thread's buffers, and compare them.

        value : the checksum that they have to match
        """
        kernel, layer, i, j = place
        c, own = self.tile_map.contents, self._buffers
        if not hasattr(own, "block"):
            own.block, own.mirror, own.scratch = (aligned(c.grid.chunk, c.dtype) for _ in range(3))
            own.equal = np.empty(c.grid.chunk, bool)
            rows, columns = c.grid.chunk
            padded = columns + PADDING // c.dtype.itemsize
            own.padded = np.empty((rows, padded), c.dtype)[:, :columns]
        wrong = {}
        if why := self.fetch(place, own.block, value):
            wrong[i, j] = why
        if i == j or c.storage.images == 1:
            return Tile(place, own.block, None, wrong, own.scratch)
        why = self._fill(own.mirror, kernel, layer, j, i)
        own.padded[:] = own.mirror
        mirror = own.padded.T
        if why:
            wrong[j, i] = why
        elif not wrong:
            bits = np.dtype(f"u{c.dtype.itemsize}")  # since as numbers -0 = 0 and NaN ≠ NaN
            if not np.equal(own.block.view(bits), mirror.view(bits), out=own.equal).all():
                wrong[j, i] = f"is not the mirror of ({i}, {j})"
        elif checksum(np.ascontiguousarray(mirror)) != value:
            wrong[j, i] = "does not match its checksum"
        return Tile(place, own.block, mirror, wrong, own.scratch)

    def fetch(self, place: Place, block: NDArray[np.floating], value: int) -> str:
        """Fill a block with a stored tile; return why it is wrong, or an empty text.

        Any thread may call this.

        block : a C-contiguous chunk
        value : the checksum that it has to match
        """
        why = self._fill(block, *place)
        return why or ("" if checksum(block) == value else "does not match its checksum")

    def _fill(self, block: NDArray[np.floating], kernel: str, layer: int, i: int, j: int) -> str:
        """Read a stored tile; return why it cannot be read, or an empty text."""
        try:
            disk.read_at(self._fd, block, self.tile_map.tile_at(kernel, layer, i, j))
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return ""
