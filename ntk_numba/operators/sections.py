"""Files of arrays with a checksum for each, which are written whole: columns and partial products.

The file begins with a mark, the length of its description and the XXH3 of the description, which
is JSON and has the XXH3 of each array. So a reader that needs some of the arrays reads no others,
and knows that those it has read are right.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba import stopping, streams
from ntk_numba.errors import FileError, file_error
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.whole import written_whole
from ntk_numba.opening import open_descriptor

MARK = b"\x89NTKSECT"
HEAD = len(MARK) + 2 * 8  # bytes before the description: its length and its checksum follow
ALIGNED = 64  # arrays begin at multiples of it
DTYPES = {"<f8", "<i8", "<i4"}


class Section(NamedTuple):
    """The place of an array in a file.

    start : the row of the whole matrix that is the array's first
    """

    name: str
    start: int
    dtype: str
    shape: tuple[int, ...]
    at: int
    checksum: str

    @property
    def size(self) -> int:
        """The bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_sections(
    path: Path, facts: Mapping[str, Any], arrays: Sequence[tuple[str, int, NDArray[Any]]]
) -> None:
    """Write arrays to a file completely, or leave no trace; a file of this name is replaced.

    facts : what the file says of itself, as values of JSON
    arrays : (name, first row, array) of each section

    Raises
    ------
    OSError
        The folder is missing or cannot be written, the disk is full, or another process writes
        the file.
    """
    kept = [(name, start, np.ascontiguousarray(array)) for name, start, array in arrays]
    sections, at = [], 0
    for name, start, array in kept:
        digest = xxhash.xxh3_64(array.reshape(-1).view(np.uint8).data).hexdigest()
        sections.append(Section(name, start, array.dtype.str, array.shape, at, digest))
        at += -(-array.nbytes // ALIGNED) * ALIGNED
    text = json.dumps({"facts": dict(facts), "sections": sections}).encode()
    base = _base(len(text))
    with written_whole(path, base + at, overwrite=True) as fd:
        disk.write_at(fd, _head(text) + text, 0)
        for section, (_, _, array) in zip(sections, kept, strict=True):
            stopping.check()
            disk.write_at(fd, array.reshape(-1), base + section.at)


class SectionsFile:
    """A file that `write_sections` has written; a context manager that closes it.

    Attributes
    ----------
    facts : dict, as they were written
    sections : list of Section

    Raises
    ------
    OSError
        The file is missing, cannot be read, or is damaged: another one may be written in its place.
    """

    def __init__(self, path: Path) -> None:
        streams.occupy()
        self.path = path
        try:
            self._fd = open_descriptor(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise file_error(error, f"{path} cannot be read: {reason}") from None
        try:
            head = os.pread(self._fd, HEAD, 0)
            length = int.from_bytes(head[len(MARK) : len(MARK) + 8], "little")
            if not head.startswith(MARK) or length > os.fstat(self._fd).st_size:
                raise self._damaged()
            text = os.pread(self._fd, length, HEAD)
            if _head(text) != head:
                raise self._damaged()
            found = json.loads(text)
            self.facts: dict[str, Any] = found["facts"]
            self.sections = [
                Section(name, start, dtype, tuple(shape), at, checksum)
                for name, start, dtype, shape, at, checksum in found["sections"]
            ]
            self._base = _base(length)
        except BaseException:
            os.close(self._fd)
            raise

    def read(self, section: Section) -> NDArray[Any]:
        """Return an array of the file, compared with its checksum."""
        if section.dtype not in DTYPES:
            raise self._damaged()
        array = np.empty(section.shape, section.dtype)
        flat = array.reshape(-1)
        try:
            disk.read_at(self._fd, flat, self._base + section.at)
        except OSError as error:
            raise file_error(error, f"{self.path} cannot be read: {error.strerror}") from None
        if xxhash.xxh3_64(flat.view(np.uint8).data).hexdigest() != section.checksum:
            raise self._damaged()
        return array

    def _damaged(self) -> FileError:
        return FileError(f"{self.path} is damaged; delete it, and run the same again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _base(length: int) -> int:
    """Return where the first array begins, after a description of this length."""
    return -(-(HEAD + length) // ALIGNED) * ALIGNED


def _head(text: bytes) -> bytes:
    """Return the first bytes of a file with this description."""
    return MARK + len(text).to_bytes(8, "little") + xxhash.xxh3_64(text).digest()
