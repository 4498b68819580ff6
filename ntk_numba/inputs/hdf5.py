"""Reader of data in HDF5 files."""

from pathlib import Path

import h5py

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.arrays import Opened, pick


def open_hdf5(path: Path, key: str) -> Opened:
    """Open a dataset of an HDF5 file; its rows are read when needed.

    Raises
    ------
    ValueError
        If the file is not HDF5 or is truncated, or if it lacks the key.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidValueError(
            f"{path} is no valid HDF5 file, perhaps truncated ({error})"
        ) from None
    datasets: list[str] = []
    file.visititems(
        lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None
    )
    chosen = pick(path, key.strip("/"), datasets)
    return Opened(file[chosen], chosen)
