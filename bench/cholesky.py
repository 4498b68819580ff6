"""The Cholesky factor of a stored matrix, with a tenth of it in memory, against LAPACK in memory.

- LAPACK: `potrf` on a copy of the whole matrix in memory, on the same number of threads.
- Ours: `ntk_numba.cholesky` from a Gram file into a file, with memory for a tenth of the matrix,
  from opening the one to closing the other, everything synced.

The residual of a solution shows that both have factorised the same matrix.
"""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.linalg import lapack

import ntk_numba as nk
from bench.report import section, table
from bench.timing import refresh_memory, seconds
from ntk_numba.blas import blas_threads
from ntk_numba.factors import blocked
from ntk_numba.factors.factor_tiles import StoredTiles
from ntk_numba.gramfile import tiles as tile_files
from ntk_numba.machine import available_threads

SIZES, FEATURES, REPEATS = (10_000, 16_000), 64, 3
# Rows up to which OpenBLAS's potrf is safe on two threads, see `factors.blocked`
SAFE = {"float64": 15_000, "float32": 30_000}
SHARE = 0.1  # of the matrix that is in memory
RIDGE = 1e-6  # of the mean of the diagonal
SMALL = 1_000  # rows of a matrix that is factorised first
SETTLE = 3  # seconds in which the disk completes postponed work


class Counted(AbstractContextManager["Counted"]):
    """A context that counts the tiles of factors that are read, and the time of checksums.

    Attributes
    ----------
    read, written : int
        Tiles.
    hashing : float
        Seconds of CPU time, of all threads.
    """

    def __enter__(self) -> Self:
        self.read = self.written = 0
        self.hashing = 0.0
        self._before: list[tuple[Any, str, Any]] = []

        def hashed(work: Callable[..., Any], *arguments: Any) -> Any:
            start = time.thread_time()
            found = work(*arguments)
            self.hashing += time.thread_time() - start
            return found

        def counted(name: str) -> Callable[..., Any]:
            def call(work: Callable[..., Any], *arguments: Any) -> Any:
                setattr(self, name, getattr(self, name) + 1)
                return work(*arguments)

            return call

        self._replace(tile_files, "checksum", hashed)
        self._replace(StoredTiles, "read", counted("read"))
        self._replace(StoredTiles, "write", counted("written"))
        return self

    def _replace(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        """Replace a function by one that passes it on to `call`."""
        work = getattr(owner, name)
        self._before.append((owner, name, work))
        setattr(owner, name, lambda *arguments: call(work, *arguments))

    def __exit__(self, *error: object) -> None:
        for owner, name, work in self._before:
            setattr(owner, name, work)


def in_memory(matrix: np.ndarray, threads: int) -> float:
    """Return the seconds that LAPACK takes, which overwrites the upper triangle.

    Where OpenBLAS's potrf on several threads ends the process, its algorithm is called by blocks.
    """
    factorise = lapack.dpotrf if matrix.dtype == np.float64 else lapack.spotrf
    with blas_threads(threads):
        start = time.perf_counter()
        if len(matrix) > SAFE[matrix.dtype.name]:
            info = blocked.factorise(matrix, threads)
        else:
            _, info = factorise(matrix.T, lower=1, clean=0, overwrite_a=1)
        taken = time.perf_counter() - start
    if info:
        raise RuntimeError("the matrix is not positive definite")
    return taken


def row(n: int, dtype: str, folder: Path) -> list[str]:
    """Return the row of one size and dtype."""
    gram, output, threads = folder / "gram.h5", folder / "factor.h5", available_threads()
    small, warm = folder / "small.h5", folder / "warm.h5"
    x = np.random.default_rng(0).standard_normal((n, FEATURES)).astype(dtype)
    net = nk.MLP(4, b_std=0.1)
    nk.write_gram(net, x[:SMALL], small, kernels="ntk", layout="lower", overwrite=True).close()
    with nk.write_gram(net, x, gram, kernels="ntk", layout="lower", overwrite=True) as file:
        matrix = np.array(file.ntk[:])
    ridge = RIDGE * float(np.diagonal(matrix).mean())
    limit = int(SHARE * matrix.nbytes)
    lapack_times, times, shares = [], [], []
    tiles = 0

    def ours() -> None:
        nk.cholesky(gram, output, ridge=ridge, memory=limit, threads=threads).close()

    for _ in range(REPEATS):
        copy = matrix.copy()
        np.fill_diagonal(copy, np.diagonal(matrix) + ridge)
        lapack_times.append(in_memory(copy, threads))
        del copy
        output.unlink(missing_ok=True)
        os.sync()
        time.sleep(SETTLE)
        # the code of a process that has slept may have left memory, and all caches
        warm.unlink(missing_ok=True)
        nk.cholesky(small, warm, ridge=ridge, threads=threads).close()
        refresh_memory(limit)
        with Counted() as counts:
            before = time.process_time()
            times.append(seconds(ours))
            shares.append(counts.hashing / (time.process_time() - before))
        tiles = counts.written
    y = np.random.default_rng(1).standard_normal(n)
    with nk.open_cholesky(output, threads=threads) as factor:
        solution = factor.solve(y)
        solving = seconds(lambda: factor.solve(y))
    error = np.linalg.norm(y - matrix.astype(float) @ solution - ridge * solution)
    output.unlink()
    ratios = np.divide(times, lapack_times)
    return [
        f"{n:,}",
        dtype,
        " ".join(f"{t:.2f}" for t in lapack_times),
        " ".join(f"{t:.2f}" for t in times),
        f"{min(times) / min(lapack_times):.2f} ({np.median(ratios):.2f})",
        f"{counts.read / tiles:.2f}",
        f"{counts.written / tiles:.2f}",
        f"{100 * max(shares):.1f} %",
        f"{solving:.2f}",
        f"{error / np.linalg.norm(y):.0e}",
    ]


def main(n: int | None = None, folder: Path = Path()) -> str:
    """Return the section `cholesky`, for N = `n` if given, with files in `folder`."""
    sizes = SIZES if n is None else (n,)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as name:
        rows = [row(size, dtype, Path(name)) for size in sizes for dtype in ("float64", "float32")]
    return section(
        "cholesky",
        f"Θ of N samples, n0 = {FEATURES}, L = 4, ReLU, β = 0.1, ridge {RIDGE:g} of the mean "
        f"diagonal: seconds of each of {REPEATS} rounds on {available_threads()} threads, by "
        f"LAPACK in memory (by blocks in float64 from {SAFE['float64']:,} rows, where its own "
        f"ends the process), and from a Gram file into a file with memory for a tenth of the "
        f"matrix; ratio of the minima (median of the rounds'); lower triangles of the factor that "
        f"are read and written; checksums' share of the CPU time; a solution for one right-hand "
        f"side, from the file, and its residual without refinement",
        table(
            ["N", "dtype", "LAPACK", "from file to file", "ratio", "read", "written", "checksums",
             "solve", "residual"],
            rows,
        ),
    )  # fmt: skip
