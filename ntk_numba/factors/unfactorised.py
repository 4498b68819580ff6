"""Why a matrix that is factorised tile by tile is not positive definite.

Only an error needs this. A matrix of few rows is explained in memory (`indefinite`). Of a larger
one, the unfinished factor gives a vector with a negative quotient: with the rows of L above the row
that fails, and l its own part, v = (−L⁻ᵀl, 1) has vᵀAv equal to the pivot. Lanczos' method goes on
from there, by products with the matrix.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from xxhash import xxh3_128_intdigest

from ntk_numba import stopping
from ntk_numba.blas import blas_threads
from ntk_numba.errors import NotPositiveDefiniteError
from ntk_numba.factors.factor_tiles import FactorTiles
from ntk_numba.factors.indefinite import DENSE, explain, round_up
from ntk_numba.factors.left_looking import PivotError
from ntk_numba.factors.packed import Packed, start_vector
from ntk_numba.grid import Grid

Floats = NDArray[np.floating]
Vector = NDArray[np.float64]

STEPS = 20  # of Lanczos' method, each a pass over the matrix
MARGIN = 32  # ε |λ|max that are added to what the least eigenvalue asks for
THREADS = 4  # that load tiles


class Matrix(Protocol):
    """The matrix A = 2^−exponent·(K + ridge·I), see `factorise.Shifted`."""

    ridge: float
    exponent: int
    diagonal: Vector

    def load(self, i: int, j: int, out: Floats) -> None: ...


class Extremes(NamedTuple):
    """What Lanczos' method finds of the eigenvalues of A.

    least, largest : bounds: the least eigenvalue is at most `least`, the largest at least `largest`
    error : an eigenvalue is at most this far from `least`
    """

    least: float
    largest: float
    error: float


def explain_tiles(
    matrix: Matrix, store: FactorTiles, failure: PivotError
) -> NotPositiveDefiniteError:
    """Return the error for a matrix whose factorisation has failed.

    store : the tiles of L that were finished
    """
    grid, row, shift = store.grid, failure.row, math.ldexp(matrix.ridge, -matrix.exponent)
    if grid.rows <= DENSE:
        array = _whole(matrix, grid, store.dtype)
        np.fill_diagonal(array, matrix.diagonal - shift)
        return explain(Packed(array, shift), row, matrix.exponent, "gram", margin=2)
    with blas_threads(1):
        pivot, vector = _witness(store, failure)
        found = _lanczos(lambda x: _product(matrix, grid, store.dtype, x), vector)
        pair = _equal_rows(matrix, grid, store.dtype)

    def shown(value: float) -> float:
        return math.ldexp(value, matrix.exponent)

    least = shown(found.least - shift)
    needed = max(shift - found.least + found.error, 0.0)
    largest = max(found.largest - shift, shift - found.least, float(matrix.diagonal.max()) - shift)
    limits = np.finfo(store.dtype)
    excess = max(MARGIN * float(limits.eps) * largest, float(limits.tiny))
    ridge = round_up(shown(needed + excess))
    mean = shown(float(matrix.diagonal.mean()) - shift)
    relative = f" ({round_up(ridge / mean):.2g} of the mean of the diagonal)" if mean > 0 else ""
    added = f" with a ridge of {matrix.ridge:.2g}" if matrix.ridge else ""
    equal = f"; rows {pair[0]} and {pair[1]} are equal" if pair else ""
    rounding = abs(found.least - shift) <= float(np.finfo(float).eps) * found.largest
    bound = "0, but for rounding" if rounding else f"{least:.2g}"
    error = NotPositiveDefiniteError(
        f"gram{added} is not positive definite in {store.dtype}: its factorisation fails "
        f"at row {row} (counted from 0), where the pivot is {shown(pivot):.2g}{equal}. Without a "
        f"ridge its least eigenvalue is at most {bound}. An absolute ridge of {ridge:.2g}"
        f"{relative} should be enough; that is an estimate, from {STEPS} products with the matrix"
        + ("; or compute it in float64" if store.dtype == np.float32 else "")
    )
    error.row, error.least_eigenvalue, error.least_ridge = row, least, ridge
    error.equal = pair
    return error


def _whole(matrix: Matrix, grid: Grid, dtype: np.dtype) -> Floats:
    """Return A, of few rows, as an array."""
    edge = grid.tile
    array = np.empty((grid.down * edge, grid.down * edge), dtype)
    tile = np.empty((edge, edge), dtype)
    for i in range(grid.down):
        for j in range(i + 1):
            matrix.load(i, j, tile)
            down, across = (slice(k * edge, (k + 1) * edge) for k in (i, j))
            array[down, across], array[across, down] = tile, tile.T
    return np.ascontiguousarray(array[: grid.rows, : grid.rows])


def _witness(store: FactorTiles, failure: PivotError) -> tuple[float, Vector]:
    """Return the pivot that fails, and the vector v that proves that A is not positive definite."""
    grid, edge = store.grid, store.grid.tile
    last, size = divmod(failure.row, edge)
    inner = np.linalg.cholesky(failure.tile[:size, :size].astype(float))
    # the parts of the row that fails, and of the solution of L v = l by substitution from below
    own = failure.tile[size, :size].astype(float)
    part = scipy.linalg.solve_triangular(inner, own, lower=True) if size else own
    pivot = float(failure.tile[size, size]) - float(part @ part)
    vector = np.zeros(grid.down * edge)
    start = last * edge
    if size:
        vector[start : start + size] = scipy.linalg.solve_triangular(
            inner, part, lower=True, trans="T"
        )
    tile = np.empty((edge, edge), store.dtype)
    rest = np.zeros(start)
    for k in range(last):
        store.read(last, k, tile)
        across = slice(k * edge, (k + 1) * edge)
        rest[across] = tile[size] - vector[start : start + size] @ tile[:size]
    for i in reversed(range(last)):
        down = slice(i * edge, (i + 1) * edge)
        store.read(i, i, tile)
        vector[down] = scipy.linalg.solve_triangular(
            tile.astype(float), rest[down], lower=True, trans="T"
        )
        for k in range(i):
            store.read(i, k, tile)
            rest[k * edge : (k + 1) * edge] -= vector[down] @ tile
        stopping.check()
    vector *= -1
    vector[failure.row] = 1
    return pivot, vector[: grid.rows]


def _product(matrix: Matrix, grid: Grid, dtype: np.dtype, vector: Vector) -> Vector:
    """Return A @ vector, in one pass over the tiles, in an order that threads do not change."""
    edge = grid.tile
    x = np.zeros((grid.down, edge))
    x.reshape(-1)[: grid.rows] = vector
    total = np.zeros_like(x)

    def part(place: tuple[int, int]) -> tuple[Vector, Vector]:
        i, j = place
        tile = np.empty((edge, edge), dtype)
        matrix.load(i, j, tile)
        return tile @ x[j], x[i] @ tile

    for i in range(grid.down):
        stopping.check()
        with ThreadPoolExecutor(THREADS, "reader") as pool:
            parts = pool.map(part, [(i, j) for j in range(i + 1)])
            for j, (down, across) in enumerate(parts):
                total[i] += down
                if i != j:
                    total[j] += across
    return total.reshape(-1)[: grid.rows]


def _lanczos(multiply: Callable[[Vector], Vector], vector: Vector) -> Extremes:
    """Return what Lanczos' method finds from a vector, with all vectors kept orthogonal."""
    size = len(vector)
    norm = float(np.linalg.norm(vector))
    if not 0 < norm < math.inf:
        vector = start_vector(size)
        norm = float(np.linalg.norm(vector))
    basis = [vector / norm]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(STEPS):
        new = multiply(basis[-1])
        diagonal.append(float(basis[-1] @ new))
        new = _orthogonal(new, basis)
        beside.append(float(np.linalg.norm(new)))
        if beside[-1] <= np.finfo(float).eps * max(map(abs, diagonal)):
            # the space is invariant, and may lack the largest eigenvalue: go on outside of it
            if len(basis) == size:
                break
            other = np.random.default_rng(len(basis)).standard_normal(size)  # another each time
            new, beside[-1] = _orthogonal(other, basis), 0.0
        basis.append(new / np.linalg.norm(new))
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
    return Extremes(float(values[0]), float(values[-1]), abs(beside[-1] * float(vectors[-1, 0])))


def _orthogonal(vector: Vector, basis: list[Vector]) -> Vector:
    """Return the part of a vector that is orthogonal to some orthonormal ones."""
    for _ in range(2):  # once leaves rounding errors
        for old in basis:
            vector = vector - (old @ vector) * old
    return vector


def _equal_rows(matrix: Matrix, grid: Grid, dtype: np.dtype) -> tuple[int, int] | None:
    """Return the first pair of rows of K that are exactly equal, or None.

    Each row has a sum of digests of its parts, which are found in one pass over the tiles.
    """
    edge, size = grid.tile, grid.rows
    sums = [0] * size
    tile = np.empty((edge, edge), dtype)

    def add(rows: int, columns: int, block: Floats) -> None:
        for k, part in enumerate(np.ascontiguousarray(block[: grid.height(rows)])):
            sums[rows * edge + k] += xxh3_128_intdigest(part.data, columns)

    def load(i: int, j: int) -> None:
        matrix.load(i, j, tile)
        if i == j:  # the ridge is no part of K
            own = np.diagonal(tile) - math.ldexp(matrix.ridge, -matrix.exponent)
            np.fill_diagonal(tile, own)
        np.add(tile, 0.0, out=tile)  # −0.0 equals 0.0

    for i in range(grid.down):
        stopping.check()
        for j in range(i + 1):
            load(i, j)
            add(i, j, tile)
            if i != j:
                add(j, i, tile.T)

    def entries(row: int) -> Floats:
        i, k = divmod(row, edge)
        parts = []
        for j in range(grid.down):
            load(max(i, j), min(i, j))
            parts.append((tile[k] if j <= i else tile[:, k]).copy())
        return np.concatenate(parts)

    seen: dict[int, int] = {}
    for row, value in enumerate(sums):
        first = seen.setdefault(value, row)
        if first != row and np.array_equal(entries(first), entries(row)):
            return first, row
    return None
