"""The choice of a method that solves a linear system, and the memory that each takes."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ntk_numba.arguments import show_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.place import output_path, partial_of
from ntk_numba.operators.distributed import DistributedOperator
from ntk_numba.operators.operator import OtherOperator
from ntk_numba.solvers import block_krylov, nystrom_pcg
from ntk_numba.solvers.checkpoint import problem_of
from ntk_numba.solvers.systems import Systems

Method = Literal["auto", "cholesky", "block_krylov", "nystrom_pcg"]
METHODS: tuple[Method, ...] = ("auto", "cholesky", "block_krylov", "nystrom_pcg")

# Passes of block_krylov to expect for each digit of the residual: 2 to 4 on ReLU kernels of up to
# 8,000 digits, whatever the ridge, and 11 on 60,000. Large eigenvalues grow with N, and small ones
# do not, so the passes grow as the root of their ratio.
PASSES, MODERATE = 4, 8000
SOLVING = 6  # vectors for each system, at most, of which a factorisation in memory makes use
PROBE = 1024  # rows of the matrices whose product is timed


def choose(
    gram: Any, systems: Systems, method: Method, path: str | os.PathLike[str] | None
) -> tuple[Method, str]:
    """Return the method to take, and why."""
    if method != "auto":
        return method, f"{method} was asked for"
    if path is not None and (problem := problem_of(path)) is not None:
        known = problem.get("method")
        if known in METHODS[1:]:
            return known, f"{path} is a checkpoint of {known}"
    elif path is not None and any(map(os.path.lexists, (path, partial_of(Path(path))))):
        return "cholesky", f"{path} is the file of a factor"
    size = len(systems.right)
    dense = 8 * size * size
    iteration: Method = "block_krylov"
    if needed_memory(systems, "block_krylov", path) > systems.limits.memory:
        iteration = "nystrom_pcg"
    if isinstance(systems.operator, DistributedOperator):
        return iteration, "the passes are computed in parts"
    if path is not None and len(systems.ridges) > 1:
        return iteration, f"the file of a factor has one ridge, and {len(systems.ridges)} are given"
    if path is not None and isinstance(systems.operator, OtherOperator):
        return iteration, "an operator of SciPy has no entries, of which a file of a factor is made"
    held = 2 if isinstance(systems.operator, OtherOperator) else 1  # see `direct`
    vectors = 8 * size * SOLVING * len(systems.shift)
    if held * dense + vectors <= systems.limits.memory:
        return "cholesky", f"the matrix takes {show_bytes(dense)} and fits in memory"
    if path is None:
        return iteration, (
            f"the matrix takes {show_bytes(dense)}, more than the "
            f"{show_bytes(systems.limits.memory)} of memory; its factor would need a path"
        )
    free = shutil.disk_usage(output_path(path).parent).free
    if dense / 2 > free:
        return iteration, (
            f"a factor takes {show_bytes(dense / 2)}, and its disk has {show_bytes(free)} free"
        )
    digits = math.log10(1 / systems.limits.tolerance)
    passes = math.ceil(PASSES * max(1, math.sqrt(size / MODERATE)) * digits)
    each = _seconds_of_pass(systems)
    factor = size**3 / 3 / _rate(systems.limits.threads) + each
    text = (
        f"about {passes} passes of {each:.2g} s are expected to take {passes * each:.2g} s, and a "
        f"factorisation {factor:.2g} s"
    )
    return ("cholesky" if factor < passes * each else iteration), text


def _seconds_of_pass(systems: Systems) -> float:
    """Return the time of a pass of `block_krylov`, measured."""
    size, columns = systems.right.shape
    width = block_krylov.width_of(size, columns)
    block = np.random.default_rng(0).standard_normal((size, width))
    start = time.perf_counter()
    systems.operator.matmat(block)
    return time.perf_counter() - start


def _rate(threads: int) -> float:
    """Return how many multiplications and additions BLAS makes in a second."""
    matrix = np.random.default_rng(0).standard_normal((PROBE, PROBE))
    best = math.inf
    with blas_threads(threads):
        for _ in range(3):
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
    return 2 * PROBE**3 / best


def needed_memory(systems: Systems, method: Method, path: str | os.PathLike[str] | None) -> int:
    """Return the bytes that the vectors of an iteration take."""
    size, columns = systems.right.shape
    pairs = len(systems.shift)
    if method == "nystrom_pcg":
        return nystrom_pcg.vector_bytes(size, pairs, systems.limits.threads)
    work = block_krylov.vector_bytes(size, columns, pairs, systems.limits.threads)
    return work + (block_krylov.basis_bytes(size, columns) if path is None else 0)


def check_memory(systems: Systems, method: str, path: str | os.PathLike[str] | None) -> None:
    """Raise an error if the vectors of an iteration do not fit in memory."""
    needed = needed_memory(systems, cast(Method, method), path)
    if needed > systems.limits.memory:
        krylov = method == "block_krylov"
        ways = ["give more memory"]
        ways += ["give a path, where most of them are kept"] if krylov and path is None else []
        ways += ["take fewer columns of Y at a time"]
        ways += ["choose method='nystrom_pcg'"] if krylov else []
        raise InvalidValueError(
            f"the vectors of {method} take up to {show_bytes(needed)}, more than the "
            f"{show_bytes(systems.limits.memory)} of memory; {', '.join(ways[:-1])} or {ways[-1]}"
        )
