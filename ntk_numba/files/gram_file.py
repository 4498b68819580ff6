"""A complete Gram file, open for reading, and its verification."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba.files.store import FORMAT, FORMAT_VERSION, Contents
from ntk_numba.grid import Grid
from ntk_numba.network import KERNELS, MLP


@dataclass
class Report:
    """What a verification found: true if nothing is wrong."""

    checks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems


class GramFile:
    """A complete Gram file, open for reading; a context manager.

    Attributes
    ----------
    nngp, ntk : h5py.Dataset or None
        (N, M), or (L, N, M) with all layers: ``f.ntk[2:5, 7]`` reads what it says, no more.
    path : Path
    contents : Contents
    package_version : str
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.nngp: Any = file.get("nngp")
        self.ntk: Any = file.get("ntk")
        attributes = file.attrs
        datasets = [d for d in (self.nngp, self.ntk) if d is not None]
        rows, columns = datasets[0].shape[-2:]
        against = str(attributes["against_digest"])
        self.package_version = str(attributes["package_version"])
        self.complete = bool(attributes["complete"])
        self.contents = Contents(
            MLP.from_dict(json.loads(attributes["net"])),
            tuple(name for name in KERNELS if name in file),
            attributes["layers"] == "all",
            datasets[0].dtype,
            Grid(rows, columns, not against, int(attributes["tile"])),
            str(attributes["input_digest"]),
            against,
        )

    @property
    def net(self) -> MLP:
        """The network."""
        return self.contents.net

    @property
    def kernels(self) -> tuple[str, ...]:
        """Those of "nngp", "ntk" that the file holds."""
        return self.contents.kernels

    @property
    def dtype(self) -> np.dtype:
        """Of the entries."""
        return self.contents.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each kernel: (N, M), or (L, N, M) with all layers."""
        return self.contents.shape

    def verify(self, progress: bool = False) -> Report:
        """Read every entry: structure, finiteness, exact symmetry, |K(x,x')| ≤ √(K(x,x)K(x',x')).

        Returns
        -------
        Report
            True if nothing is wrong; `problems` names the kernel, layer, tile and entry.
        """
        report = Report()
        grid = self.contents.grid
        matrices = [(n, k) for n in self.kernels for k in range(self._depth)]
        bar = tqdm(total=grid.count * len(matrices), unit="tile", disable=not progress, leave=False)
        if not self.complete:
            report.problems.append("the file is not marked complete")
        for name in self.kernels:
            if getattr(self, name).shape != self.shape or getattr(self, name).dtype != self.dtype:
                report.problems.append(f"{name} is not {self.dtype} of shape {self.shape}")
                return report
        with bar:
            for name, layer in matrices:
                label = f"{name} layer {layer + 1}" if self.contents.every else name
                for problem in self._check_matrix(name, layer, bar):
                    report.problems.append(f"{label}: {problem}")
        report.checks.append(f"structure: {', '.join(self.kernels)} of shape {self.shape}")
        report.checks.append("every entry is finite")
        if grid.symmetric:
            report.checks.append("exactly symmetric, and no entry larger than its diagonal allows")
        return report

    @property
    def _depth(self) -> int:
        return self.net.depth if self.contents.every else 1

    def tile(self, name: str, layer: int, i: int, j: int) -> NDArray[np.floating]:
        """Tile (i, j) of a kernel, layers counted from 0."""
        t, dataset = self.contents.grid.tile, getattr(self, name)
        at = np.s_[i * t : (i + 1) * t, j * t : (j + 1) * t]
        block: NDArray[np.floating] = dataset[(layer, *at)] if self.contents.every else dataset[at]
        return block

    def _check_matrix(self, name: str, layer: int, bar: Any) -> Iterator[str]:
        grid = self.contents.grid
        diagonal: dict[int, NDArray[np.floating]] = {}
        limits = np.finfo(self.dtype)
        least = limits.tiny / limits.eps  # below it the diagonal has lost digits to underflow
        if grid.symmetric:
            for i in range(grid.down):
                diagonal[i] = np.sqrt(np.maximum(np.diagonal(self.tile(name, layer, i, i)), least))
        slack = 1 + 64 * np.finfo(self.dtype).eps * max(1, self.net.depth / 8)
        for i, j in grid.tiles(range(grid.down), range(grid.across)):
            block = self.tile(name, layer, i, j)
            other = self.tile(name, layer, j, i).T if grid.symmetric and i != j else block
            where = f"tile ({i}, {j})"
            for at, part in ((where, block), (f"tile ({j}, {i})", other)):
                if not np.isfinite(part).all():
                    entry = self._entry(i, j, ~np.isfinite(part))
                    yield f"{at} has an entry that is not finite{entry}"
                    break
            else:
                if grid.symmetric:
                    unequal = block != (other if i != j else block.T)
                    if unequal.any():
                        yield f"{where} is not the mirror of ({j}, {i}){self._entry(i, j, unequal)}"
                    bound = slack * diagonal[i][:, None] * diagonal[j]
                    if (np.abs(block) > bound).any():
                        yield (
                            f"{where} has an entry larger than its diagonal allows"
                            f"{self._entry(i, j, np.abs(block) > bound)}"
                        )
            bar.update()

    def _entry(self, i: int, j: int, wrong: NDArray[np.bool_]) -> str:
        row, column = np.argwhere(wrong)[0]
        t = self.contents.grid.tile
        return f": row {i * t + row}, column {j * t + column}, {np.count_nonzero(wrong)} in all"

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = " × ".join(map(str, self.shape))
        return (
            f"<GramFile {self.path}: {', '.join(self.kernels)}, {kind}, {self.dtype}, {self.net}>"
        )


def open_gram(path: str | os.PathLike[str]) -> GramFile:
    """Open a Gram file for reading.

    Raises
    ------
    OSError
        A file that is missing, a folder, or cannot be read.
    ValueError
        A file that is no Gram file, of a newer format, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a Gram file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        path.open("rb").close()
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from None
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise ValueError(f"{path} is no valid HDF5 file, perhaps truncated ({error})") from None
    try:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is an HDF5 file, but not one that ntk-numba gram wrote")
        if file.attrs["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {file.attrs['format_version']}; this package reads up "
                f"to {FORMAT_VERSION}; install a newer one"
            )
        if not any(name in file for name in KERNELS):
            raise ValueError(f"{path} is damaged: it holds no kernel")
        return GramFile(path, file)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        file.close()
        raise ValueError(f"{path} is damaged: {error}") from None
    except BaseException:
        file.close()
        raise
