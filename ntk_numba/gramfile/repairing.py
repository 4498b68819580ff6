"""The repair of a complete file of tiles, in place, whatever its format.

What recomputes the bad tiles is up to the caller; here are the lease, the one open file, and the
comparison of the tiles with their checksums afterwards.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import FileError, InvalidValueError
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.stored import AnyFile, Report
from ntk_numba.gramfile.tiles import Place, TileFile


@dataclass
class Repair(Generic[AnyFile]):
    """A file that is being repaired, which no other process writes meanwhile.

    path, file : its path, and the open file: all is done to that one, whatever has its name
    """

    path: Path
    file: AnyFile
    _lease: Lease

    def refuse(self, differences: Sequence[str]) -> None:
        """Raise ValueError if what the file would be repaired with is not what it was made of."""
        if differences:
            raise InvalidValueError(f"{self.path} cannot be repaired: {'; '.join(differences)}")

    def other_numerics(self, numerics: int) -> list[str]:
        """Describe for people how the version of the arithmetic differs from this file's."""
        found = self.file.numerics
        return [] if found == numerics else [f"its numerical version is {found}, not {numerics}"]

    @contextlib.contextmanager
    def writing(
        self, bad: Sequence[Place], report: Report
    ) -> Iterator[tuple[TileFile, NDArray[np.bool_], Callable[[], None]]]:
        """Write the bad tiles again, as a context of its tiles, a mask, and a check.

        The mask (tiles down, tiles across) is False for the tiles to write. The check raises an
        error if the file is no longer ours; call it before each batch. At the end the tiles are
        compared with their checksums, and those that do not match are problems of the report.
        """
        done = np.ones(self.file.contents.storage.mask.shape, bool)
        for _, _, i, j in bad:
            done[i, j] = False
        with self.file.tiles(write=True) as tiles:

            def check() -> None:
                self._lease.check()
                if not tiles.is_at(self.path):
                    raise FileError(
                        f"{self.path} was replaced or moved while it was repaired; look at the "
                        f"file that has this name now, and repair it again"
                    )

            check()
            yield tiles, done, check
            tiles.commit()
            tiles.sync()
            wrong = [tile for tile in tiles.scan(bad, lambda t: (t.place, t.wrong)) if tile[1]]
            check()
        report.checks.append(f"{np.count_nonzero(~done)} tiles computed again")
        for (name, layer, _, _), why in wrong:
            label = self.file.contents.matrix_name(name, layer)
            report.problems += [f"{label}: tile {at} {text}" for at, text in why.items()]


@contextlib.contextmanager
def repairing(path: Path, open_file: Callable[[Path], AnyFile]) -> Iterator[Repair[AnyFile]]:
    """Open a file for its repair, as a context.

    open_file : opens a file of this format

    Raises
    ------
    ValueError, OSError
        As `open_file`; or another process is writing the file.
    """
    path = path.resolve()
    if not path.exists():
        open_file(path)  # which raises the error
    # The lease comes first, and all that follows is done to one open file, whatever has its name.
    with Lease(path, mend="wait for it") as lease, open_file(path) as file:
        yield Repair(path, file, lease)
