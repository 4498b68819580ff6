"""Comparison of a Gram file with its data, and repair of damaged tiles.

`verify_sample` recomputes a sample of the entries, `repair` recomputes the bad tiles.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntk_numba.accuracy import difference
from ntk_numba.arguments import KERNELS, Data
from ntk_numba.compute.memory import diagonal, gram
from ntk_numba.compute.plan import find_largest_norm, make_plan
from ntk_numba.compute.stream import contents_of, prepare, stream_tiles, surveys_of
from ntk_numba.engine.fitted import fit_network
from ntk_numba.engine.kernel import NUMERICS
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.gramfile.repairing import repairing
from ntk_numba.gramfile.stored import Report
from ntk_numba.gramfile.tiles import Place
from ntk_numba.inputs.source import Source, open_sources

SAMPLE = 64  # rows, and as many columns, that are recomputed
# A file may state an error bound this many times as large as the one that is computed here, since
# processors round differently. Another version may have had other series, with bounds below OTHER.
ROOM, ROOM_OTHER, OTHER = 2.0, 10.0, 1e-8


def verify_sample(file: GramFile, X: Data, Z: Data | None = None, *, seed: int = 0) -> Report:
    """Compare a Gram file with the data: check its digests and recompute 64 × 64 entries.

    An entry K(x,x') is wrong if it differs from the recomputed one by more than
    d·√(K(x,x)·K(x',x')), where d is the `difference` of `ntk_numba.accuracy`, plus the bound of
    errors of series that the file states, plus the bound that is computed here. The stated bound
    is itself wrong, and does not count, if it is much larger than the computed one.

    Parameters
    ----------
    file : GramFile
        An open file.
    X, Z : see `ntk_numba.gram`
        The data that the file was computed from.
    seed : int
        The seed of the random choice of rows and columns. For a part, they are from one tile.

    Returns
    -------
    Report
        True if no problem was found. There is a problem if the data is not that of the file, in
        which case nothing is computed, one for each kernel whose stated error bound is too large,
        and one for each kernel with wrong entries.

    Raises
    ------
    ValueError, TypeError, OSError
        If X or Z cannot be read, see `ntk_numba.gram`.
    """
    contents, grid = file.contents, file.contents.grid
    x, z = open_sources(X, Z)
    report = Report(problems=_other_data(contents, x, z))
    if not report:
        return report
    report.checks.append("the data is that of the file")

    rng = np.random.default_rng(seed)
    down, across = range(grid.rows), range(grid.columns)
    if contents.storage.is_part:  # the rows and columns of one tile
        i, j = (int(k) for k in rng.choice(contents.storage.places))
        down, across = (
            range(k * grid.tile, k * grid.tile + size)
            for k, size in ((i, grid.height(i)), (j, grid.width(j)))
        )
    rows, columns = (
        np.sort(rng.choice(run, min(SAMPLE, len(run)), replace=False)) for run in (down, across)
    )
    left, right = x.take(rows), (x if z is None else z).take(columns)
    kernels, layers, dtype = contents.kernels, contents.layers, contents.dtype
    options: dict[str, Any] = {
        "kernels": kernels, "layers": layers, "dtype": dtype, "up_to": contents.largest_norm,
    }  # fmt: skip
    recomputed = gram(file.net, left, right, **options)
    scales = [diagonal(file.net, samples, **options) for samples in (left, right)]
    well_conditioned = all(a.facts.well_conditioned for a in file.net.activation)
    rounding = difference(contents.depth, file.dtype, well_conditioned)
    bounds = _error_bounds(file, x, z)
    for name in file.kernels:
        # Files of version 0.1.0 have no largest norm, and the series may be another one.
        stated, computed = (e[KERNELS.index(name)] for e in (contents.error, bounds))
        room, least = (ROOM, 0.0) if file.numerics == NUMERICS else (ROOM_OTHER, OTHER)
        if stated > max(room * computed, least):
            report.problems.append(
                f"{name}: the file states an error of {stated:.3g}, and the bound for this network "
                f"and data is {computed:.3g}"
            )
            stated = 0.0
        limit = rounding + stated + computed
        stored = _entries(getattr(file, name), rows, columns)
        a, b = (np.sqrt(getattr(s, name).astype(float)) for s in scales)
        error = np.abs(stored.astype(float) - getattr(recomputed, name))
        wrong = error > limit * a[..., :, None] * b[..., None, :]
        if wrong.any():
            *layer, row, column = np.argwhere(wrong)[0]
            label = contents.matrix_name(name, layer[0] if layer else 0)
            report.problems.append(
                f"{label}: row {rows[row]}, column {columns[column]} does not match the data; "
                f"{np.count_nonzero(wrong)} of {wrong.size} sampled entries are wrong"
            )
    report.checks.append(f"{len(rows)} × {len(columns)} entries recomputed")
    return report


def _error_bounds(file: GramFile, x: Source, z: Source | None) -> tuple[float, float]:
    """Return the bounds of the errors of Σ and Θ for the network of a file and its data.

    It is fitted to the largest norm that the file states or, in older files, to that of all rows.
    """
    contents = file.contents
    norm = find_largest_norm(file.net, x, z, contents.largest_norm)
    return fit_network(file.net, norm, contents.x.shape[1]).error


def wrong_data_sets(contents: Contents, two: bool) -> str:
    """Return what is wrong if a file's matrix is of one data set and two are given, or reversed."""
    if two and contents.grid.symmetric:
        return "the file is a matrix of one data set with itself, but Z is given"
    if not two and not contents.grid.symmetric:
        return "the file is a matrix of two data sets; give Z as well"
    return ""


def _other_data(contents: Contents, x: Source, z: Source | None) -> list[str]:
    """List, for people, the differences between the data and that of a file."""
    if text := wrong_data_sets(contents, z is not None):
        return [text]
    surveys = surveys_of(contents.grid, contents.part, x, z)
    return [
        f"{source.name} is not the data that the file was made of: "
        + (
            f"{survey.digest.difference(digest)} differ"
            if source.shape == digest.shape
            else f"its shape is {source.shape}, not {digest.shape}"
        )
        for source, survey, digest in zip((x, z), surveys, (contents.x, contents.z), strict=True)
        if source and survey and digest and survey.digest != digest
    ]


def repair(
    path: str | os.PathLike[str],
    X: Data,
    Z: Data | None = None,
    *,
    bad: Sequence[Place] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Report:
    """Recompute the bad tiles of a complete Gram file, in place.

    A tile is bad if its checksum does not match its contents. The recomputed tiles have the bits
    that they had when the file was written.

    Parameters
    ----------
    path : str or path
        The file.
    X, Z, memory, threads, progress : see `write_gram`
        X and Z are the data that the file was computed from.
    bad : sequence, optional
        The tiles to recompute: `Report.bad` of ``f.verify()``. By default the file is verified
        first.

    Returns
    -------
    Report
        True if the checksums of all recomputed tiles match now.

    Raises
    ------
    ValueError
        If the data is not that of the file, the file is incomplete, links parts, has another
        version of the arithmetic, or is damaged outside its tiles.
    OSError
        If the file cannot be written, is replaced meanwhile, or another process is writing it.
    """
    x, z = open_sources(X, Z, memory)
    report = Report()
    with repairing(Path(path), open_gram) as repaired:
        path, file = repaired.path, repaired.file
        contents = file.contents
        if file.linked:
            raise InvalidValueError(
                f"{path} holds no tiles of its own: repair the parts that it links"
            )
        repaired.refuse(_other_data(contents, x, z) + repaired.other_numerics(NUMERICS))
        plan = make_plan(
            file.net,
            x,
            z,
            kernels=contents.kernels,
            layers=contents.layers,
            dtype=contents.dtype,
            memory=memory,
            threads=threads,
            part=contents.part,
            up_to=contents.largest_norm,
        )
        repaired.refuse(contents.differences(contents_of(plan, x, z)))
        bad = file.verify(progress=progress).bad if bad is None else bad
        kernel = prepare(plan, x, z)
        with repaired.writing(bad, report) as (tiles, done, check):
            stream_tiles(
                plan, kernel, x, z, tiles, done=done, check=check, progress=progress
            )  # fmt: skip
    return report


def _entries(dataset: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return dataset[..., rows, columns], read by rows: HDF5 is slow with lists of points."""
    low, high = int(columns.min()), int(columns.max()) + 1
    return np.stack([dataset[..., int(i), low:high][..., columns - low] for i in rows], axis=-2)
