"""The file of a Cholesky factor open for reading, and its verification."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntk_numba.gramfile.contents import FactorContents
from ntk_numba.gramfile.formats import FACTOR_FILE
from ntk_numba.gramfile.stored import StoredFile, Wrong, open_stored
from ntk_numba.gramfile.tiles import Tile, TileFile
from ntk_numba.terminal import escaped


class FactorFile(StoredFile[FactorContents]):
    """The file of a Cholesky factor L, open for reading; a context manager.

    It holds the tiles of L on and below the diagonal, one after another, in the dataset "factor".
    A tile on the diagonal is stored whole, with zeros above the diagonal.
    """

    def _checks(self) -> list[str]:
        return [
            f"structure: a factor of shape {self.shape}",
            "every tile matches its checksum, every entry is finite",
            "the diagonal is positive, and all entries above it are zero",
        ]

    def _check(
        self, tiles: TileFile, name: str, layer: int, sums: NDArray[np.uint64]
    ) -> Callable[[Tile], Wrong | None]:
        grid = self.contents.grid

        def check(tile: Tile) -> Wrong | None:
            _, _, i, j = tile.place
            block = tile.block
            if not (finite := np.isfinite(block)).all():
                return Wrong(~finite, "is not finite")
            if i > j:
                return None
            if (above := np.triu(block, 1) != 0).any():
                return Wrong(above, "is above the diagonal and not zero")
            size = grid.height(i)  # what follows is padding
            low = np.zeros(block.shape, bool)
            np.fill_diagonal(low[:size, :size], np.diagonal(block)[:size] <= 0)
            return Wrong(low, "is on the diagonal and not positive") if low.any() else None

        return check

    def __repr__(self) -> str:
        c = self.contents
        return escaped(
            f"<FactorFile {self.path}: {c.grid.rows} × {c.grid.rows}, {self.dtype}, "
            f"ridge {c.ridge!r}{'' if self.complete else ', incomplete'}>"
        )


def open_factor(path: str | os.PathLike[str], *, incomplete: bool = False) -> FactorFile:
    """Open the file of a Cholesky factor for reading.

    Parameters
    ----------
    path : str or path
    incomplete : bool
        Also open an incomplete file, ``<name>.partial``.

    Returns
    -------
    FactorFile
        A context manager that closes the file.

    Raises
    ------
    OSError
        The file is missing, is a folder, or cannot be read.
    ValueError
        The file is incomplete, is not the file of a factor, or is damaged.
    """
    return open_stored(Path(path), FACTOR_FILE, FactorFile, incomplete=incomplete)
