"""A file and its data: a sample of its entries computed anew, or the tiles that are bad."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntk_numba.accuracy import difference
from ntk_numba.arguments import KERNELS, Data
from ntk_numba.compute.memory import diagonal, gram
from ntk_numba.compute.plan import make_plan
from ntk_numba.compute.stream import (
    contents_of,
    prepare,
    stream_tiles,
    surveys_of,
)
from ntk_numba.engine.kernel import NUMERICS
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Contents
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.reader import GramFile, Report, open_gram
from ntk_numba.gramfile.tiles import Place, TileFile
from ntk_numba.inputs.source import Source, open_sources

SAMPLE = 64  # rows and columns


def verify_sample(file: GramFile, X: Data, Z: Data | None = None, *, seed: int = 0) -> Report:
    """Compare a Gram file with its data: the digests, and 64 × 64 entries computed anew.

    Parameters
    ----------
    file : GramFile
    X, Z : the data it was made of, see `ntk_numba.gram`
    seed : which entries

    Returns
    -------
    Report
        A problem for data that is not the file's (nothing is computed then), and for each kernel
        and layer with an entry off by more than the stated accuracy of `gram` allows.
    """
    contents, grid = file.contents, file.contents.grid
    x, z = open_sources(X, Z)
    report = Report(problems=_other_data(contents, x, z))
    if not report:
        return report
    report.checks.append("the data is what the file was made of")

    rng = np.random.default_rng(seed)
    down, across = range(grid.rows), range(grid.columns)
    if contents.layout == "part":  # of one of its tiles
        i, j = (int(k) for k in rng.choice(np.argwhere(grid.mask(contents.part))))
        down, across = (
            range(k * grid.tile, k * grid.tile + size)
            for k, size in ((i, grid.height(i)), (j, grid.width(j)))
        )
    rows, columns = (
        np.sort(rng.choice(side, min(SAMPLE, len(side)), replace=False)) for side in (down, across)
    )
    left, right = x.take(rows), (x if z is None else z).take(columns)
    kernels, layers, dtype = contents.kernels, contents.layers, contents.dtype
    anew = gram(file.net, left, right, kernels=kernels, layers=layers, dtype=dtype)
    scales = [
        diagonal(file.net, side, kernels=kernels, layers=layers, dtype=dtype)
        for side in (left, right)
    ]
    well_conditioned = all(a.facts.well_conditioned for a in file.net.activation)
    rounding = difference(contents.depth, file.dtype, well_conditioned)
    for name in file.kernels:
        # a series has another degree where the largest of the samples is another
        limit = rounding + 2 * contents.error[KERNELS.index(name)]
        stored = _entries(getattr(file, name), rows, columns)
        a, b = (np.sqrt(getattr(s, name).astype(float)) for s in scales)
        error = np.abs(stored.astype(float) - getattr(anew, name))
        wrong = error > limit * a[..., :, None] * b[..., None, :]
        if wrong.any():
            *layer, row, column = np.argwhere(wrong)[0]
            label = f"{name} layer {layer[0] + 1}" if layer else name
            report.problems.append(
                f"{label}: row {rows[row]}, column {columns[column]} is not what the data gives; "
                f"{np.count_nonzero(wrong)} of {wrong.size} sampled entries are wrong"
            )
    report.checks.append(f"{len(rows)} × {len(columns)} entries computed anew")
    return report


def _other_data(contents: Contents, x: Source, z: Source | None) -> list[str]:
    """In what the data is not that of a file."""
    if (z is None) != contents.grid.symmetric:
        return [
            "the file is a matrix of one data set with itself, but Z is given"
            if contents.grid.symmetric
            else "the file is a matrix of two data sets; give Z as well"
        ]
    surveys = surveys_of(contents.grid, contents.part, x, z)
    return [
        f"{source.name} is not the data that the file was made of: "
        f"{survey.digest.difference(digest)} differ"
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
    """Compute the bad tiles of a complete Gram file again, in place.

    Parameters
    ----------
    path : the file
    X, Z, memory, threads, progress : see `write_gram`
    bad : sequence, optional
        `Report.bad` of ``f.verify()``, if that was done just now.

    Returns
    -------
    Report
        True if all tiles that were bad are now as they should be.

    Raises
    ------
    ValueError
        Data that is not the file's, a file of another version of the arithmetic, or damaged beyond
        its tiles.
    OSError
        A file that cannot be written, or that another process writes.
    """
    path = Path(path).resolve()
    x, z = open_sources(X, Z)
    with open_gram(path) as file:
        contents = file.contents
        if file.linked:
            raise InvalidValueError(
                f"{path} holds no tiles of its own: repair the parts that it links"
            )
        differences = _other_data(contents, x, z)
        if file.numerics != NUMERICS:
            differences.append(f"its numerical version is {file.numerics}, not {NUMERICS}")
        if differences:
            raise InvalidValueError(f"{path} cannot be repaired: {'; '.join(differences)}")
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
            largest_norm=contents.largest_norm,
        )
        if differences := contents.differences(contents_of(plan, x, z)):
            raise InvalidValueError(f"{path} cannot be repaired: {'; '.join(differences)}")
        tile_map = file.tile_map
        bad = file.verify(progress=progress).bad if bad is None else bad
    kernel = prepare(plan, x, z)
    done = np.ones((plan.grid.down, plan.grid.across), bool)
    for _, _, i, j in bad:
        done[i, j] = False
    lease = Lease(path)
    try:
        with TileFile(path, tile_map, write=True) as tiles:
            stream_tiles(plan, kernel, x, z, tiles, done=done, progress=progress)
            tiles.commit()
            tiles.sync()
            wrong = [tile for tile in tiles.scan(bad, lambda t: (t.place, t.wrong)) if tile[1]]
    finally:
        lease.release()
    report = Report([f"{np.count_nonzero(~done)} tiles computed again"])
    for (name, layer, _, _), why in wrong:
        report.problems += [
            f"{name} layer {layer + 1}: tile {at} {text}" for at, text in why.items()
        ]
    return report


def _entries(dataset: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """dataset[..., rows, columns], a row at a time: HDF5 is slow with lists of points."""
    low, high = int(columns.min()), int(columns.max()) + 1
    return np.stack([dataset[..., int(i), low:high][..., columns - low] for i in rows], axis=-2)
