"""Detection of data that changes while a job reads it.

Rows are read at least twice: when they are surveyed, and when tiles are computed. If each row has
the same checksum whenever it is read, then all rows are those that the data had at the moment
between the two, and the digest is theirs, however the data is changed and whatever the clocks say.

What cannot be found in this way is what HDF5 makes up in place of values that are missing from the
first read on. Therefore the status of each file is compared too.
"""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128

from ntk_numba.opening import open_ordinary

BUFFER_BYTES = 1 << 20


class Stamp(NamedTuple):
    """The status of a file, which tells whether it has been written to, replaced or removed.

    Attributes
    ----------
    path : Path
        As it was given. A relative path means another file if the working folder changes.
    contents : tuple of int
        Device, inode, size and time of modification; empty if there is no file.
    rights : tuple of int
        Mode, owner, group and number of names.
    time : int
        The time of the last change of all this, which nobody can set back.
    """

    path: Path
    contents: tuple[int, ...] = ()
    rights: tuple[int, ...] = ()
    time: int = 0

    @property
    def changed(self) -> bool:
        """Whether the file has been written to, replaced or removed since."""
        now = stamp(self.path)
        if now.contents != self.contents:
            return True
        # New rights, and new names as in a backup by hard links, change the last time too.
        return now.time != self.time and now.rights == self.rights


def stamp(path: Path) -> Stamp:
    """Return the status of a file as it is now."""
    try:
        found = path.stat()
    except OSError:
        return Stamp(path)
    contents = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    rights = found.st_mode, found.st_uid, found.st_gid, found.st_nlink
    return Stamp(path, contents, rights, found.st_ctime_ns)


class RowChecksums:
    """The checksums of those rows of a matrix that have been read.

    A row takes 0.3 µs if it has 784 features, and 8 bytes.
    """

    def __init__(self, length: int) -> None:
        self._length = length

    @cached_property
    def _known(self) -> NDArray[np.uint64]:
        """The checksums; 0 for rows that have not been read.

        They are allocated when the first row is read: a plan refuses what does not fit before.
        """
        return np.zeros(self._length, np.uint64)

    def compare(self, first: int, rows: NDArray[np.floating]) -> int | None:
        """Return the first row that is not what it was when it was first read; None without one.

        first : the number of the first of these rows, which are C-contiguous
        """
        # with the lowest bit set, none is 0, which stands for a row that has not been read
        new = np.fromiter(map(xxh3_64_intdigest, rows), np.uint64, len(rows)) | np.uint64(1)
        old = self._known[first : first + len(rows)]
        other = (old != 0) & (old != new)
        if other.any():
            return first + int(np.argmax(other))
        old[:] = new
        return None


def checksum(path: Path) -> bytes:
    """Return a checksum of the bytes of a file."""
    found = xxh3_128()
    with open_ordinary(path) as file:
        while block := file.read(BUFFER_BYTES):
            found.update(block)
    return found.digest()
