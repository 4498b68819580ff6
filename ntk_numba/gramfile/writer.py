"""Writing a file of tiles so that finished tiles survive whatever stops the writer.

Until it is complete the file is called ``<name>.partial``, occupies its full space on disk, and
does not begin as HDF5 files do. A tile is written, made durable, and only then gets its checksum. A
job that continues reads the tiles that have a checksum, and keeps those that match it. The last
steps write the first bytes of the file and rename it. All that is done to the file is done through
one descriptor: in a folder that others may write, its name may come to mean another file.
"""

import contextlib
import os
import stat
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import Policy
from ntk_numba.errors import (
    BusyFileError,
    FileError,
    InvalidValueError,
    OutputExistsError,
    StoppedError,
    TakenOverError,
    file_error,
)
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Header, Stored
from ntk_numba.gramfile.formats import format_of
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
from ntk_numba.gramfile.place import (
    NEW,
    beside,
    check_folder,
    check_space,
    is_taken,
    keep_mode,
    no_space,
    partial_of,
)
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.opening import is_at
from ntk_numba.terminal import escaped

DEFAULT = Policy()


class TileWriter:
    """An unfinished file of tiles; a context that leaves a complete file, or one to continue.

    Parameters
    ----------
    path : the name of the complete file
    contents, numerics : the contents of the file, which determine its format, and the version of
        the arithmetic
    processor : what the header of a new file says of the processor, see `Header`
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
        contents: Stored,
        numerics: int,
        policy: Policy = DEFAULT,
        *,
        processor: str = "",
        reserve: bool = True,
        direct: bool = True,
    ) -> None:
        check_folder(path)
        self._path, self._partial = path, partial_of(path)
        self._header = Header(contents, numerics, version("ntk_numba"), processor)
        self._form, self._useless = format_of(contents), False
        self._overwrite, self._reserve = policy.overwrite, reserve
        self._lease = Lease(path)
        try:
            if is_taken(path) and not policy.overwrite:
                raise OutputExistsError(f"{path} already exists")
            fd = self._continue()
            fd = self._begin() if fd is None else fd
            try:
                with HDF5(self._partial, fd, self._form) as file:
                    tile_map = read_tile_map(file, self._partial, contents)
                self.tiles = TileFile(fd, tile_map, write=True, direct=direct)
                complete = not is_incomplete(fd)
            finally:
                os.close(fd)
            try:
                self.done = self._check_tiles(policy.progress, complete)
            except BaseException as error:
                try:
                    self._stop(error)
                finally:
                    self.tiles.close()
                raise
        except BaseException:
            self._lease.release()
            raise

    def check(self) -> None:
        """Raise TakenOverError if another process has taken over the file."""
        self._lease.check()

    def discard(self) -> None:
        """Let the file be removed when an error ends the context, whatever is done by then.

        For a job that cannot be completed, such as the factorisation of an indefinite matrix.
        """
        self._useless = True

    def _begin(self) -> int:
        """Lay out the file under another name, so that an unfinished one always has a layout.

        Return its descriptor.
        """
        new = beside(self._path, NEW)
        fd = None
        try:
            disk.remove(self._partial)
            disk.remove(new)
            fd = disk.create(new)
            keep_mode(fd, self._path)
            # already before the layout, so that a full disk is noticed here and not by HDF5
            if self._reserve:
                self._allocate(fd, self._header.contents.allocated_bytes)
                disk.empty(fd)
            create(fd, self._header)
            if self._reserve:
                self._allocate(fd, os.fstat(fd).st_size)
            disk.write_at(fd, INCOMPLETE, 0)
            disk.sync(fd)
            self._lease.check()
            disk.rename(new, self._partial)
            if not is_at(fd, self._partial):  # we were suspended, and this is another's file
                disk.rename(self._partial, new)
                self._lease.check()
                raise FileError(f"{new} was replaced by another process; is the folder safe?")
        except BaseException as error:
            if fd is not None:
                with contextlib.suppress(OSError):
                    for path in (new, self._partial):
                        if is_at(fd, path):
                            disk.remove(path)
                os.close(fd)
            if isinstance(error, OSError) and error.strerror:
                raise file_error(error, f"{new} cannot be written: {error.strerror}") from None
            raise
        return fd

    def _allocate(self, fd: int, size: int) -> None:
        """Reserve disk space, or raise an error that says how much is needed and free."""
        contents = self._header.contents
        check_space(self._path, contents, size - os.fstat(fd).st_blocks * 512)
        try:
            disk.allocate(fd, size)
        except OSError as error:
            raise no_space(self._path, contents, size, str(error.strerror)) from None

    def _continue(self) -> int | None:
        """Return the descriptor of an unfinished file with the same contents, None without one.

        Raise ValueError if it has other contents and is not to be overwritten.
        """
        fd = None
        # An incomplete file may have the name of a complete one: in earlier versions, a writer that
        # was suspended just before it renamed its file did so after another had taken it over.
        misnamed = self._path.exists() and not is_taken(self._path)
        try:
            if misnamed and self._partial.exists() and not self._overwrite:
                raise InvalidValueError(f"{self._path} and {self._partial} are both incomplete")
            misnamed = misnamed and not self._partial.exists()
            with contextlib.suppress(FileNotFoundError):
                fd = self._open_unfinished(self._path if misnamed else self._partial)
            if fd is not None:
                self._refuse_other(fd)
                if misnamed:
                    disk.rename(self._path, self._partial)
                keep_mode(fd, self._path)
        except BaseException as error:
            if fd is not None:
                os.close(fd)
            if not isinstance(error, ValueError):
                raise
            if self._overwrite:
                return None
            raise InvalidValueError(
                f"{error}. Choose another output, delete it, or overwrite it"
            ) from None
        return fd

    def _open_unfinished(self, path: Path) -> int:
        """Open the unfinished file for reading and writing."""
        try:
            return disk.open_existing(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise InvalidValueError(f"{path} is not a file") from None
            raise file_error(error, f"{path} cannot be written: {error.strerror}") from None

    def _refuse_other(self, fd: int) -> None:
        """Raise ValueError if the unfinished file has other contents."""
        with HDF5(self._partial, fd, self._form) as file:
            found = read_header(file, self._partial, self._form)
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

    def _check_tiles(self, progress: bool, complete: bool) -> NDArray[np.bool_]:
        """Read all tiles that have a checksum, and clear the checksums that do not match.

        The tiles come from the disk: what an earlier writer could not write may be in the cache.

        complete : whether the file begins as a complete one. If all of its tiles are right, that
            stays: its writer was about to rename it, and may still do so.
        """
        tiles = self.tiles
        tiles.forget()
        places = [
            (name, int(layer), int(i), int(j))
            for name, sums in tiles.checksums().items()
            for layer, i, j in np.argwhere(sums)
        ]
        bar = tqdm(
            tiles.scan(places, lambda tile: tile.place if tile.wrong else None),
            "checking tiles", len(places), unit="tile", disable=not progress, leave=False,
        )  # fmt: skip
        wrong = []
        for place in bar:
            stopping.check()
            if place is not None:
                wrong.append(place)
        self._lease.check()
        count = np.count_nonzero(tiles.done())
        if complete and (wrong or count != self._header.contents.count):
            tiles.begin_with(INCOMPLETE)
            tiles.sync()
        for place in wrong:
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
        renamed = tiles.is_at(self._path)  # by a writer that was suspended, and replaced by us
        if not renamed:
            if not tiles.is_at(self._partial):
                raise FileError(f"{self._partial} was moved or removed while this job ran")
            if is_taken(self._path) and not self._overwrite:
                raise FileError(
                    f"{self._path} was created by another process while this job ran; move or "
                    f"rename it"
                )
            with contextlib.suppress(OSError):  # of a file that is new, or has no more than that
                tiles.keep_mode(self._path.stat())
        tiles.begin_with(COMPLETE)
        tiles.sync()
        self._lease.check()
        if not renamed:
            disk.rename(self._partial, self._path)
            if not tiles.is_at(self._path):
                raise FileError(f"{self._partial} was replaced by another process")

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
                if done and not self._useless:
                    count = self._header.contents.count
                    kept = f"{done:,} of {count:,} tiles are done, in {self._partial}; {kept}"
                else:
                    disk.remove(self._partial)
        if isinstance(error, BusyFileError):
            if not isinstance(error, TakenOverError):  # else to run it again is refused for now
                error.add_note(escaped(kept))
            raise error
        if isinstance(error, MemoryError) or "can't start new thread" in str(error):
            raise StoppedError(
                f"out of memory or threads; {kept}, with less memory or fewer threads"
            ) from error
        if isinstance(error, OSError):
            reason = str(error)
            if error.strerror:
                reason = f"{self._partial} cannot be written: {error.strerror}"
            raise StoppedError(f"{reason}; {kept}") from error
        if not self._useless:
            error.add_note(escaped(kept))


def remove_stale_lock(path: Path) -> None:
    """Remove the lock file of a writer that was killed just after it completed `path`."""
    with contextlib.suppress(OSError):
        if lock_of(path).exists():
            Lease(path).release()
