"""Writing a Gram file so that finished tiles survive whatever stops the writer.

Until it is complete the file is called ``<name>.partial``, occupies its full space on disk, and
does not begin as HDF5 files do. A tile is written, made durable, and only then gets its checksum. A
job that continues reads the tiles that have a checksum, and keeps those that match it. The last
steps write the first bytes of the file and rename it.
"""

import contextlib
import errno
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import Policy, show_bytes
from ntk_numba.errors import (
    AccessError,
    FileError,
    InvalidValueError,
    MissingFileError,
    OutputExistsError,
    StoppedError,
    file_error,
    folder_error,
)
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header, Output
from ntk_numba.gramfile.layout import (
    COMPLETE,
    HDF5,
    INCOMPLETE,
    create,
    is_incomplete,
    read_header,
    read_tile_map,
)
from ntk_numba.gramfile.lease import Lease, lock_of
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.terminal import escaped

DEFAULT = Policy()


class GramWriter:
    """An unfinished Gram file; a context that leaves a complete file, or one to continue.

    Parameters
    ----------
    path : the name of the complete file
    contents, numerics : the contents of the file, and the version of the arithmetic
    policy : whether to replace an existing file, and an unfinished one with other contents; and
        whether to show progress while the tiles of an earlier call are checked
    reserve : reserve all of the space now, so that a full disk is noticed before any work
    direct : bypass the page cache, see `TileFile`

    Attributes
    ----------
    tiles : TileFile, to which tiles are written
    done : whether an earlier call wrote each tile, (tiles down, tiles across)

    Raises
    ------
    OSError
        The folder is missing or cannot be written, the disk is full, or another process writes the
        file.
    ValueError
        The unfinished file has other contents, or is damaged.
    StoppedError
        Raised by the context in place of an OSError or MemoryError, when tiles may be done.
    """

    tiles: TileFile
    done: NDArray[np.bool_]

    def __init__(
        self,
        path: Path,
        contents: Contents,
        numerics: int,
        policy: Policy = DEFAULT,
        *,
        reserve: bool = True,
        direct: bool = True,
    ) -> None:
        check_folder(path)
        self._path, self._partial = path, partial_of(path)
        self._header = Header(contents, numerics, version("ntk_numba"))
        self._overwrite, self._reserve = policy.overwrite, reserve
        self._lease = Lease(self._partial)
        try:
            if path.exists() and not policy.overwrite:
                raise OutputExistsError(f"{path} already exists")
            if not self._can_continue():
                self._begin()
            with HDF5(self._partial) as file:
                tile_map = read_tile_map(file, self._partial, contents)
            self.tiles = TileFile(self._partial, tile_map, write=True, direct=direct)
            try:
                self.done = self._check_tiles(policy.progress)
            except BaseException:
                self.tiles.close()
                raise
        except BaseException:
            self._lease.release()
            raise

    def _begin(self) -> None:
        """Lay out the file under another name, so that an unfinished one always has a layout."""
        new = self._partial.with_name(self._partial.name + ".new")
        try:
            disk.remove(self._partial)
            disk.remove(new)
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            try:
                # already before the layout, so that a full disk is noticed here and not by HDF5
                if self._reserve:
                    self._allocate(fd, self._header.contents.allocated_bytes)
                create(new, self._header)
                if self._reserve:
                    self._allocate(fd, os.fstat(fd).st_size)
                disk.write_at(fd, INCOMPLETE, 0)
                disk.sync(fd)
            finally:
                os.close(fd)
            disk.rename(new, self._partial)
        except BaseException as error:
            with contextlib.suppress(OSError):
                disk.remove(new)
                disk.remove(self._partial)
            if isinstance(error, OSError) and error.strerror:
                raise file_error(error, f"{new} cannot be written: {error.strerror}") from None
            raise

    def _allocate(self, fd: int, size: int) -> None:
        """Reserve disk space, or raise an error that says how much is needed and free."""
        contents = self._header.contents
        check_space(self._path, contents, size - os.fstat(fd).st_blocks * 512)
        try:
            disk.allocate(fd, size)
        except OSError as error:
            raise _no_space(self._path, contents, size, str(error.strerror)) from None

    def _can_continue(self) -> bool:
        """Return whether an unfinished file with the same contents exists.

        Raise ValueError if it has other contents and is not to be overwritten.
        """
        if not self._partial.exists():
            return False
        try:
            if not self._partial.is_file():
                raise InvalidValueError(f"{self._partial} is not a file")
            with HDF5(self._partial) as file:
                found = read_header(file, self._partial)
            differences = self._header.contents.differences(found.contents)
            if found.numerics != self._header.numerics:
                differences.append(
                    f"numerical version is {found.numerics} (ntk_numba {found.package_version}), "
                    f"not {self._header.numerics}"
                )
            if differences:
                raise InvalidValueError(
                    f"{self._partial} is the beginning of another job: {'; '.join(differences)}"
                )
        except ValueError as error:
            if self._overwrite:
                return False
            raise InvalidValueError(
                f"{error}. Choose another output, delete it, or overwrite it"
            ) from None
        return True

    def _check_tiles(self, progress: bool) -> NDArray[np.bool_]:
        """Read all tiles that have a checksum, and clear the checksums that do not match."""
        tiles = self.tiles
        if not is_incomplete(self._partial):  # its writer was killed just before it was renamed
            tiles.begin_with(INCOMPLETE)
            tiles.sync()
        places = [
            (name, int(layer), int(i), int(j))
            for name, sums in tiles.checksums().items()
            for layer, i, j in np.argwhere(sums)
        ]
        bar = tqdm(
            tiles.scan(places, lambda tile: tile.place if tile.wrong else None),
            "checking tiles", len(places), unit="tile", disable=not progress, leave=False,
        )  # fmt: skip
        for place in bar:
            stopping.check()
            if place is not None:
                tiles.clear_checksum(place)
        return tiles.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                try:
                    self._finish()
                except OSError as failure:
                    error = failure
            if error is not None:
                self._stop(error)
        finally:
            self.tiles.close()
            self._lease.release()

    def _finish(self) -> None:
        """Make the file complete and give it its name."""
        tiles = self.tiles
        tiles.commit()
        tiles.sync()
        if np.count_nonzero(tiles.done()) != self._header.contents.count:
            raise RuntimeError(f"{self._partial}: tiles are missing; this is a bug")
        self._lease.check()
        if not tiles.is_at(self._partial):
            raise FileError(f"{self._partial} was moved or removed while this job ran")
        if self._path.exists() and not self._overwrite:
            raise FileError(
                f"{self._path} was created by another process while this job ran; move or rename it"
            )
        tiles.begin_with(COMPLETE)
        tiles.sync()
        disk.rename(self._partial, self._path)

    def _stop(self, error: BaseException) -> None:
        """Keep the file if any tile is done, remove it otherwise, and say so in the error."""
        kept = "run the same again to go on"
        with contextlib.suppress(OSError):
            self.tiles.commit()
            self.tiles.sync()
        with contextlib.suppress(OSError):
            done = np.count_nonzero(self.tiles.done())
            self._lease.check()  # another process may have taken it over
            if self.tiles.is_at(self._partial):
                if done:
                    count = self._header.contents.count
                    kept = f"{done:,} of {count:,} tiles are done, in {self._partial}; {kept}"
                else:
                    disk.remove(self._partial)
        if isinstance(error, MemoryError) or "can't start new thread" in str(error):
            raise StoppedError(
                f"out of memory or threads; {kept}, with less memory or fewer threads"
            ) from error
        if isinstance(error, OSError):
            reason = str(error)
            if error.strerror:
                reason = f"{self._partial} cannot be written: {error.strerror}"
            raise StoppedError(f"{reason}; {kept}") from error
        error.add_note(escaped(kept))


def remove_stale_lock(path: Path) -> None:
    """Remove the lock file of a writer that was killed just after it completed `path`."""
    with contextlib.suppress(OSError):
        if lock_of(partial_of(path)).exists():
            Lease(partial_of(path)).release()


def partial_of(path: Path) -> Path:
    """Return the name of a file while it is incomplete."""
    return path.with_name(path.name + ".partial")


def output_path(path: str | os.PathLike[str]) -> Path:
    """Return where an output is written: links are followed, as users of scratch disks expect.

    The folder has to exist, but need not be writable: the file may already be complete.
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()
    check_folder(target, write=False)
    return target


def check_folder(path: Path, *, write: bool = True) -> None:
    """Raise an error if a file cannot have this path.

    The path is that of a folder or a device, or its folder is missing or, with `write`, cannot be
    written.
    """
    folder = path.parent
    if path.is_dir():
        raise folder_error(path, "a file in it")
    if path.exists() and not path.is_file():
        raise InvalidValueError(f"{path} is a device or a pipe; name an ordinary file")
    if not folder.is_dir():
        raise MissingFileError(f"the folder {folder} does not exist; create it first")
    if write and not os.access(folder, os.W_OK | os.X_OK):
        raise AccessError(f"the folder {folder} cannot be written; choose another one")


def check_space(path: Path, output: Output, size: int | None = None) -> None:
    """Raise an error if the disk does not have the space for an output.

    size : the bytes that are still to be allocated, by default all
    """
    needed = output.output_bytes if size is None else size
    if needed > shutil.disk_usage(path.parent).free:
        raise _no_space(path, output, needed, os.strerror(errno.ENOSPC))


def _no_space(path: Path, output: Output, size: int, reason: str) -> FileError:
    """Return the error for a disk that is too small for an output."""
    mends = ["free some", "write elsewhere"]
    if output.layout == "full" and output.grid.symmetric:
        mends.append("take the layout 'lower', which is half as large")
    if output.dtype != np.float32:
        mends.append("use float32")
    mend = f"{', '.join(mends[:-1])} or {mends[-1]}"
    free = shutil.disk_usage(path.parent).free
    return FileError(
        f"{path} takes {show_bytes(size)}, and its disk has {show_bytes(free)} free ({reason}); "
        f"{mend}"
    )
