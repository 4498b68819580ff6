"""Comparison of the file of a Cholesky factor with its matrix."""

from typing import Any

import numpy as np

from ntk_numba.arguments import KernelName
from ntk_numba.factors.factor_tiles import StoredTiles
from ntk_numba.factors.factorise import Shifted
from ntk_numba.gramfile.factor import FactorFile
from ntk_numba.gramfile.stored import Report
from ntk_numba.operators.tiles import open_tiles

SAMPLE = 4  # tiles that are compared


def verify_factor(
    file: FactorFile, gram: Any, *, kernel: KernelName | None = None, seed: int = 0
) -> Report:
    """Compare a complete factor with the matrix: its identity, and a sample of tiles of L Lᵀ.

    An entry is wrong if it differs from that of A = K + ridge·I by more than 2 (N + 2) ε
    √(A(i,i)·A(j,j)), where ε is that of the dtype of the factor. This is twice the bound of the
    errors of the factorisation, in whatever order its sums are computed (N. Higham, *Accuracy and
    Stability of Numerical Algorithms*, 2002, theorem 10.3).

    Parameters
    ----------
    file : FactorFile
    gram, kernel : see `cholesky`
    seed : int
        The seed of the random choice of tiles.

    Returns
    -------
    Report
        True if no problem was found. There is a problem if the matrix is not the one that was
        factorised, in which case nothing is compared, and one for each tile with wrong entries.

    Raises
    ------
    ValueError, TypeError, OSError
        If the matrix or a tile cannot be read.
    """
    contents, report, rng = file.contents, Report(), np.random.default_rng(seed)
    with open_tiles(gram, kernel, threads=1) as tiles, file.tiles() as own:
        matrix = Shifted(tiles, contents.ridge)
        if differences := contents.differences(matrix.contents(contents.kernel)):
            report.problems = [
                f"this is not the matrix of the factor: {'; '.join(differences)}; a kernel that is "
                "computed, stored, or in an array counts as another matrix each time"
            ]
            return report
        report.checks.append("the matrix is the one that was factorised")
        store, grid = StoredTiles(own, str(file.path)), contents.grid
        slack = 2 * (grid.rows + 2) * float(np.finfo(file.dtype).eps)
        root = np.zeros(grid.down * grid.tile)
        root[: grid.rows] = np.sqrt(matrix.diagonal)
        places = np.argwhere(contents.storage.mask)
        chosen = rng.choice(len(places), min(SAMPLE, len(places)), replace=False)
        left, right, block = (np.empty((grid.tile,) * 2, file.dtype) for _ in range(3))
        for i, j in places[np.sort(chosen)].tolist():
            product = np.zeros((grid.tile,) * 2)
            for k in range(j + 1):
                store.read(i, k, left)
                store.read(j, k, right)
                product += left.astype(float) @ right.T.astype(float)
            matrix.load(i, j, block)
            rows, columns = (root[n * grid.tile : (n + 1) * grid.tile] for n in (i, j))
            wrong = ~(np.abs(product - block) <= slack * np.outer(rows, columns))
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                report.problems.append(
                    f"factor: tile ({i}, {j}) of L Lᵀ is not that of the matrix: row "
                    f"{i * grid.tile + row}, column {j * grid.tile + column}, "
                    f"{np.count_nonzero(wrong)} in all"
                )
        report.checks.append(f"{len(chosen)} tiles of L Lᵀ are those of the matrix")
    return report
