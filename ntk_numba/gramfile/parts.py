"""The parts that a linked file refers to, opened, checked and read without HDF5's links.

HDF5 looks for the sources of a virtual dataset by itself, at every read: in folders that a variable
of the environment names, and by whatever file has the name then. So entries are never read through
it. A part is opened here, compared with what the link recorded of it, and read through that open
file, each tile against its checksum.
"""

import contextlib
import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError, file_error
from ntk_numba.gramfile import claims, disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import CHECKSUM, CHECKSUMS, HDF5, read_header, read_tile_map
from ntk_numba.gramfile.sources import OpenFiles, Reading
from ntk_numba.gramfile.tiles import Place, TileFile

MOST_OPEN = 8  # parts that are open at the same time, with two descriptors each
CACHE_BYTES = 64 << 20  # of tiles, so that neighbouring rows read their common tiles once
# The optional attribute of a link: a list, in JSON, of the `fingerprint` of each part
FINGERPRINTS = "linked_checksums"


class Checked(NamedTuple):
    """A part that is open and that is the one that was linked.

    sums : of each kernel, the checksums of its tiles, as they are stored
    """

    file: HDF5
    header: Header[Contents]
    sums: dict[str, NDArray[np.uint64]]


def read_checksums(file: HDF5, contents: Contents) -> dict[str, NDArray[np.uint64]]:
    """Return the checksums of the tiles of each kernel, as they are stored."""
    return {
        name: claims.dataset(file[CHECKSUMS], name, CHECKSUM, contents.tiles_shape)[...].ravel()
        for name in contents.kernels
    }


def fingerprint(contents: Contents, sums: dict[str, NDArray[np.uint64]]) -> int:
    """Return a digest of what a seal does not cover: kernels, dtype, and the tiles' checksums."""
    digest = xxhash.xxh3_64()
    for name in contents.kernels:
        digest.update(f"{name} {contents.dtype} ".encode())
        digest.update(sums[name].astype(CHECKSUM).tobytes())
    return digest.intdigest()


class Parts:
    """The parts of a linked file.

    All of them are checked when the link is opened, and a part again whenever it is opened to read
    tiles. Only a few are open at the same time, so that a process may have fewer descriptors than
    a job has parts. Any thread may read.

    Parameters
    ----------
    path, real : the path of the link, for errors, and where it really is
    file, header : the open link, and its header

    Raises
    ------
    ValueError
        A part is missing, or is not the file that was linked.
    """

    def __init__(self, path: Path, real: Path, file: HDF5, header: Header[Contents]) -> None:
        self._path, self._header = path, header
        self.paths = [real.parent / name for name, _ in header.linked]
        self._prints = _fingerprints(path, file, len(self.paths))
        self._reading: OpenFiles[tuple[int, bool]] = OpenFiles(self._opened, MOST_OPEN)
        self._cached: OrderedDict[Place, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()
        grid = header.contents.grid
        # the number of the part that has each tile
        self._owners = np.full((grid.down, grid.across), -1, np.int32)
        for number in range(len(self.paths)):
            checked = self.open(number)
            checked.file.close()
            self._owners[checked.header.contents.storage.mask] = number
        if (self._owners[header.contents.storage.mask] < 0).any():
            raise InvalidValueError(f"{path} is damaged: its parts are not the whole job")

    def open(self, number: int) -> Checked:
        """Open a part, and check that it is the one that was linked.

        Raises
        ------
        ValueError
            It is missing, or is another one.
        OSError
            There are no descriptors left.
        """
        part = self.paths[number]
        state = "is not the file that was linked"
        try:
            if not part.exists():
                state = "does not exist"
            elif part.is_file():
                file = HDF5(part)
                with contextlib.suppress(ValueError, OSError, KeyError, RuntimeError):
                    if found := self._compared(number, file, part):
                        return found
                file.close()
        except (OSError, ValueError) as error:
            disk.raise_exhausted(error)
            state = f"cannot be read ({error})"
        raise InvalidValueError(
            f"{self._path} is made of {part}, which {state}; put it back, or merge again"
        )

    def _compared(self, number: int, file: HDF5, part: Path) -> Checked | None:
        """Return a part if it is the one that was linked."""
        _, seal = self._header.linked[number]
        # a link to a link might lead back to itself
        if not file.complete or file.links_parts or claims.attribute(file, "seal", int) != seal:
            return None
        header = read_header(file, part)
        of_job = self._header.contents.same_job(header.contents)
        if not of_job or header.numerics != self._header.numerics:
            return None
        sums = read_checksums(file, header.contents)
        recorded = self._prints[number] if self._prints else None
        if recorded is not None and recorded != fingerprint(header.contents, sums):
            return None
        return Checked(file, header, sums)

    def tile(self, place: Place) -> NDArray[Any]:
        """Return a tile, padding included, which matches its checksum; it must not be changed.

        It is read through the page cache, since tiles that are indexed are read more than once.

        Raises
        ------
        ValueError
            Its part is missing or is another one now, or the tile is damaged.
        OSError
            There are no descriptors left.
        """
        with self._lock:
            block = self._cached.get(place)
            if block is None:
                c = self._header.contents
                block = np.empty(c.grid.chunk, c.dtype)
                self.read(place, block, direct=False)
                self._cached[place] = block
                while len(self._cached) > max(1, CACHE_BYTES // block.nbytes):
                    self._cached.popitem(last=False)
            self._cached.move_to_end(place)
            return block

    def read(self, place: Place, out: NDArray[Any], *, direct: bool) -> None:
        """Read a tile from its part, see `sources.Source`."""
        name, _, i, j = place
        number = int(self._owners[i, j])
        with self._reading.use((number, direct)) as reading:
            why = reading.problem(place, out)
        if why:
            raise InvalidValueError(
                f"{self.paths[number]}: tile ({i}, {j}) of {name} {why}; it was damaged or "
                f"replaced since {self._path} linked it: run ntk-numba verify on both"
            )

    def places(self, name: str, layer: int) -> NDArray[np.intp]:
        """Return the (i, j) of all tiles, (n, 2), part by part, in the order of each part."""
        places = np.argwhere(self._header.contents.storage.mask)
        return places[np.argsort(self._owners[places[:, 0], places[:, 1]], kind="stable")]

    def fingerprint(self, name: str, layer: int) -> bytes:
        """Return bytes that change if any tile of the parts may have changed."""
        prints = self._prints
        if not prints:  # the link is of an older version
            for number in range(len(self.paths)):
                checked = self.open(number)
                with checked.file:
                    prints.append(fingerprint(checked.header.contents, checked.sums))
        return json.dumps([*self._header.linked, *prints]).encode()

    def _opened(self, key: tuple[int, bool]) -> Reading:
        """Open the tiles of a part, bypassing the page cache or not."""
        number, direct = key
        part = self.paths[number]
        try:
            file, header, sums = self.open(number)
            with file:
                tile_map = read_tile_map(file, part, header.contents)
                tiles = TileFile(file.descriptor, tile_map, direct=direct)
        except OSError as error:
            if error.strerror is None:  # it is one of ours
                raise
            raise file_error(error, f"{part} cannot be read: {error.strerror}") from None
        return Reading(tiles, sums)

    def close(self) -> None:
        """Close all parts."""
        self._reading.close()
        with self._lock:
            self._cached.clear()


def _fingerprints(path: Path, file: HDF5, count: int) -> list[int]:
    """Return what a link recorded of each part; nothing if it is of an older version."""
    text = claims.attribute(file, FINGERPRINTS, str, "")
    found = json.loads(text) if text else []
    if text and (len(found) != count or not all(type(value) is int for value in found)):
        raise InvalidValueError(f"{path} is damaged: its attribute {FINGERPRINTS} has changed")
    return found
