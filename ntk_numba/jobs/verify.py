"""Verification against the data: a sample of a file's entries computed anew."""

from typing import Any

import numpy as np

from ntk_numba.files.gram_file import GramFile, Report
from ntk_numba.files.source import open_source
from ntk_numba.jobs.memory import diagonal, gram

SAMPLE = 64  # rows and columns


def verify_sample(file: GramFile, X: Any, Z: Any = None, seed: int = 0) -> Report:
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
        and layer with an entry off by more than twice the stated accuracy of `gram`.
    """
    report = Report()
    contents, grid = file.contents, file.contents.grid
    x = open_source(X, "X")
    z = None if Z is None else open_source(Z, "Z")
    if (z is None) != grid.symmetric:
        report.problems.append(
            "the file is a matrix of one data set with itself, but Z is given"
            if grid.symmetric
            else "the file is a matrix of two data sets; give Z as well"
        )
        return report
    for source, digest in ((x, contents.input_digest), (z, contents.against_digest)):
        if source is not None and source.digest != digest:
            report.problems.append(f"{source.name} is not the data that the file was made of")
    if report.problems:
        return report
    report.checks.append("the data is what the file was made of")

    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(grid.rows, min(SAMPLE, grid.rows), replace=False))
    columns = np.sort(rng.choice(grid.columns, min(SAMPLE, grid.columns), replace=False))
    left, right = x.take(rows), (x if z is None else z).take(columns)
    which = "all" if contents.every else "last"
    anew = gram(file.net, left, right, file.kernels, which, file.dtype)
    scales = [diagonal(file.net, side, file.kernels, which, file.dtype) for side in (left, right)]
    tolerance = 2e-14 if file.dtype == np.float64 else 2e-6 * max(1, file.net.depth / 8)
    for name in file.kernels:
        stored = _entries(getattr(file, name), rows, columns)
        a, b = (np.sqrt(getattr(s, name).astype(float)) for s in scales)
        error = np.abs(stored.astype(float) - getattr(anew, name))
        wrong = error > tolerance * a[..., :, None] * b[..., None, :]
        if wrong.any():
            *layer, row, column = np.argwhere(wrong)[0]
            label = f"{name} layer {layer[0] + 1}" if layer else name
            report.problems.append(
                f"{label}: row {rows[row]}, column {columns[column]} is not what the data gives; "
                f"{np.count_nonzero(wrong)} of {wrong.size} sampled entries are wrong"
            )
    report.checks.append(f"{len(rows)} × {len(columns)} entries computed anew")
    return report


def _entries(dataset: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """dataset[..., rows, columns], a row at a time: HDF5 is slow with lists of points."""
    return np.stack([dataset[..., int(i), :][..., columns] for i in rows], axis=-2)
