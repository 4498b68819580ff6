"""A kernel matrix that a caller gives: an array, a `Gram`, a Gram file or its path."""

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KERNELS, KernelName, one_of, parse_bytes, show_bytes
from ntk_numba.compute.pair import Gram
from ntk_numba.errors import InvalidTypeError, InvalidValueError, TooLargeError
from ntk_numba.gramfile.products import MatrixOfFile
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.inputs.arrays import bad_entry, file_of
from ntk_numba.inputs.containers import read_array
from ntk_numba.machine import available_memory

Floats = NDArray[np.floating]

BLOCK = 512  # rows that are converted to float64 at a time
SQUARE = 512  # the edge of the blocks that are compared with their mirror images
# How far an entry of a matrix may differ from its mirror image, relative to √(K_ii K_jj)
ASYMMETRY = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-5}


class Found(NamedTuple):
    """A square matrix that a caller gives, before its entries are read.

    name : its name, for errors
    rows : an array, or the entries of a Gram file; of several layers, their last one is meant
    stored : its tiles, if it is in a Gram file
    opened : the Gram file, if it was opened for this and has to be closed
    """

    name: str
    rows: Any
    stored: MatrixOfFile | None = None
    opened: GramFile | None = None

    @property
    def layer(self) -> Any:
        """The index that gives the last layer."""
        return -1 if len(self.rows.shape) == 3 else ...

    def close(self) -> None:
        """Close the file, if it was opened for this."""
        if self.opened:
            self.opened.close()


def find_matrix(gram: Any, kernel: KernelName | None = None, *, name: str = "gram") -> Found:
    """Find the matrix that a caller gives, see `open_matrix`; an array is not copied.

    Raises
    ------
    ValueError, TypeError, OSError
        If there is no such matrix, or it is not square.
    """
    if isinstance(gram, str | os.PathLike):
        file = open_gram(Path(gram))
        try:
            return find_matrix(file, kernel, name=name)._replace(opened=file)
        except BaseException:
            file.close()
            raise
    if kernel is not None:
        one_of("kernel", kernel, ("ntk", "nngp"))
    rows, stored, layers = gram, None, isinstance(gram, Gram | GramFile)
    if isinstance(gram, Gram | GramFile):
        held = [k for k in KERNELS if getattr(gram, k) is not None]
        if kernel is None:
            if len(held) != 1:
                raise InvalidValueError(
                    f"{name} has two kernels; choose one: kernel='ntk' or 'nngp'"
                )
            kernel = held[0]
        elif kernel not in held:
            raise InvalidValueError(f"{name} has no {kernel}, only {', '.join(held) or 'None'}")
        name, rows = f"{name}.{kernel}", getattr(gram, kernel)
        if isinstance(gram, GramFile):
            stored = gram.stored(kernel)
    if stored is None:
        rows = read_array(rows, name)
    shape = rows.shape[1:] if layers and len(rows.shape) == 3 else rows.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise InvalidValueError(f"{name} must be a square matrix, not {tuple(shape)}")
    return Found(name, rows, stored)


def open_matrix(
    gram: Any,
    kernel: KernelName | None = None,
    *,
    name: str = "gram",
    memory: int | str | None = None,
    working: int = 0,
    remedy: str = "",
) -> Floats:
    """Return a symmetric and finite matrix as a new C-contiguous array, float64 or float32.

    Parameters
    ----------
    gram : (N, N) array, Gram, GramFile or path
        Of a matrix with several layers, the last one is taken.
    kernel : "nngp" or "ntk"
        The kernel to take, if there are two.
    name : str
        The name of the argument, for errors.
    memory, working, remedy : see `refuse_large`

    Raises
    ------
    ValueError, TypeError, OSError
        If there is no such matrix, it is no symmetric matrix of finite real numbers, or it is too
        large.
    """
    found = find_matrix(gram, kernel, name=name)
    try:
        size, dtype = found.rows.shape[-1], np.dtype(found.rows.dtype)
        refuse_large(size, dtype, memory, working, remedy=remedy)
        matrix = np.array(found.rows[found.layer], order="C")
    finally:
        found.close()
    check_matrix(matrix, found.name)
    return matrix


def bytes_of(size: int, dtype: np.dtype, working: int = 0, matrices: int = 1) -> int:
    """Return the bytes that the matrices of a job take, see `refuse_large`."""
    return (matrices * dtype.itemsize + working) * size * size


def fits(
    size: int, dtype: np.dtype, memory: int | str | None, working: int = 0, matrices: int = 1
) -> bool:
    """Return whether the matrices of a job fit in memory, see `refuse_large`."""
    free = available_memory() if memory is None else parse_bytes(memory, "memory")
    return bytes_of(size, dtype, working, matrices) <= free


def refuse_large(
    size: int,
    dtype: np.dtype,
    memory: int | str | None,
    working: int = 0,
    matrices: int = 1,
    remedy: str = "",
) -> int:
    """Return the bytes that a job may take, if its matrices of N = `size` fit in them.

    Parameters
    ----------
    memory : int or str, optional
        The most memory that they may take; by default all that is available.
    working : int
        Further bytes that the job takes for each pair of samples.
    matrices : int
        The number of matrices of this dtype.
    remedy : str
        What the error advises first, if there is more than to take less.

    Raises
    ------
    TooLargeError
        A ValueError: they do not fit.
    """
    free = available_memory() if memory is None else parse_bytes(memory, "memory")
    needed = bytes_of(size, dtype, working, matrices)
    if needed > free:
        held = "that are available" if memory is None else f"of memory={memory!r}"
        raise TooLargeError(
            f"{size:,} samples take {show_bytes(needed)} in memory, more than the "
            f"{show_bytes(free)} {held}; {remedy}{', or ' if remedy else ''}take fewer samples"
            + (" or dtype='float32'" if dtype == np.float64 else "")
        )
    return free


def refuse_other_kernel(operator: Any, kernel: KernelName | None, name: str) -> None:
    """Raise an error if an operator is known to be of another kernel than the one to take."""
    if kernel is not None:
        one_of("kernel", kernel, KERNELS)
        own = getattr(operator, "kernel", "")
        if own and own != kernel:
            raise InvalidValueError(f"{name} is an operator of {own}, not of {kernel}")


def paths_of(array: Any) -> list[Path]:
    """Return the file of an HDF5 dataset, a memory map, or a view of one; none for others."""
    while array is not None:
        if file := file_of(array):
            return [file]
        array = array.base if isinstance(array, np.ndarray) else None
    return []


def check_matrix(matrix: Floats, name: str) -> None:
    """Raise an error that names an entry, if the matrix is not finite and symmetric.

    It is read by square blocks, since it may be a map of a file larger than memory.
    """
    if matrix.dtype not in ASYMMETRY:
        raise InvalidTypeError(f"{name} must be float64 or float32, not {matrix.dtype}")
    for start, stop in blocks(len(matrix)):
        rows = matrix[start:stop]
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            what = f"is {rows[row, column]}; a kernel is finite"
            raise bad_entry(name, (start + int(row), int(column)), what)
    scale = np.sqrt(np.abs(np.diagonal(matrix)))
    allowed = ASYMMETRY[matrix.dtype]
    edge, starts = SQUARE, range(0, len(matrix), SQUARE)
    for a, b in product(starts, starts):
        if b > a:
            continue
        lower = matrix[a : a + edge, b : b + edge]
        upper = matrix[b : b + edge, a : a + edge].T
        limit = allowed * scale[a : a + edge, None] * scale[b : b + edge]
        if (wrong := np.abs(lower - upper) > limit).any():
            row, column = np.argwhere(wrong)[0]
            raise InvalidValueError(
                f"{name} is not symmetric: row {a + row}, column {b + column} (counted from 0) is "
                f"{lower[row, column]:.8g}, and its mirror image is {upper[row, column]:.8g}; if "
                f"that is rounding, give (K + K.T)/2"
            )


def blocks(size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of runs of BLOCK rows."""
    for start in range(0, size, BLOCK):
        yield start, min(start + BLOCK, size)


def read_columns(Y: Any, size: int, matrix: str) -> tuple[NDArray[np.float64], bool]:
    """Return right-hand sides as finite columns (N, K), and whether they have the shape (N,).

    matrix : the name of the matrix of N = `size` rows, for errors
    """
    ready = type(Y) is np.ndarray and Y.dtype == np.float64  # in any order of memory
    array = Y if ready else read_array(Y, "Y").astype(float, copy=False)
    if array.ndim not in (1, 2):
        raise InvalidValueError(f"Y must be (N,) or (N, K), not {array.shape}")
    if len(array) != size:
        raise InvalidValueError(f"Y must have {size} rows, as {matrix}, not {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InvalidValueError(f"Y: row {row} (counted from 0) is not finite")
    flat = array.ndim == 1
    return (array[:, None] if flat else array), flat
