"""Files of tiles that stay open for reading, and are read by several threads.

Tiles are compared with the checksums that a file had when it was opened for this, so that one that
is damaged, or changes meanwhile, is an error that names the tile.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Stored
from ntk_numba.gramfile.tiles import Place, TileFile

Key = TypeVar("Key", bound=Hashable)


@dataclass
class Reading:
    """A file of tiles that is open for reading.

    tiles : the open file
    sums : of each matrix, the checksums of its tiles, as they are stored, one after another
    users : the number of threads that read it now
    """

    tiles: TileFile
    sums: dict[str, NDArray[np.uint64]]
    users: int = 0

    def problem(self, place: Place, out: NDArray[np.floating]) -> str:
        """Fill an array with a tile; return why it is wrong, or an empty text."""
        name, layer, i, j = place
        at = self.tiles.tile_map.contents.storage.number(layer, i, j)
        return self.tiles.fetch(place, out, int(self.sums[name][at]))


class OpenFiles(Generic[Key]):
    """Files that are open for reading, a few at a time, which several threads share.

    Parameters
    ----------
    open_file : opens the file of a key
    most : the number of files that stay open although nobody reads them
    """

    def __init__(self, open_file: Callable[[Key], Reading], most: int) -> None:
        self._open_file, self._most = open_file, most
        self._files: OrderedDict[Key, Reading] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._files)

    @contextlib.contextmanager
    def use(self, key: Key) -> Iterator[Reading]:
        """Return the open file of a key, as a context in which it stays open.

        Raises
        ------
        ValueError
            The object was closed.
        OSError
            The file cannot be opened; of descriptors there are too few although no other file of
            this object is open.
        """
        with self._changed:
            reading = self._opened(key)
            reading.users += 1
        try:
            yield reading
        finally:
            with self._changed:
                reading.users -= 1
                if self._closed and not reading.users:
                    reading.tiles.close()
                self._changed.notify_all()

    def _opened(self, key: Key) -> Reading:
        """Return the file of a key; the lock is held."""
        while True:
            if self._closed:
                raise InvalidValueError("the Gram file of this matrix is closed; open it again")
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
            if len(self._files) >= self._most:
                self._close_one()
            try:
                self._files[key] = self._open_file(key)
            except OSError as error:
                if error.errno not in disk.NO_DESCRIPTORS or not self._files:
                    raise
                if not self._close_one():
                    self._changed.wait()  # until another thread has read its tile

    def _close_one(self) -> bool:
        """Close the file that was used least recently, if there is one that nobody reads."""
        for key, reading in self._files.items():
            if not reading.users:
                del self._files[key]
                reading.tiles.close()
                return True
        return False

    def close(self) -> None:
        """Close all files, those that are being read as soon as that is done."""
        with self._changed:
            self._closed = True
            for reading in self._files.values():
                if not reading.users:
                    reading.tiles.close()
            self._files.clear()


class Source(Protocol):
    """Where the tiles of a Gram file are: in the file itself, or in its parts."""

    @property
    def paths(self) -> list[Path]:
        """The files that have the tiles."""
        ...

    def read(self, place: Place, out: NDArray[np.floating], *, direct: bool) -> None:
        """Fill an array of a stored tile's shape, which should begin at a page of memory.

        direct : bypass the page cache

        Raises
        ------
        ValueError
            The tile is damaged, or changed since the file was opened.
        """
        ...

    def places(self, name: str, layer: int) -> NDArray[np.intp]:
        """Return the (i, j) of the tiles that are done, (n, 2), in the order of the files."""
        ...

    def fingerprint(self, name: str, layer: int) -> bytes:
        """Return bytes that change if any tile of a matrix may have changed."""
        ...

    def close(self) -> None:
        """Close the open files."""
        ...


class OwnTiles:
    """The tiles that a file holds itself.

    Parameters
    ----------
    path, contents : the path of the file, for errors, and its contents
    open_tiles : opens its tiles, bypassing the page cache or not
    complete : whether all tiles have to be done
    """

    def __init__(
        self,
        path: Path,
        contents: Stored,
        open_tiles: Callable[[bool], TileFile],
        *,
        complete: bool,
    ) -> None:
        self._path, self._contents, self._open_tiles = path, contents, open_tiles
        self.paths = [path]
        self._complete = complete
        self._files = OpenFiles(self._open, 2)
        with open_tiles(False) as tiles:
            self._sums = tiles.stored_checksums()

    def _open(self, direct: bool) -> Reading:
        return Reading(self._open_tiles(direct), self._sums)

    def read(self, place: Place, out: NDArray[np.floating], *, direct: bool) -> None:
        """Read a tile, see `Source`."""
        with self._files.use(direct) as reading:
            why = reading.problem(place, out)
        if why:
            name, layer, i, j = place
            raise InvalidValueError(
                f"{self._path}: tile ({i}, {j}) of {self._contents.matrix_name(name, layer)} "
                f"{why}; the file is damaged, or was changed since it was opened: run ntk-numba "
                f"verify on it"
            )

    def places(self, name: str, layer: int) -> NDArray[np.intp]:
        """Return the (i, j) of the tiles that are done, row by row, which is their order."""
        mask = self._contents.storage.mask
        if not self._complete:  # in a complete file, a tile without a checksum is damaged
            sums = self._contents.storage.spread(self._sums[name], self._contents.matrices)
            mask = mask & (sums[layer] != 0)
        return np.argwhere(mask)

    def fingerprint(self, name: str, layer: int) -> bytes:
        """Return the checksums of the tiles of a matrix."""
        c = self._contents
        return self._sums[name].reshape(c.matrices, -1)[layer].tobytes()

    def close(self) -> None:
        """Close the file."""
        self._files.close()
