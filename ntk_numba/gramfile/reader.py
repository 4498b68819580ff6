"""Gram files open for reading, and their verification."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba.accuracy import schwarz_slack
from ntk_numba.arguments import KERNELS, KernelName
from ntk_numba.errors import (
    InvalidValueError,
    MissingFileError,
    NtkNumbaError,
    file_error,
    folder_error,
)
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.entries import Entries, Whole
from ntk_numba.gramfile.layout import HDF5, TileMap, is_incomplete, read_header, read_tile_map
from ntk_numba.gramfile.parts import Parts
from ntk_numba.gramfile.place import partial_of
from ntk_numba.gramfile.tiles import Place, Tile, TileFile
from ntk_numba.gramfile.writer import remove_stale_lock
from ntk_numba.terminal import escaped

if TYPE_CHECKING:
    from ntk_numba.network import MLP


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


class GramFile:
    """A Gram file, open for reading; a context manager.

    Attributes
    ----------
    nngp, ntk : h5py.Dataset or None
        (N, M), or (L, N, M) with all layers: ``f.ntk[2:5, 7]`` reads these entries only.
        A file that is incomplete, or whose layout is not "full", has `entries.Entries` instead,
        which are read in the same way and raise an error for entries that the file does not have.
    path : Path
    complete : bool
        Whether all tiles were done when the file was opened.
    contents : Contents
    numerics : int
        The version of the arithmetic that computed the file.
    package_version : str
        The version of the package that wrote the file.
    linked : tuple of (str, int)
        The names and seals of the parts that the file refers to; empty if it holds its own tiles.
    """

    def __init__(
        self, path: Path, file: HDF5, header: Header[Contents], parts: Parts | None = None
    ) -> None:
        self.path, self._file, self.complete = path, file, file.complete
        self._parts = parts
        self.contents, self.numerics, self.package_version, self.linked = header
        self.nngp, self.ntk = (
            self._entries(name) if name in self.kernels else None for name in KERNELS
        )

    def _entries(self, name: str) -> Entries | Whole:
        """Return the dataset of a kernel, or `Entries` if the file does not hold all of it."""
        if self.complete and not self.contents.storage.packed:
            return Whole(self._file[name], self.contents)
        mask = self.contents.storage.mask
        done = (lambda: mask) if self.complete else (lambda: self.done)
        return Entries(self.path, self._file, name, self.contents, done, self._parts)

    @property
    def net(self) -> "MLP":
        """The network, decoded from its description when it is first used.

        Raises
        ------
        ValueError
            This version of the package has no such network.
        """
        try:
            return self.contents.net
        except NtkNumbaError as error:
            raise InvalidValueError(f"{self.path}: its network is unknown here: {error}") from None

    @property
    def kernels(self) -> tuple[KernelName, ...]:
        """The kernels that the file holds, of "nngp" and "ntk"."""
        return self.contents.kernels

    @property
    def dtype(self) -> np.dtype:
        """The type of the entries."""
        return self.contents.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each kernel: (N, M), or (L, N, M) with all layers."""
        return self.contents.shape

    @property
    def done(self) -> NDArray[np.bool_]:
        """Whether each tile is done now, as an array of (tiles down, tiles across).

        Of a symmetric matrix, only tiles on and below the diagonal count.
        """
        if self.linked:
            return self.contents.grid.mask()
        with self.tiles() as tiles:
            return tiles.done()

    @property
    def tile_map(self) -> TileMap:
        """The positions of the tiles in the file.

        Raises
        ------
        ValueError
            Another program has stored the file in a different way since it was written, or it
            refers to parts and has no tiles.
        """
        if self._parts:
            raise InvalidValueError(
                f"{self.path} refers to the parts of a job and holds no tiles; open the parts, "
                f"which parts() returns"
            )
        return read_tile_map(self._file, self.path, self.contents)

    def tiles(self, *, write: bool = False) -> TileFile:
        """Open the tiles of this file, past HDF5, even if another file has taken its name.

        Raises
        ------
        OSError
            The file cannot be written, or too many files are open.
        """
        tile_map = self.tile_map
        try:
            return TileFile(self._file.descriptor, tile_map, write=write)
        except OSError as error:
            done = "written" if write else "read"
            text = f"{self.path} cannot be {done}: {error.strerror}"
            raise file_error(error, text) from None

    def verify(self, *, progress: bool = False) -> Report:
        """Read every byte, and check checksums and entries.

        All entries have to be finite. A symmetric matrix has to be exactly symmetric, and all of
        its entries have to satisfy |K(x,x')| ≤ √(K(x,x)·K(x',x')), up to rounding.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar on standard error.

        Returns
        -------
        Report
            True if nothing is wrong; `problems` names the kernel, layer, tile and entry. In an
            incomplete file, which is itself a problem, the tiles that are done are checked.
        """
        report = Report()
        c = self.contents
        if self._parts:
            for number, part in enumerate(self._parts.paths):
                try:
                    checked = self._parts.open(number)
                    with GramFile(part, checked.file, checked.header) as file:
                        found = file.verify(progress=progress)
                except (OSError, ValueError) as error:
                    disk.raise_exhausted(error)
                    report.problems.append(str(error))
                    continue
                report.problems += [f"{part}: {problem}" for problem in found.problems]
            report.checks = [f"its {len(self.linked)} parts, each by itself"]
            return report
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
        of_job = f"{c.storage.label} of " if c.storage.is_part else ""
        report.checks.append(f"structure: {of_job}{', '.join(self.kernels)} of shape {self.shape}")
        report.checks.append("every tile matches its checksum, every entry is finite")
        if c.grid.symmetric and not c.storage.is_part:
            report.checks.append("exactly symmetric, and no entry larger than its diagonal allows")
        return report

    def parts(self) -> list[Path]:
        """Return the files that a linked file refers to."""
        return list(self._parts.paths) if self._parts else []

    def _verify(
        self, tiles: TileFile, name: str, layer: int, sums: NDArray[np.uint64]
    ) -> Iterator[tuple[Place, list[str]]]:
        """Yield the tiles of a matrix, or those that are done, each with a list of its problems."""
        grid, limits = self.contents.grid, np.finfo(self.dtype)
        slack = 1 + schwarz_slack(self.contents.depth, self.dtype)
        smallest = limits.tiny / limits.eps  # below it the diagonal has lost digits to underflow
        # 1/√K(x,x), with slack for rounding; 0 where a part does not have that diagonal tile
        scale = np.zeros((grid.down, grid.chunk[0]), self.dtype)

        def measure(tile: Tile) -> None:
            if not tile.wrong:
                diagonal = np.maximum(np.diagonal(tile.block), smallest)
                scale[tile.place[2]] = 1 / np.sqrt(slack * diagonal)

        def look(tile: Tile) -> tuple[Place, list[str]]:
            _, _, i, j = tile.place
            if not sums[i, j]:
                return tile.place, [f"tile ({i}, {j}) has no checksum"]
            if tile.wrong:
                return tile.place, [f"tile {at} {why}" for at, why in tile.wrong.items()]
            size, block = np.abs(tile.block, out=tile.scratch), tile.block
            if grid.symmetric:
                with np.errstate(over="ignore", invalid="ignore"):
                    size *= scale[i][:, None]
                    size *= scale[j]
            largest = size.max()
            if np.isfinite(largest) and not (grid.symmetric and largest > 1):
                if not grid.symmetric or i != j or np.array_equal(block, block.T):
                    return tile.place, []
                wrong, problem = block != block.T, "differs from its mirror image"
            elif np.isfinite(block).all():
                wrong, problem = ~(size <= 1), "is larger than its diagonal allows"
            else:
                wrong, problem = ~np.isfinite(block), "is not finite"
            row, column = np.argwhere(wrong)[0]
            return tile.place, [
                f"tile ({i}, {j}) has an entry that {problem}: row {i * grid.tile + row}, "
                f"column {j * grid.tile + column}, {np.count_nonzero(wrong)} in all"
            ]

        computed = self.contents.storage.mask
        places = (
            (name, layer, i, j)
            for i, j in grid.tiles(range(grid.down), range(grid.across))
            if computed[i, j] and (sums[i, j] or self.complete)
        )
        if grid.symmetric:
            diagonal = ((name, layer, i, i) for i in range(grid.down) if sums[i, i])
            for _ in tiles.scan(diagonal, measure):
                pass
        yield from tiles.scan(places, look)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._parts:
            self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.shape))
        return escaped(
            f"<GramFile {self.path}: {', '.join(self.kernels)}, {shape}, {self.dtype}, {self.net}"
            f"{'' if self.complete else ', incomplete'}>"
        )


def open_gram(path: str | os.PathLike[str], *, incomplete: bool = False) -> GramFile:
    """Open a Gram file for reading.

    Parameters
    ----------
    path : str or path
    incomplete : bool
        Also open an incomplete file, ``<name>.partial``; its datasets raise ValueError for
        entries of tiles that are not done.

    Returns
    -------
    GramFile
        A context manager that closes the file.

    Raises
    ------
    OSError
        The file is missing, is a folder, or cannot be read.
    ValueError
        The file is incomplete, is not a Gram file of this format, or is damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise folder_error(path, "a Gram file")
    if not path.exists():
        partial = partial_of(path)
        hint = f", but {partial} does: run its command again to complete it"
        raise MissingFileError(f"{path} does not exist{hint if partial.exists() else ''}")
    if not path.is_file():
        raise InvalidValueError(f"{path} is a device or a pipe; name an ordinary file")
    try:
        if is_incomplete(path) and not incomplete:
            raise InvalidValueError(
                f"{path} is incomplete; run its command again to complete it, or open it with "
                f"incomplete=True"
            )
        real = path.resolve()  # linked parts are looked up relative to it
        file = HDF5(real)
        try:
            header = read_header(file, path)
            parts = Parts(path, real, file, header) if header.linked else None
            return GramFile(path, file, header, parts)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        if error.strerror is None:  # it is one of ours
            raise
        name = error.filename or path
        raise file_error(error, f"{name} cannot be read: {error.strerror}") from None


def existing(target: Path, contents: Contents) -> GramFile:
    """Open the complete file that already exists at `target`, if it has these contents.

    Raises
    ------
    ValueError
        It has other contents, or is no Gram file; the text names the differences.
    """
    remedy = "Choose another output, or overwrite it"
    try:
        file = open_gram(target)
    except ValueError as error:
        raise InvalidValueError(f"{error}. {remedy}") from None
    if differences := contents.differences(file.contents):
        file.close()
        raise InvalidValueError(
            f"{target} exists with other contents: {'; '.join(differences)}. {remedy}"
        )
    remove_stale_lock(target)
    return file
