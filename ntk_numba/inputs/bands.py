"""Rows of compressed HDF5 datasets, read in bands of whole chunks.

HDF5 reads a compressed chunk as a whole, and again for each run of rows that touches it. A band is
the rows of one row of chunks. It is unpacked once and kept, so that runs of rows cost what they
should, and its size is known, and refused, before anything is read.
"""

import math
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import show_bytes
from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.chunks import Chunks

SMALL_BAND = 2 << 20  # bytes; the runs of rows that are read are as large, and unpack few chunks
UNPACKING = 2  # copies of a chunk that HDF5 has in memory while it unpacks it


class Bands(Chunks):
    """The rows, or the columns as rows, of a compressed dataset.

    Attributes
    ----------
    dataset : h5py.Dataset
    held : int
        The bytes that are in memory at a time.
    """

    def __init__(self, dataset: h5py.Dataset, *, transposed: bool) -> None:
        self.dataset = dataset
        shape, chunk = dataset.shape, dataset.chunks
        if transposed:
            shape, chunk = shape[::-1], chunk[::-1]

        def load(start: int, stop: int) -> NDArray[Any]:
            return np.ascontiguousarray(
                dataset[:, start:stop].T if transposed else dataset[start:stop]
            )

        ends = [min(end, shape[0]) for end in range(chunk[0], shape[0] + chunk[0], chunk[0])]
        super().__init__(shape, dataset.dtype, ends, load)
        self.held = (2 if transposed else 1) * self.nbytes + _unpacking(dataset)


def in_bands(rows: Any, name: str, most: int, *, transposed: bool = False) -> tuple[Any, int]:
    """Return rows of a dataset, in bands if that is needed, and the bytes that they hold.

    Parameters
    ----------
    rows : any rows of `arrays.Opened`; those that are no compressed matrix are returned as they are
    name : the name of the dataset, for errors
    most : the bytes that may be in memory
    transposed : whether the columns of the dataset are the rows

    Raises
    ------
    ValueError
        If a band takes more than `most` bytes.
    """
    if not isinstance(rows, h5py.Dataset) or rows.ndim != 2 or not rows.chunks or not rows.size:
        return rows, 0
    if not rows.id.get_create_plist().get_nfilters():
        return rows, 0
    bands = Bands(rows, transposed=transposed)
    _refuse_larger(bands.held, rows, name, most)
    return (rows, 0) if bands.held <= SMALL_BAND else (bands, bands.held)


def refuse_large_chunks(dataset: h5py.Dataset, name: str, most: int) -> None:
    """Raise InvalidValueError if a compressed chunk takes more than `most` bytes to unpack.

    A chunk may be far larger than its dataset, which can grow.
    """
    if dataset.chunks and dataset.id.get_create_plist().get_nfilters():
        _refuse_larger(_unpacking(dataset), dataset, name, most)


def _unpacking(dataset: h5py.Dataset) -> int:
    """Return the bytes that HDF5 takes while it unpacks a chunk."""
    return int(UNPACKING * math.prod(dataset.chunks) * dataset.dtype.itemsize)


def _refuse_larger(size: int, dataset: h5py.Dataset, name: str, most: int) -> None:
    """Raise InvalidValueError if reading a compressed dataset takes more than `most` bytes."""
    if size > most:
        better = [min(n, 4096 if dataset.ndim == 1 else 64) for n in dataset.shape]
        raise InvalidValueError(
            f"{name} is compressed in chunks of {' × '.join(map(str, dataset.chunks))}, so that "
            f"reading it takes {show_bytes(size)} of memory, more than {show_bytes(most)}; store "
            f"it in smaller chunks, h5repack -l {dataset.name.strip('/')}:CHUNK="
            f"{'x'.join(map(str, better))}"
        )
