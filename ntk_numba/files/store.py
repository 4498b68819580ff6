"""Writing a Gram file: an ordinary HDF5 file whose chunks are the tiles.

HDF5 lays the file out, once: fixed dimensions, early allocation and no filter give every chunk a
computed address. The tiles are then written there by plain system calls (see `direct`), which need
no lock, so that writing overlaps computing. Until it is complete the file is called
``<name>.partial``.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.files.direct import PAGE, set_direct, write_at
from ntk_numba.grid import Grid, show_bytes
from ntk_numba.network import MLP

FORMAT = "ntk_numba gram"
FORMAT_VERSION = 1


class Contents(NamedTuple):
    """What a Gram file is to hold: two files with equal contents are interchangeable.

    input_digest, against_digest : SHA-256 of X, and of Z ("" if the matrix is symmetric)
    """

    net: MLP
    kernels: tuple[str, ...]
    every: bool
    dtype: np.dtype
    grid: Grid
    input_digest: str
    against_digest: str

    def differences(self, other: "Contents") -> list[str]:
        """What `other` has otherwise, for people."""
        mine, theirs = self._readable(), other._readable()
        return [
            f"{key} is {theirs[key]}, not {mine[key]}" for key in mine if mine[key] != theirs[key]
        ]

    def _readable(self) -> dict[str, str]:
        net = self.net.to_dict()
        return {
            "shape": f"{self.grid.rows} × {self.grid.columns}",
            **{key: str(value) for key, value in net.items()},
            "kernels": ", ".join(self.kernels),
            "layers": "all" if self.every else "last",
            "dtype": str(self.dtype),
            "the data (X)": self.input_digest[:12],
            "the data (Z)": self.against_digest[:12] or "none",
            "tile": str(self.grid.tile),
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each dataset."""
        matrix = (self.grid.rows, self.grid.columns)
        return (self.net.depth, *matrix) if self.every else matrix

    @property
    def bytes(self) -> int:
        """Of all entries and their padding."""
        matrices = len(self.kernels) * (self.net.depth if self.every else 1)
        return matrices * self.grid.stored * self.dtype.itemsize


class GramWriter:
    """A Gram file in the making; a context that leaves a complete file or none.

    Raises
    ------
    OSError
        A folder that is missing or cannot be written, a full disk, a file another process writes.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._contents = contents
        check_folder(path)
        self._fd = _lock(self._partial)
        try:
            self._allocate(contents.bytes)  # so that a full disk is met here and not within HDF5
            self._offsets = self._lay_out()
            self._allocate(os.fstat(self._fd).st_size)
            set_direct(self._fd, self._chunk_bytes % PAGE == 0)
        except BaseException:
            self._discard()
            os.close(self._fd)
            raise

    def _lay_out(self) -> dict[str, int]:
        """Create the datasets; the address of the first chunk of each."""
        c = self._contents
        chunk = (1, *c.grid.chunk) if c.every else c.grid.chunk
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(chunk)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)  # the same job gives the same bytes
        offsets = {}
        with h5py.File(
            self._partial, "w", libver=("v110", "v110"), locking=False,
            alignment_threshold=PAGE, alignment_interval=PAGE,
        ) as file:  # fmt: skip
            file.attrs["format"] = FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["package_version"] = _package_version()
            file.attrs["net"] = json.dumps(c.net.to_dict())
            file.attrs["input_digest"] = c.input_digest
            file.attrs["against_digest"] = c.against_digest
            file.attrs["layers"] = "all" if c.every else "last"
            file.attrs["tile"] = c.grid.tile
            file.attrs["complete"] = False
            for name in c.kernels:
                dataset = h5py.Dataset(
                    h5py.h5d.create(
                        file.id,
                        name.encode(),
                        h5py.h5t.py_create(c.dtype, logical=True),
                        h5py.h5s.create_simple(c.shape),
                        properties,
                    )
                )
                last = tuple((n - 1) // k * k for n, k in zip(c.shape, chunk, strict=True))
                first = dataset.id.get_chunk_info_by_coord((0,) * len(chunk)).byte_offset
                chunks = int(np.prod([-(-n // k) for n, k in zip(c.shape, chunk, strict=True)]))
                end = dataset.id.get_chunk_info_by_coord(last).byte_offset + self._chunk_bytes
                if end - first != chunks * self._chunk_bytes:
                    raise OSError(
                        f"{self._partial}: HDF5 {h5py.version.hdf5_version} does not lay out its "
                        f"chunks in a row; install another h5py"
                    )
                offsets[name] = first
        return offsets

    @property
    def _chunk_bytes(self) -> int:
        return int(np.prod(self._contents.grid.chunk)) * self._contents.dtype.itemsize

    def _allocate(self, size: int) -> None:
        """Make the disk give the space now: a file is sparse until then."""
        check_space(self._path, size - os.fstat(self._fd).st_blocks * 512)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, 0, size)
            except OSError as error:
                raise _no_space(self._path, size, str(error.strerror)) from None

    def write(self, kernel: str, layer: int, i: int, j: int, block: NDArray[np.floating]) -> None:
        """Write tile (i, j) of a kernel: `block` is a whole chunk, C-contiguous."""
        grid = self._contents.grid
        index = (layer * grid.down + i) * grid.across + j
        at = self._offsets[kernel] + index * self._chunk_bytes
        try:
            write_at(self._fd, block, at)
        except OSError as error:
            raise OSError(f"{self._partial} cannot be written: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._fd)
                self._finish()
        except BaseException:
            kind = OSError
            raise
        finally:
            if kind is not None:
                self._discard()
            os.close(self._fd)

    def _finish(self) -> None:
        with h5py.File(self._partial, "r+", locking=False) as file:
            file.attrs["complete"] = True
        os.fsync(self._fd)
        self._partial.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._partial.unlink()


def _package_version() -> str:
    from importlib.metadata import version

    return version("ntk_numba")


def check_folder(path: Path) -> None:
    """Refuse an output whose folder is missing or cannot be written."""
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe; name an ordinary file")
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} cannot be written; choose another one")


def check_space(path: Path, size: int) -> None:
    """Refuse an output that its disk cannot hold."""
    if size > shutil.disk_usage(path.parent).free:
        raise _no_space(path, size, os.strerror(errno.ENOSPC))


def _no_space(path: Path, size: int, reason: str) -> OSError:
    free = shutil.disk_usage(path.parent).free
    return OSError(
        f"{path} takes {show_bytes(size)}, and its disk has {show_bytes(free)} free ({reason}); "
        f"free some, use float32 or write elsewhere"
    )


def _lock(partial: Path) -> int:
    """Open the file, empty, for this process alone; an abandoned one is taken over."""
    try:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise type(error)(f"{partial} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not partial.exists() or partial.stat().st_ino != os.fstat(fd).st_ino:
            raise BlockingIOError  # the other one has finished in between
        os.ftruncate(fd, 0)
    except BaseException as error:
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise
        raise BlockingIOError(
            f"{partial} is being written by another process; wait for it, or choose another output"
        ) from None
    return fd
