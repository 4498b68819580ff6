"""The layout of a file of tiles on disk, and its header.

HDF5 lays out a file once: with fixed dimensions, early allocation and no filter, every chunk, which
is a tile, has an address that can be computed. Tiles and their checksums are written there by plain
system calls (see `disk`), which need no lock, so that writing overlaps computing.

Nothing else in a file changes except its first 8 bytes: while it is incomplete they are not those
of HDF5, so that no program takes an unwritten tile for zeros.
"""

import contextlib
import errno
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
import xxhash

from ntk_numba import streams
from ntk_numba.compiled.arrays import PAGE
from ntk_numba.errors import BusyFileError, FileError, InvalidValueError, file_error, folder_error
from ntk_numba.gramfile import claims, disk
from ntk_numba.gramfile.contents import AnyContents, Contents, Header, Stored
from ntk_numba.gramfile.formats import FORMATS, GRAM, PROCESSOR, Format, format_of, other_format
from ntk_numba.opening import NO_LOCK, open_descriptor

CHECKSUMS = "checksums"  # the group of the datasets of checksums
TILES = "tiles"  # the dataset of the (i, j) of tiles that are stored one after another
CHECKSUM = np.dtype("<u8")
COMPLETE = b"\x89HDF\r\n\x1a\n"  # the first bytes of every HDF5 file
INCOMPLETE = b"\x89NTK\r\n\x1a\n"  # the first bytes of an incomplete file
# The first bytes of a file that links parts; a checksum of all bytes after the user block follows
LINKED = b"\x89NTKLINK"
MARK = len(LINKED) + 8  # bytes, of which the last 8 are the checksum
USER_BLOCK = PAGE  # bytes that HDF5 leaves to programs; not less than the alignment


@dataclass(frozen=True)
class TileMap:
    """The positions of tiles and checksums, in bytes from the start of the file.

    tiles, checksums : the positions of the first tile and of the first checksum of each kernel
    """

    contents: Stored
    tiles: dict[str, int]
    checksums: dict[str, int]

    def tile_at(self, kernel: str, layer: int, i: int, j: int) -> int:
        """Return the position of tile (i, j) of a kernel and layer."""
        return (
            self.tiles[kernel]
            + self.contents.storage.number(layer, i, j) * self.contents.tile_bytes
        )

    def checksum_at(self, kernel: str, layer: int, i: int, j: int) -> int:
        """Return the position of a tile's checksum of 8 bytes; j ≤ i if the matrix is symmetric."""
        return self.checksums[kernel] + self.contents.storage.number(layer, i, j) * 8


def checksum(block: Any) -> int:
    """Return the 64-bit XXH3 of a tile's bytes, never 0, which marks a tile that is not done."""
    return xxhash.xxh3_64_intdigest(block) or 1


def create(fd: int, header: Header[Stored]) -> None:
    """Give an open, empty file everything except its tiles, none of which is done."""
    c = header.contents
    with new_file(fd, header) as file:
        group = file.create_group(CHECKSUMS)
        for name in c.kernels:
            create_dataset(file, name, c.dtype, c.stored_shape, c.chunk)
            create_dataset(group, name, CHECKSUM, c.tiles_shape)


@contextlib.contextmanager
def new_file(fd: int, header: Header[Stored]) -> Iterator[h5py.File]:
    """Give an open, empty file everything except tiles and checksums; a context of its HDF5 file.

    HDF5 opens it by `disk.name_of`: another file may have taken its name in its folder by now. That
    raises an OSError, as a full disk does.
    """
    streams.occupy()
    c = header.contents
    form = format_of(c)
    try:
        opened = h5py.File(
            disk.name_of(fd), "w", libver=("v110", "v110"), locking=False,
            userblock_size=USER_BLOCK if header.linked else 0,
            alignment_threshold=PAGE, alignment_interval=PAGE,
        )  # fmt: skip
    except OSError as error:
        why = f"a new file was replaced or cannot be written ({error})"
        if NO_LOCK in str(error):  # whatever we ask for
            why = "the file system has no locks; unset HDF5_USE_FILE_LOCKING, which demands them"
        raise FileError(why) from None
    with opened as file:
        values = form.values(c) | {
            "format": form.name, "format_version": form.version,
            "package_version": header.package_version, "numerics": header.numerics,
            "rows": c.grid.rows, "tile": c.grid.tile, "layout": c.layout,
            "linked": json.dumps(header.linked), "complete": True,
        }  # fmt: skip
        # written first, so that their strings are where `_check_heaps` looks
        for key in form.attributes:
            if isinstance(values[key], str):
                claims.refuse_long(key, values[key])
            file.attrs[key] = values[key]
        file.attrs["seal"] = form.seal(file.attrs)
        if header.processor:  # of a fixed length, for which HDF5 has a checksum
            claims.refuse_long(PROCESSOR, header.processor)
            file.attrs[PROCESSOR] = np.bytes_(header.processor)
        form.add(file, c)
        if c.storage.packed:
            file.create_dataset(TILES, data=c.storage.places, track_times=False)
        yield file


def create_dataset(
    group: Any, name: str, dtype: np.dtype, shape: tuple[int, ...], chunk: Any = None
) -> None:
    """Create a dataset whose space is allocated now and reads as zeros, without writing them."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk:
        properties.set_chunk(chunk)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same job gives the same bytes
    hdf5_type, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    h5py.h5d.create(group.id, name.encode(), hdf5_type, space, properties)


@contextlib.contextmanager
def _opened(file: Path | int) -> Iterator[int]:
    """Open an ordinary file for reading, as a context, unless it is open already."""
    if isinstance(file, int):
        yield file
        return
    if file.is_dir():
        raise folder_error(file, "a Gram file")
    try:
        fd = open_descriptor(file)
    except OSError as error:
        raise file_error(error, f"{file} cannot be read: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def is_incomplete(file: Path | int) -> bool:
    """Return whether a file, a path or a descriptor, is an incomplete Gram file."""
    with _opened(file) as fd:
        return os.pread(fd, MARK, 0).startswith(INCOMPLETE)


def link_mark(file: Path | int) -> bytes:
    """Return the first bytes of the user block of a file that links parts.

    They hold a checksum of the rest of the file: HDF5 has none for its list of files and positions,
    and follows whatever it finds there.
    """
    digest, at = xxhash.xxh3_64(), USER_BLOCK
    with _opened(file) as fd:
        while block := os.pread(fd, 1 << 20, at):
            digest.update(block)
            at += len(block)
    return LINKED + digest.digest()


def _check_heaps(path: Path, fd: int) -> None:
    """Raise ValueError if a heap of strings has wrong sizes, which HDF5 follows unchecked.

    It may follow them for ever. The heaps lie one after another from the second page on, and each
    begins at a page boundary. A heap begins with 16 bytes that contain its size. Each of its
    objects begins with 16 bytes that contain its number and the size of what follows, padded to a
    multiple of 8; for free space, which has the number 0, that size includes the 16 bytes.
    """
    at, end = PAGE, os.fstat(fd).st_size
    while (head := os.pread(fd, 16, at))[:4] == b"GCOL":
        size, seen = _size(head), 0
        heap = os.pread(fd, size - 16, at + 16) if 16 < size <= end - at else b""
        while len(heap) - seen >= 16:
            head = heap[seen : seen + 16]
            step = _size(head) if head[:2] == b"\0\0" else 16 + -(-_size(head) // 8) * 8
            if not 16 <= step <= len(heap) - seen:
                break
            seen += step
        if not heap or len(heap) - seen >= 16:
            raise InvalidValueError(f"{path} is damaged: its strings have sizes that cannot be")
        at += -(-size // PAGE) * PAGE


def _size(head: bytes) -> int:
    """Return the size that the first 16 bytes of a heap or of one of its objects state."""
    return int.from_bytes(head[8:], "little")


class _Unmasked(io.FileIO):
    """A file that HDF5 reads as if it were complete, through a descriptor of ours."""

    def readinto(self, buffer: Any) -> int | None:
        at = self.tell()
        count = super().readinto(buffer)
        begin, ours = (text[at : at + (count or 0)] for text in (COMPLETE, INCOMPLETE))
        if (view := memoryview(buffer).cast("B")[: len(begin)]) == ours:
            view[:] = begin
        return count

    def __del__(self) -> None:
        self.close()  # HDF5 drops the object without closing it


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Name the file in errors that HDF5 raises."""
    try:
        yield
    except (
        KeyError, IndexError, TypeError, AttributeError, OSError, RuntimeError, ValueError,
        ArithmeticError, MemoryError,
    ) as error:  # fmt: skip
        raise InvalidValueError(f"{path} is damaged: {error}") from None


class HDF5(h5py.File):  # type: ignore[misc]
    """The HDF5 file below a file of tiles, complete or not, open for reading.

    It is opened once: what is checked here is what is read, even if its name now means another.

    Parameters
    ----------
    path : the path of the file, for errors too
    fd : a descriptor of it, if it is open already
    form : the format that it has to have; None for any format of files of tiles

    Attributes
    ----------
    form : Format
        Its format.
    complete : bool
        Whether the file was complete when it was opened.
    links_parts : bool
        Whether its tiles are in other files, the parts of a job.
    descriptor : int
        The file descriptor; it stays with this file even if another file takes its name.

    Raises
    ------
    ValueError
        The file is not HDF5, is truncated, or is not a file of this format.
    OSError
        It cannot be read, or another program has opened it for writing.
    """

    def __init__(self, path: Path, fd: int | None = None, form: Format[Any] | None = GRAM) -> None:
        streams.occupy()
        with _opened(path if fd is None else fd) as opened:
            self._open(path, opened)
        try:
            self.form = self._check(path, form)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, fd: int) -> None:
        """Check the bytes that HDF5 does not check, and let HDF5 open the file."""
        first = os.pread(fd, MARK, 0)
        self.links_parts = first.startswith(LINKED)
        if self.links_parts and first != link_mark(fd):
            raise InvalidValueError(f"{path} is damaged: it does not match its checksum")
        _check_heaps(path, fd)
        name = disk.name_of(fd)
        self.complete = not first.startswith(INCOMPLETE)
        raw = None if self.complete else _Unmasked(name)
        try:
            # locked as h5py does: HDF5 refuses a file that this process has opened otherwise
            self._attach(path, raw or name, "best-effort")
        except InvalidValueError as error:
            locks = re.search(NO_LOCK + r", errno = (\d+)", str(error))
            number = int(locks[1]) if locks else 0
            if number == errno.EAGAIN:
                text = f"{path} is open for writing in another program; close it there"
                raise BusyFileError(text) from None
            if number not in disk.NO_LOCKS and not re.search("real path|flag values", str(error)):
                raise
            raw = _Unmasked(name)  # for which HDF5 needs no locks, and no name in a folder
            self._attach(path, raw, False)
        self.descriptor = self.id.get_vfd_handle() if raw is None else raw.fileno()

    def _attach(self, path: Path, source: str | _Unmasked, locking: str | bool) -> None:
        """Let HDF5 open the file."""
        try:
            super().__init__(source, "r", locking=locking)
        except OSError as error:
            if error.errno in disk.NO_DESCRIPTORS:
                why = os.strerror(error.errno)
                raise file_error(error, f"{path} cannot be read: {why}") from None
            raise InvalidValueError(
                f"{path} is no valid HDF5 file, perhaps truncated ({error})"
            ) from None

    def _check(self, path: Path, form: Format[Any] | None) -> Format[Any]:
        """Return the format, or raise ValueError if it is not one that this package reads."""
        with _errors(path):
            found = self.attrs.get_id("format").shape if "format" in self.attrs else None
            name = claims.attribute(self, "format", str) if found == () else None
            version = claims.attribute(self, "format_version", int, 0)
        form = form or next((known for known in FORMATS if known.name == name), GRAM)
        if name != form.name:
            raise InvalidValueError(
                f"{path} is an HDF5 file, but not one that {form.written_by} wrote"
                + other_format(name)
            )
        if version != form.version:
            raise InvalidValueError(
                f"{path} has format version {version}; this package reads {form.version}; "
                + ("install a newer one" if version > form.version else "compute it again")
            )
        return form


def format_at(path: Path) -> Format[Any]:
    """Return the format of a file of tiles; raise an error as `HDF5` does."""
    with HDF5(path, form=None) as file:
        return file.form


@overload
def read_header(file: HDF5, path: Path) -> Header[Contents]: ...
@overload
def read_header(file: HDF5, path: Path, form: Format[AnyContents]) -> Header[AnyContents]: ...
def read_header(file: HDF5, path: Path, form: Format[Any] = GRAM) -> Header[Any]:
    """Return the header of an open file, which was opened as one of this format.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    with _errors(path):
        values = claims.attributes(file, form.attributes)
        numerics = claims.between("numerics", values["numerics"], 0)
        if claims.attribute(file, "seal", int) != form.seal(values):
            raise InvalidValueError("its attributes have changed")
        linked = claims.links(values.get("linked", "[]"))
        if bool(linked) != file.links_parts:
            raise InvalidValueError("its first bytes have changed")
        contents = form.read(file, values)
        if text := contents.excess:
            raise InvalidValueError(text)
        if values["layout"] != contents.layout:
            raise InvalidValueError(f"its layout is {values['layout']}, not {contents.layout}")
        for name in contents.kernels:
            stored_shape = contents.stored_shape
            dataset = claims.dataset(file, name, contents.dtype, stored_shape, stored=False)
            if bool(dataset.is_virtual) != bool(linked):
                raise InvalidValueError(f"the values of {name} are not where they were written")
        processor = claims.attribute(file, PROCESSOR, str, "")
        return Header(contents, numerics, values["package_version"], processor, linked)


def read_tile_map(file: HDF5, path: Path, contents: Stored) -> TileMap:
    """Return the positions of the tiles of an open file.

    Raises
    ------
    ValueError
        The file is damaged, or another program has stored its datasets in a different way.
    """
    size = os.fstat(file.descriptor).st_size
    tiles: dict[str, int] = {}
    checksums: dict[str, int] = {}
    with _errors(path):
        stored = contents.storage
        if stored.packed:
            places = claims.dataset(file, TILES, "<u4", (contents.count, 2))
            if not np.array_equal(places[:], stored.places):
                raise InvalidValueError(f"the list of its {TILES} has changed")
        for name in contents.kernels:
            dataset = claims.dataset(file, name, contents.dtype, contents.stored_shape)
            group = claims.group(file, CHECKSUMS)
            sums = claims.dataset(group, name, CHECKSUM, contents.tiles_shape)
            if dataset.chunks != contents.chunk or dataset.id.get_create_plist().get_nfilters():
                raise InvalidValueError(f"{name} is not stored as it was written (repacked?)")
            last = tuple(
                (n - 1) // k * k for n, k in zip(contents.stored_shape, contents.chunk, strict=True)
            )
            start, end = (
                dataset.id.get_chunk_info_by_coord(at).byte_offset
                for at in ((0,) * len(last), last)
            )
            count = int(np.prod(contents.tiles_shape))
            if None in (start, end) or end - start != (count - 1) * contents.tile_bytes:
                raise InvalidValueError(f"{name} is not stored as it was written (repacked?)")
            at = sums.id.get_offset()
            if at is None:
                raise InvalidValueError(
                    f"the checksums of {name} are not stored as they were written"
                )
            if max(end + contents.tile_bytes, at + 8 * count) > size:
                raise InvalidValueError("it is truncated")
            tiles[name], checksums[name] = start, at
    return TileMap(contents, tiles, checksums)
