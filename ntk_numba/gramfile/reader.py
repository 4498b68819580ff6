"""Gram files open for reading, and their verification."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.accuracy import schwarz_slack
from ntk_numba.arguments import KERNELS, KernelName, one_of, whole_number
from ntk_numba.errors import InvalidValueError, NtkNumbaError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.entries import Entries, Whole
from ntk_numba.gramfile.formats import GRAM
from ntk_numba.gramfile.layout import HDF5, TileMap, read_tile_map
from ntk_numba.gramfile.parts import Parts
from ntk_numba.gramfile.products import MatrixOfFile
from ntk_numba.gramfile.sources import OwnTiles, Source
from ntk_numba.gramfile.stored import Report, StoredFile, Wrong, open_stored, open_tiles
from ntk_numba.gramfile.tiles import Tile, TileFile
from ntk_numba.terminal import escaped

if TYPE_CHECKING:
    from ntk_numba.network import MLP


class _Matrices:
    """The tiles of each kernel and layer of an open file, opened when they are first used.

    It has no reference to the `GramFile`, which is then closed as soon as nobody uses it.
    """

    def __init__(self, path: Path, file: HDF5, contents: Contents, parts: Parts | None) -> None:
        self._path, self._file, self._contents = path, file, contents
        self._source: Source | None = parts
        self._known: dict[tuple[str, int], MatrixOfFile] = {}
        self._lock = threading.Lock()

    def get(self, name: str, layer: int) -> MatrixOfFile:
        """Return the tiles of a kernel and layer, counted from 0."""
        with self._lock:
            if self._source is None or not self._file.complete:  # else the checksums stay
                path, file, contents = self._path, self._file, self._contents
                tile_map = read_tile_map(file, path, contents)

                def open_own(direct: bool) -> TileFile:
                    return open_tiles(file, path, tile_map, direct=direct)

                self._source = OwnTiles(path, contents, open_own, complete=file.complete)
                self._known.clear()
            if (name, layer) not in self._known:
                self._known[name, layer] = MatrixOfFile(
                    self._path, self._contents, name, layer, self._source
                )
            return self._known[name, layer]

    def close(self) -> None:
        """Close the open files of tiles."""
        with self._lock:
            if self._source is not None:
                self._source.close()


class GramFile(StoredFile[Contents]):
    """A Gram file, open for reading; a context manager.

    Attributes
    ----------
    nngp, ntk : h5py.Dataset or None
        (N, M), or (L, N, M) with all layers: ``f.ntk[2:5, 7]`` reads these entries only, and
        ``f.ntk[rows, columns]`` takes lists in any order with repeats. ``f.ntk @ V`` and
        ``V @ f.ntk`` read each tile once and have a few of them in memory.
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
    processor : str
        LLVM's name of the processor for which the code that computed the file was compiled, such
        as "znver5"; of a merged or linked file, the names of all of its parts, sorted and joined
        by ", ". A file that was begun on one processor and continued on another has the name of
        the first. It is "" in files of older versions. The entries do not depend on it.
    linked : tuple of (str, int)
        The names and seals of the parts that the file refers to; empty if it holds its own tiles.
    """

    def __init__(
        self, path: Path, file: HDF5, header: Header[Contents], parts: Parts | None = None
    ) -> None:
        super().__init__(path, file, header)
        self._parts, self.linked = parts, header.linked
        self._matrices = _Matrices(path, file, header.contents, parts)
        self.nngp, self.ntk = (
            self._entries(name) if name in self.kernels else None for name in KERNELS
        )

    def _entries(self, name: str) -> Entries | Whole:
        """Return the dataset of a kernel, or `Entries` if the file does not hold all of it."""
        stored = partial(self._matrices.get, name)
        if self.complete and not self.contents.storage.packed:
            return Whole(self._file[name], self.contents, stored)
        mask = self.contents.storage.mask
        done = (lambda: mask) if self.complete else (lambda: self.done)
        return Entries(self.path, self._file, name, self.contents, done, stored, self._parts)

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
    def done(self) -> NDArray[np.bool_]:
        """Whether each tile is done now, as an array of (tiles down, tiles across).

        Of a symmetric matrix, only tiles on and below the diagonal count.
        """
        return self.contents.grid.mask() if self.linked else super().done

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
        return super().tile_map

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
        if not self._parts:
            return super().verify(progress=progress)
        report = Report()
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

    def _checks(self) -> list[str]:
        c = self.contents
        of_job = f"{c.storage.label} of " if c.storage.is_part else ""
        checks = [
            f"structure: {of_job}{', '.join(self.kernels)} of shape {self.shape}",
            "every tile matches its checksum, every entry is finite",
        ]
        if c.grid.symmetric and not c.storage.is_part:
            checks.append("exactly symmetric, and no entry larger than its diagonal allows")
        return checks

    def blocks(
        self, kernel: KernelName, layer: int | None = None
    ) -> Iterator[tuple[slice, slice, NDArray[np.floating]]]:
        """Read the tiles of a kernel one after another: rows, columns, and their entries.

        Each tile is compared with its checksum, and a few are read ahead.

        Parameters
        ----------
        kernel : "nngp" or "ntk"
        layer : int, optional
            A layer, counted from 1, of a file with all layers; by default the last one.

        Yields
        ------
        rows, columns : slice
        block : (rows, columns) float32 or float64
            Each tile that is stored and done, once, in the order of the file. A symmetric matrix
            has those on and below the diagonal: ``block.T`` is the matrix at columns, rows, also
            if the file stores that too. Those of the diagonal are full.

        Raises
        ------
        ValueError
            The file has no such kernel or layer, or a tile is damaged.

        Examples
        --------
        >>> total = 0.0
        >>> for rows, columns, block in f.blocks("ntk"):
        ...     total += block.sum() * (1 if rows == columns else 2)
        """
        return self.stored(kernel, layer).blocks()

    def operator(
        self, kernel: KernelName, layer: int | None = None, *, threads: int | None = None
    ) -> Any:
        """Return a kernel as a linear operator of SciPy, which reads the file in each product.

        Parameters
        ----------
        kernel, layer : see `blocks`
        threads : int, optional
            The largest number of threads that multiply; by default all. Bits do not depend on it.

        Returns
        -------
        GramOperator
            A `scipy.sparse.linalg.LinearOperator`, which can be used until this file is closed.

        Raises
        ------
        ValueError
            The file has no such kernel or layer, or is incomplete.

        Examples
        --------
        >>> values = scipy.sparse.linalg.eigsh(f.operator("ntk"), 10, return_eigenvectors=False)
        """
        matrix = self.stored(kernel, layer)
        getattr(self, kernel).refuse_incomplete()
        # a higher wing, and SciPy, for which opening a file must not wait
        module = import_module("ntk_numba.operators.operator")
        return module.StoredOperator(matrix, threads=threads)

    def stored(self, kernel: KernelName, layer: int | None = None) -> MatrixOfFile:
        """Return the tiles of a kernel and layer, see `blocks`."""
        if kernel not in self.kernels:
            one_of("kernel", kernel, KERNELS)
            raise InvalidValueError(f"{self.path} has no {kernel}, only {self.kernels[0]}")
        self.refuse_closed()
        kept = self.contents.kept
        if layer is None:
            return self._matrices.get(kernel, len(kept) - 1)
        if whole_number("layer", layer) not in kept:
            held = f"layers 1 to {kept[-1]}" if kept[1:] else f"layer {kept[0]} only"
            raise InvalidValueError(f"{self.path} has no layer {layer}: it has {held}")
        return self._matrices.get(kernel, kept.index(layer))

    def parts(self) -> list[Path]:
        """Return the files that a linked file refers to."""
        return list(self._parts.paths) if self._parts else []

    def _check(
        self, tiles: TileFile, name: str, layer: int, sums: NDArray[np.uint64]
    ) -> Callable[[Tile], Wrong | None]:
        grid, limits = self.contents.grid, np.finfo(self.dtype)
        slack = 1 + schwarz_slack(self.contents.depth, self.dtype)
        smallest = limits.tiny / limits.eps  # below it the diagonal has lost digits to underflow
        # 1/√K(x,x), with slack for rounding; 0 where a part does not have that diagonal tile
        scale = np.zeros((grid.down, grid.chunk[0]), self.dtype)

        def measure(tile: Tile) -> None:
            if not tile.wrong:
                diagonal = np.maximum(np.diagonal(tile.block), smallest)
                scale[tile.place[2]] = 1 / np.sqrt(slack * diagonal)

        def check(tile: Tile) -> Wrong | None:
            _, _, i, j = tile.place
            size, block = np.abs(tile.block, out=tile.scratch), tile.block
            if grid.symmetric:
                with np.errstate(over="ignore", invalid="ignore"):
                    size *= scale[i][:, None]
                    size *= scale[j]
            largest = size.max()
            if np.isfinite(largest) and not (grid.symmetric and largest > 1):
                if not grid.symmetric or i != j or np.array_equal(block, block.T):
                    return None
                return Wrong(block != block.T, "differs from its mirror image")
            if np.isfinite(block).all():
                return Wrong(~(size <= 1), "is larger than its diagonal allows")
            return Wrong(~np.isfinite(block), "is not finite")

        if grid.symmetric:
            diagonal = ((name, layer, i, i) for i in range(grid.down) if sums[i, i])
            for _ in tiles.scan(diagonal, measure):
                pass
        return check

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._matrices.close()

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

    def make(path: Path, file: HDF5, header: Header[Contents]) -> GramFile:
        parts = Parts(path, path.resolve(), file, header) if header.linked else None
        return GramFile(path, file, header, parts)

    return open_stored(Path(path), GRAM, make, incomplete=incomplete)
