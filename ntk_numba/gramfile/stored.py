"""Files of tiles open for reading, whatever their format, and the verification of their tiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba.errors import InvalidValueError, MissingFileError, file_error, folder_error
from ntk_numba.gramfile.contents import AnyContents, Header, Stored
from ntk_numba.gramfile.formats import Format
from ntk_numba.gramfile.layout import HDF5, TileMap, is_incomplete, read_header, read_tile_map
from ntk_numba.gramfile.place import partial_of
from ntk_numba.gramfile.tiles import Place, Tile, TileFile
from ntk_numba.gramfile.writer import remove_stale_lock
from ntk_numba.opening import exists


@dataclass
class Report:
    """The result of a verification, which is true if nothing is wrong.

    checks : what was checked
    problems : what is wrong
    bad : the tiles that have to be computed again
    """

    checks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bad: list[Place] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems


class Wrong(NamedTuple):
    """Entries of a tile that cannot be: where they are, and what is said of each."""

    where: NDArray[np.bool_]
    why: str


class StoredFile(Generic[AnyContents]):
    """A file of tiles, open for reading; a context manager.

    Attributes
    ----------
    path : Path
    complete : bool
        Whether all tiles were done when the file was opened.
    contents : Contents or FactorContents
    numerics : int
        The version of the arithmetic that computed the file.
    package_version : str
        The version of the package that wrote the file.
    processor : str
        LLVM's name of the processor that computed the file, see `contents.Header`.
    """

    def __init__(self, path: Path, file: HDF5, header: Header[AnyContents]) -> None:
        self.path, self._file, self.complete = path, file, file.complete
        self.contents, self.numerics, self.package_version, self.processor, _ = header

    @property
    def dtype(self) -> np.dtype:
        """The type of the entries."""
        return self.contents.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each matrix: (N, M), or (L, N, M) with all layers."""
        return self.contents.shape

    @property
    def done(self) -> NDArray[np.bool_]:
        """Whether each tile is done now, as an array of (tiles down, tiles across).

        Of a symmetric matrix, only tiles on and below the diagonal count.
        """
        with self.tiles() as tiles:
            return tiles.done()

    @property
    def tile_map(self) -> TileMap:
        """The positions of the tiles in the file.

        Raises
        ------
        ValueError
            The file is closed, or another program has stored it in a different way since it was
            written.
        """
        self.refuse_closed()
        return read_tile_map(self._file, self.path, self.contents)

    def tiles(self, *, write: bool = False, direct: bool = True) -> TileFile:
        """Open the tiles of this file, past HDF5, even if another file has taken its name.

        direct : bypass the page cache, see `TileFile`

        Raises
        ------
        OSError
            The file cannot be written, or too many files are open.
        """
        return open_tiles(self._file, self.path, self.tile_map, write=write, direct=direct)

    def verify(self, *, progress: bool = False) -> Report:
        """Read every byte, and check checksums and entries.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar on standard error.

        Returns
        -------
        Report
            True if nothing is wrong; `problems` names the matrix, tile and entry. In an incomplete
            file, which is itself a problem, the tiles that are done are checked.
        """
        self.refuse_closed()
        report = Report()
        c = self.contents
        try:
            tiles = self.tiles()
        except ValueError as error:
            report.problems.append(str(error))
            return report
        with tiles:
            sums = tiles.checksums()
            count = int(np.count_nonzero(tiles.done()))
            if not self.complete:
                report.problems.append(f"incomplete: {count:,} of {c.count:,} tiles are done")
            total = c.count * c.matrices * len(c.kernels)
            with tqdm(total=total, unit="tile", disable=not progress, leave=False) as bar:
                for name in c.kernels:
                    for layer in range(c.matrices):
                        label = c.matrix_name(name, layer)
                        for place, problems in self._verify(tiles, name, layer, sums[name][layer]):
                            report.problems += [f"{label}: {problem}" for problem in problems]
                            if problems:
                                report.bad.append(place)
                            bar.update()
        report.checks += self._checks()
        return report

    def _checks(self) -> list[str]:
        """Return what `verify` checks."""
        raise NotImplementedError

    def _check(
        self, tiles: TileFile, name: str, layer: int, sums: NDArray[np.uint64]
    ) -> Callable[[Tile], Wrong | None]:
        """Return the function that finds wrong entries in a tile of a matrix."""
        raise NotImplementedError

    def _verify(
        self, tiles: TileFile, name: str, layer: int, sums: NDArray[np.uint64]
    ) -> Iterator[tuple[Place, list[str]]]:
        """Yield the tiles of a matrix, or those that are done, each with a list of its problems."""
        grid = self.contents.grid
        check = self._check(tiles, name, layer, sums)

        def look(tile: Tile) -> tuple[Place, list[str]]:
            _, _, i, j = tile.place
            if not sums[i, j]:
                return tile.place, [f"tile ({i}, {j}) has no checksum"]
            if tile.wrong:
                return tile.place, [f"tile {at} {why}" for at, why in tile.wrong.items()]
            wrong = check(tile)
            if wrong is None:
                return tile.place, []
            row, column = np.argwhere(wrong.where)[0]
            return tile.place, [
                f"tile ({i}, {j}) has an entry that {wrong.why}: row {i * grid.tile + row}, "
                f"column {j * grid.tile + column}, {np.count_nonzero(wrong.where)} in all"
            ]

        computed = self.contents.storage.mask
        places = (
            (name, layer, i, j)
            for i, j in grid.tiles(range(grid.down), range(grid.across))
            if computed[i, j] and (sums[i, j] or self.complete)
        )
        yield from tiles.scan(places, look)

    def refuse_closed(self) -> None:
        """Raise ValueError if the file is closed."""
        if not self._file:
            raise InvalidValueError(f"{self.path} is closed; open it again")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_tiles(
    file: HDF5, path: Path, tile_map: TileMap, *, write: bool = False, direct: bool = True
) -> TileFile:
    """Open the tiles of an open file; errors name it by its path.

    Raises
    ------
    OSError
        The file cannot be written, or too many files are open.
    """
    try:
        return TileFile(file.descriptor, tile_map, write=write, direct=direct)
    except OSError as error:
        done = "written" if write else "read"
        raise file_error(error, f"{path} cannot be {done}: {error.strerror}") from None


AnyFile = TypeVar("AnyFile", bound=StoredFile[Any])


def open_stored(
    path: Path,
    form: Format[AnyContents],
    make: Callable[[Path, HDF5, Header[AnyContents]], AnyFile],
    *,
    incomplete: bool = False,
) -> AnyFile:
    """Open a file of a format for reading.

    make : makes the object that reads it
    incomplete : open it also if it is incomplete

    Raises
    ------
    OSError
        The file is missing, is a folder, or cannot be read.
    ValueError
        The file is incomplete, has another format, or is damaged.
    """
    if path.is_dir():
        raise folder_error(path, form.what)
    if not exists(path):
        partial = partial_of(path)
        hint = f", but {partial} does: run its command again to complete it"
        raise MissingFileError(f"{path} does not exist{hint if partial.exists() else ''}")
    if not path.is_file():
        raise InvalidValueError(f"{path} is a device or a pipe; name an ordinary file")
    try:
        if is_incomplete(path) and not incomplete:
            or_open = ", or open it with incomplete=True" if form.opened_by == "open_gram" else ""
            raise InvalidValueError(
                f"{path} is incomplete; run its command again to complete it{or_open}"
            )
        file = HDF5(path.resolve(), form=form)  # linked parts are looked up relative to it
        try:
            return make(path, file, read_header(file, path, form))
        except BaseException:
            file.close()
            raise
    except OSError as error:
        if error.strerror is None:  # it is one of ours
            raise
        name = error.filename or path
        raise file_error(error, f"{name} cannot be read: {error.strerror}") from None


def existing(target: Path, contents: Stored, open_file: Callable[[Path], AnyFile]) -> AnyFile:
    """Open the complete file that already exists at `target`, if it has these contents.

    open_file : opens a file of the format of these contents

    Raises
    ------
    ValueError
        It has other contents, or another format; the text names the differences.
    """
    remedy = "Choose another output, or overwrite it"
    try:
        file = open_file(target)
    except ValueError as error:
        raise InvalidValueError(f"{error}. {remedy}") from None
    if differences := contents.differences(file.contents):
        file.close()
        raise InvalidValueError(
            f"{target} exists with other contents: {'; '.join(differences)}. {remedy}"
        )
    remove_stale_lock(target)
    return file
