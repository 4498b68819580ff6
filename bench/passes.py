"""A product of a matrix with K columns, from a file and without storing it.

From a file, it is compared with reading the bytes of the file plainly:

- Reading: as many bytes of the same file by a plain program, on 1, 2 or 4 threads, whichever is
  fastest, past the page cache or from it.
- Multiplying: the same products of the tiles, all of which are in memory.

A pass past the page cache reads and multiplies at the same time, so its limit is the larger of the
two; from the cache both take the cores, so its limit is their sum.

Without storing the matrix, it is compared with `gram` into an array in memory and a product of that
array by BLAS, in the dtype of the array.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import ntk_numba as nk
from bench.report import ratio, section, spread, table
from bench.timing import in_turn
from ntk_numba.compiled.arrays import aligned
from ntk_numba.gramfile.products import MatrixOfFile
from ntk_numba.gramfile.tile_products import Kept
from ntk_numba.gramfile.tiles import TileFile
from ntk_numba.sums import Sums, balanced

N, FEATURES, DEPTH, B_STD, REPEATS = 16_000, 64, 4, 0.1, 5
COLUMNS = 1, 10, 100
DTYPES, COMPUTED_FEATURES = ("float64", "float32"), (64, 784)
BLOCK = 2 << 20
READERS = 1, 2, 4


def reading(tiles: TileFile, size: int, threads: int) -> Callable[[], object]:
    """Return a function that reads `size` bytes of the tiles of a file, in blocks."""
    fd, first = tiles._fd, tiles.tile_map.tile_at("ntk", 0, 0, 0)
    own = threading.local()

    def read(at: int) -> None:
        if not hasattr(own, "block"):
            own.block = aligned((BLOCK,), np.uint8)
        os.preadv(fd, [memoryview(own.block)[: min(BLOCK, first + size - at)]], at)

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, range(first, first + size, BLOCK)))

    return run


def multiplying(matrix: MatrixOfFile, held: Kept, columns: np.ndarray) -> Callable[[], object]:
    """Return a function that multiplies the tiles of a matrix, which are all held in memory."""
    rows, weights = matrix.bounds

    def run() -> None:
        scaled, _ = balanced(columns, weights)
        sums = Sums(rows, np.ones(columns.shape[1]))
        matrix._add(scaled, sums, matrix.places, None, dict(held))
        sums.result()

    return run


def rows(n: int, dtype: str, folder: Path) -> list[list[str]]:
    """Return the rows of one dtype."""
    path = folder / f"{dtype}.h5"
    x = np.random.default_rng(0).standard_normal((n, FEATURES)).astype(dtype)
    net = nk.MLP(DEPTH, b_std=B_STD)
    found = []
    with nk.write_gram(net, x, path, kernels="ntk", layout="lower") as file:
        matrix = file.stored("ntk")
        size = file.contents.output_bytes
        held = {(i, j): matrix.read(i, j, matrix.buffer()) for i, j in matrix.places.tolist()}
        right = np.random.default_rng(1).standard_normal((n, max(COLUMNS)))
        for direct in (True, False):
            matrix.direct = direct
            with file.tiles(direct=direct) as tiles:
                if direct:
                    tiles.forget()
                works = {f"reading {t}": reading(tiles, size, t) for t in READERS}
                for k in COLUMNS:
                    columns = right[:, :k]
                    works[f"pass {k}"] = lambda columns=columns: matrix.multiply(columns)
                    works[f"multiplying {k}"] = multiplying(matrix, held, columns)
                times = {name: np.array(t) for name, t in in_turn(works, REPEATS).items()}
            plain = min((times[f"reading {t}"] for t in READERS), key=np.min)
            for k in COLUMNS:
                work, product = times[f"pass {k}"], times[f"multiplying {k}"]
                limit = np.maximum(plain, product) if direct else plain + product
                found.append([
                    dtype, "disk" if direct else "page cache", f"{k}", spread(work),
                    spread(plain), f"{size / min(plain) / 1e9:.2f} GB/s", spread(product),
                    ratio(work, plain), ratio(work, limit),
                ])  # fmt: skip
    path.unlink()
    return found


def computed_rows(n: int, features: int, dtype: str) -> list[list[str]]:
    """Return the rows of products that compute the matrix, for one n0 and one dtype."""
    net = nk.MLP(DEPTH, b_std=B_STD)
    x = np.random.default_rng(0).standard_normal((n, features)).astype(dtype)
    own, out = nk.kernel_operator(net, x), nk.gram(net, x, kernels="ntk")
    right = np.random.default_rng(1).standard_normal((n, max(COLUMNS)))
    works: dict[str, Callable[[], object]] = {
        "gram": lambda: nk.gram(net, x, kernels="ntk", out=out)
    }
    for k in COLUMNS:
        columns = right[:, :k].copy()
        same = columns.astype(dtype)
        works[f"pass {k}"] = lambda columns=columns: own @ columns
        works[f"multiplying {k}"] = lambda same=same: out.ntk @ same
    times = {name: np.array(t) for name, t in in_turn(works, REPEATS).items()}
    return [
        [
            f"{features}", dtype, f"{k}", spread(times[f"pass {k}"]), spread(times["gram"]),
            spread(times[f"multiplying {k}"]),
            ratio(times[f"pass {k}"], times["gram"] + times[f"multiplying {k}"]),
        ]
        for k in COLUMNS
    ]  # fmt: skip


def main(n: int = N, folder: Path = Path()) -> str:
    """Return the section `operator`, for N = `n`, with files in `folder`."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as name:
        stored = [row for dtype in DTYPES for row in rows(n, dtype, Path(name))]
    computed = [
        row
        for features in COMPUTED_FEATURES
        for dtype in DTYPES
        for row in computed_rows(n, features, dtype)
    ]
    return section(
        "operator",
        f"Θ of {n:,} samples times K columns, by one pass over a file of the layout lower; seconds "
        f"of {REPEATS} rounds. Reading is a plain program's, multiplying that of tiles in memory. "
        f"The limit is the larger of both from the disk, and their sum from the page cache.",
        table(
            ["dtype", "from", "K", "pass", "reading", "rate", "multiplying", "pass : reading",
             "pass : limit"],
            stored,
        ),
        "The same without storing the matrix, against `gram` in memory and multiplying its result; "
        "seconds, and the ratio of the pass to the sum of both:",
        table(
            ["n0", "dtype", "K", "pass", "gram", "multiplying", "pass : sum"],
            computed,
        ),
    )  # fmt: skip
